import type { Peppers } from '../identity/pepper.ts';
import { isPostgresError, isUniqueViolation } from '../ledger/append.ts';
import { AdmissionUnavailableError } from './admission.ts';
import { admitBatch, type AddressBlocking, type AdmitRow, type Judged } from './admit-batch.ts';
import type { Asked } from './asked.ts';
import { judge, type Facts, type Validity } from './facts.ts';
import type { FactsCache, Known } from './facts-cache.ts';
import type { PipelinedConnection } from './pipelined-connection.ts';
import { toVerdicts, type Verdict } from './verdicts.ts';
import type { WakeGate } from './wake-gate.ts';

const SECOND_MS = 1000;
/** A second server's batch with the same request id, or a deadlock's victim: again, so often. */
const ATTEMPTS = 5;
/** Raised by `reserve_position` (migration 0011). */
const CAP_BEGUN = 'KL004';

/**
 * A request on its way with its facts: as they were in memory when so much was known, or, where that is null, read for it alone. `again`: others turned out to be
 * out of date.
 */
export type WaitingRequest = { readonly asked: Asked; readonly facts: Facts; readonly known: Known | null; readonly again: boolean };

/** One request's part of a batch: an error where it could not be decided, `stale` where its facts were not those of now. */
export type Outcome = Verdict | AdmissionUnavailableError | 'stale';

export type DecideBatchOptions = {
  readonly connection: Pick<PipelinedConnection, 'query'>;
  readonly facts: Pick<FactsCache, 'find' | 'known' | 'forget'>;
  readonly peppers: Peppers;
  readonly blocking: AddressBlocking;
  /** Tells the followers of the log what was recorded. */
  readonly gate: WakeGate;
  readonly onError: (error: Error) => void;
};

/** Makes what decides requests together, by one statement that consumes and records. What fails for one request's sake fails for that one alone. */
export function createDecideBatch(options: DecideBatchOptions): (batch: readonly WaitingRequest[]) => Promise<readonly Outcome[]> {
  const { connection, facts, peppers, blocking, gate, onError } = options;
  /** What the database's clock showed when it last told, and when that was by ours. */
  let told = { atMs: 0, heardMs: 0 };
  /** Of what was recorded last. */
  let newest = 0n;
  const secondNow = (): number => Math.floor((told.atMs + performance.now() - told.heardMs) / SECOND_MS);

  /** What was told to be out of date goes by itself: its facts were read for it, and those of others can't put it off once more. */
  async function decideBatch(batch: readonly WaitingRequest[]): Promise<readonly Outcome[]> {
    if (!batch.some(({ again }) => again)) return decideTogether(batch);
    const [once, again] = await Promise.all(
      [false, true].map((again) => decideTogether(batch.filter((waiting) => waiting.again === again))),
    );
    const rest = { once: once?.values(), again: again?.values() };
    return batch.map((waiting) => rest[waiting.again ? 'again' : 'once']?.next().value ?? 'stale');
  }

  async function decideTogether(batch: readonly WaitingRequest[]): Promise<readonly Outcome[]> {
    const outcomes: Outcome[] = batch.map(() => 'stale');
    const validity = { sinceUs: 0, untilUs: Number.MAX_SAFE_INTEGER };
    const places: number[] = [];
    const judged: Judged[] = [];
    // What is found now holds up to that point of the log which is known now.
    const known = facts.known();
    batch.forEach((waiting, place) => {
      const { asked } = waiting;
      const found = waiting.known === null || waiting.known === known ? waiting.facts : facts.find(asked);
      if (found === undefined) return;
      places.push(place);
      judged.push({ asked, facts: found, judgement: judge(found, asked, peppers.current.id, told.atMs * 1000, validity) });
    });
    if (judged.length === 0) return outcomes;
    const decided = await admit(judged, known, validity).catch(unavailableFor(judged));
    decided.forEach((outcome, index) => (outcomes[places[index] ?? 0] = outcome));
    return outcomes;
  }

  async function admit(batch: readonly Judged[], known: Known, validity: Validity): Promise<readonly Outcome[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        const waking = gate.open();
        const query = admitBatch(batch, { known, second: secondNow(), newest, validity, blocking, wake: waking.wake });
        const [row] = await connection.query<AdmitRow>(query);
        if (row === undefined) throw new Error('admit answered no row: the function of migration 0011 was changed.');
        told = { atMs: row.at.getTime(), heardMs: performance.now() };
        if (row.more !== null) {
          const { seen, seenId, revision, changed, stale } = row.more;
          facts.forget({ seen: BigInt(seen), seenId, revision: BigInt(revision), changed });
          if (stale) return batch.map(() => 'stale');
        }
        if (row.first_position !== null) {
          newest = row.first_position;
          waking.done();
        }
        return toVerdicts(batch, row);
      } catch (error) {
        if (!isPostgresError(error)) throw error;
        if (error.code === CAP_BEGUN) return batch.map(() => 'stale');
        const collided = ['40P01', '40001'].includes(error.code) || isUniqueViolation(error, 'usage_requests_pkey');
        if (collided && attempt < ATTEMPTS) continue;
        // 53*, 55*, 57*: the server is out of something, locked or going down. The rest would be a request that should not have come so far.
        if (/^(53|55|57|40)/.test(error.code))
          throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
        onError(error);
        if (batch.length > 1) return admitApart(batch, known, validity);
        throw new AdmissionUnavailableError('The verification failed; see the log of the server.', { retryAfterSeconds: 1, cause: error });
      }
    }
  }

  /** A statement that fails for one request's sake must not fail for its neighbours'. */
  async function admitApart(batch: readonly Judged[], known: Known, validity: Validity): Promise<readonly Outcome[]> {
    const half = Math.ceil(batch.length / 2);
    const halves = await Promise.all(
      [batch.slice(0, half), batch.slice(half)].map((part) => admit(part, known, validity).catch(unavailableFor(part))),
    );
    return halves.flat();
  }

  return decideBatch;
}

/** Turns the failure of a statement into that of each of its requests, so that it is none of any other statement's. */
function unavailableFor(batch: readonly unknown[]): (error: unknown) => readonly Outcome[] {
  return (error) => {
    if (error instanceof AdmissionUnavailableError) return batch.map(() => error);
    throw error;
  };
}
