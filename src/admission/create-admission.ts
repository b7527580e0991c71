import type pg from 'pg';

import { foreignHashOf } from '../domain/foreign-key.ts';
import { parseKey } from '../domain/key-format.ts';
import { codeNumber } from '../domain/usage.ts';
import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { fastVerifier, type Peppers } from '../identity/pepper.ts';
import { isPostgresError, isUniqueViolation } from '../ledger/append.ts';
import type { Database } from '../postgres/pool.ts';
import { AdmissionUnavailableError, type Admission, type CallerRefused, type VerifyAnswer } from './admission.ts';
import { ADDRESS_BLOCKING, admitBatch, type AddressBlocking, type AdmitRow, type Judged } from './admit-batch.ts';
import { createTurns } from '../lib/turns.ts';
import { repeatAnswer, toAnswer } from './answer.ts';
import type { Asked } from './asked.ts';
import { createBatcher } from './batcher.ts';
import { CALLER_FORBIDDEN, CALLER_UNAUTHENTICATED, judge, OTHER_PEPPER, REQUEST_ID_TAKEN, type Facts, type Validity } from './facts.ts';
import { createFactsCache, KEPT_BY_A_SERVER, type Known } from './facts-cache.ts';
import { loadFacts } from './load-facts.ts';
import { preloadFacts } from './preload-facts.ts';
import { openPipelinedConnection } from './pipelined-connection.ts';
import { createUsageRecorder } from './usage-recorder.ts';
import { createVerifierAdoption, type ReplaceVerifier } from './verifier-adoption.ts';
import { createVerifierRenewal } from './verifier-renewal.ts';
import { toVerdicts, type Verdict } from './verdicts.ts';
import { createWakeGate } from './wake-gate.ts';

const SECOND_MS = 1000;
/** A second server's batch with the same request id, or a deadlock's victim: again, so often. */
const ATTEMPTS = 5;
const WAKE_MS = 20;
/** Raised by `reserve_position` (migration 0011). */
const CAP_BEGUN = 'KL004';
const MAX_WAIT_MS = 5000;
/** Requests whose facts are read by one statement. */
const MAX_READ = 500;
/** Batches that a request may be part of until one is decided: it is taken up again where its facts were out of date. */
const MAX_TRIES = 10;
const MAX_RENEWALS = 10;
const INVALID_KEY = codeNumber('INVALID_KEY');

export type AdmissionOptions = {
  readonly database: Database;
  /** Of the verifications' own connection. */
  readonly connection: pg.ClientConfig;
  readonly peppers: Peppers;
  readonly argon2: Argon2Verifiers;
  /** Records the durable verifier that an imported secret was given. */
  readonly replaceVerifier: ReplaceVerifier;
  readonly onError: (error: Error) => void;
  readonly blocking?: AddressBlocking;
  readonly maxBatch?: number;
  readonly maxQueued?: number;
};

export type AdmissionGauges = { queued(): number; inFlight(): number; connected(): boolean };

/**
 * A request on its way with its facts: as they were in memory when so much was known, or, where that is null, read for it alone. `again`: others turned out to be
 * out of date.
 */
type Waiting = { readonly asked: Asked; readonly facts: Facts; readonly known: Known | null; readonly again: boolean };

/** One request's part of a batch: an error where it could not be decided, `stale` where its facts were not those of now. */
type Outcome = Verdict | AdmissionUnavailableError | 'stale';

/** The verifications of one server. */
export type ServingAdmission = Admission & {
  readonly gauges: AdmissionGauges;
  /** Reads ahead what decides about the keys that were used last. Never rejects. */
  preload(): Promise<void>;
};

/** The hot path. Each verification is decided, charged and recorded in the database, together with all others that arrived meanwhile. */
export function createAdmission(options: AdmissionOptions): ServingAdmission {
  const { database, peppers, onError, blocking = ADDRESS_BLOCKING, maxQueued = 10_000 } = options;
  const connection = openPipelinedConnection({
    // Planned once and never again: planning `admit` costs more than running it. Its estimates are of arrays, so JIT would be wrong each time. Nested loops
    // alone: by them rows are locked in the order of keys; a hash join takes them as they come, and then servers wait for each other in a circle.
    config: {
      ...options.connection,
      options: `${options.connection.options ?? ''} -c plan_cache_mode=force_generic_plan -c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off`,
    },
    onError,
    onConnect: () => facts.forgetAll(),
  });
  const gate = createWakeGate({
    intervalMs: WAKE_MS,
    wake: () => {
      // Where that fails, the followers' own polling finds what there is.
      connection.query({ text: "SELECT pg_notify('keyledger_log', '')" }).catch(() => undefined);
    },
  });
  const usage = createUsageRecorder({ db: database.kysely });
  const facts = createFactsCache({
    load: (wanted, sharing) => loadFacts((query) => connection.query(query), wanted, sharing),
    ...KEPT_BY_A_SERVER,
    maxRead: MAX_READ,
    maxQueued,
    maxWaitMs: MAX_WAIT_MS,
  });
  /** What the database's clock showed when it last told, and when that was by ours. */
  let told = { atMs: 0, heardMs: 0 };
  /** Of what was recorded last. */
  let newest = 0n;
  const secondNow = (): number => Math.floor((told.atMs + performance.now() - told.heardMs) / SECOND_MS);
  const renewal = createVerifierRenewal({ db: database.kysely, peppers, argon2: options.argon2 });
  const adoption = createVerifierAdoption({ db: database.kysely, argon2: options.argon2, replace: options.replaceVerifier, onError });
  const batcher = createBatcher<Waiting, Outcome>({
    run: decideBatch,
    maxInFlight: 2,
    maxBatch: options.maxBatch ?? 500,
    maxQueued,
    maxWaitMs: MAX_WAIT_MS,
  });

  /** What was told to be out of date goes by itself: its facts were read for it, and those of others can't put it off once more. */
  async function decideBatch(batch: readonly Waiting[]): Promise<readonly Outcome[]> {
    if (!batch.some(({ again }) => again)) return decideTogether(batch);
    const [once, again] = await Promise.all(
      [false, true].map((again) => decideTogether(batch.filter((waiting) => waiting.again === again))),
    );
    const rest = { once: once?.values(), again: again?.values() };
    return batch.map((waiting) => rest[waiting.again ? 'again' : 'once']?.next().value ?? 'stale');
  }

  async function decideTogether(batch: readonly Waiting[]): Promise<readonly Outcome[]> {
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

  /** A second request with an id that its caller chose waits for the first one's answer to be there to be repeated. */
  const turns = createTurns();

  function decide<Told>(asked: Asked, tell: (verdict: Verdict) => Told | Promise<Told>): Promise<Told> {
    const { caller, request } = asked;
    if (request.requestId === null) return decideOne(asked, tell);
    const asker = caller.kind === 'token' ? caller.tokenHash : caller.organizationId;
    return turns.take(`${asker} ${request.requestId}`, () => decideOne(asked, itself)).then(tell);
  }

  /** From memory at first; where that turns out to be out of date, by what is read for this request alone, which no later change can overtake. */
  function decideOne<Told>(asked: Asked, tell: (verdict: Verdict) => Told | Promise<Told>): Promise<Told> {
    const inMemory = facts.find(asked);
    if (inMemory === undefined) return decideByReading(asked, 1).then(tell);
    return batcher
      .add({ asked, facts: inMemory, known: facts.known(), again: false })
      .then((outcome) => (outcome === 'stale' ? decideByReading(asked, 2).then(tell) : tell(verdictOf(outcome))));
  }

  async function decideByReading(asked: Asked, firstTry: number): Promise<Verdict> {
    for (let tries = firstTry; tries <= MAX_TRIES; tries++) {
      const outcome = await batcher.add({ asked, facts: await readFacts(asked), known: null, again: tries > 1 });
      if (outcome !== 'stale') return verdictOf(outcome);
    }
    throw new AdmissionUnavailableError('What the key may do changes faster than it can be read; try again.', { retryAfterSeconds: 1 });
  }

  async function readFacts(asked: Asked): Promise<Facts> {
    try {
      return await facts.read(asked);
    } catch (error) {
      if (error instanceof AdmissionUnavailableError) throw error;
      throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
    }
  }

  const closing = new AbortController();
  let preloading: Promise<void> | undefined;

  /** What can't be read now is read when it is asked for. */
  async function preload(): Promise<void> {
    try {
      // A verification does not wait for long, but this has time.
      await connection.whenConnected(closing.signal);
      await preloadFacts(database.kysely, facts, closing.signal);
    } catch (error) {
      if (!closing.signal.aborted) onError(new Error('The facts of the keys used last could not be read ahead.', { cause: error }));
    }
  }

  /** While servers are given another pepper one after the other, one of the others may have made a verifier with the old one once more. */
  async function answerWithOwnPepper(asked: Asked, first: Verdict): Promise<VerifyAnswer | CallerRefused> {
    let verdict = first;
    for (let renewals = 1; verdict.decided.code === OTHER_PEPPER && verdict.lookupId !== null; renewals++) {
      if (renewals > MAX_RENEWALS)
        throw new AdmissionUnavailableError('Servers with different peppers are at work on this key; try again.', { retryAfterSeconds: 1 });
      const renewed = await renewal.renew(asked, verdict.lookupId);
      facts.forgetSecret(verdict.lookupId);
      if (renewed === 'wrong-secret') return toAnswer({ ...verdict.decided, code: INVALID_KEY }, null, asked.request.requestId);
      verdict = await decide(asked, itself);
    }
    return answerTo(asked, verdict);
  }

  function answerTo({ request, foreignHash }: Asked, { decided, key, special }: Verdict): VerifyAnswer | CallerRefused {
    if (foreignHash !== null && key !== null) adoption.consider(request.key, foreignHash, key);
    switch (decided.code) {
      case CALLER_UNAUTHENTICATED:
        return { kind: 'unauthenticated' };
      case CALLER_FORBIDDEN:
        return { kind: 'forbidden' };
      case REQUEST_ID_TAKEN:
        return { kind: 'request-id-taken' };
      default:
        return special !== null && 'answer' in special
          ? repeatAnswer(special.answer, BigInt(special.position), request.requestId)
          : toAnswer(decided, key, request.requestId);
    }
  }

  return {
    // No async function from here down to the batch: each is two promises more, and two turns of the microtasks' queue.
    verify(caller, request) {
      const parsed = parseKey(request.key);
      const asked: Asked = {
        caller,
        request,
        lookupId: parsed?.lookupId ?? null,
        foreignHash: parsed === null ? foreignHashOf(request.key) : null,
        mac: fastVerifier(peppers.current, request.key),
      };
      return decide(asked, (verdict) =>
        verdict.decided.code === OTHER_PEPPER ? answerWithOwnPepper(asked, verdict) : answerTo(asked, verdict),
      );
    },
    recordUsage: usage.record,
    preload: () => (preloading ??= preload()),
    async close() {
      closing.abort();
      await preloading;
      await adoption.close();
      await facts.close();
      await batcher.close();
      gate.close();
      await connection.close();
    },
    gauges: { queued: () => batcher.queued(), inFlight: () => batcher.inFlight(), connected: () => connection.connected() },
  };
}

function itself(verdict: Verdict): Verdict {
  return verdict;
}

function verdictOf(outcome: Verdict | AdmissionUnavailableError): Verdict {
  if (outcome instanceof AdmissionUnavailableError) throw outcome;
  return outcome;
}

/** Turns the failure of a statement into that of each of its requests, so that it is none of any other statement's. */
function unavailableFor(batch: readonly unknown[]): (error: unknown) => readonly Outcome[] {
  return (error) => {
    if (error instanceof AdmissionUnavailableError) return batch.map(() => error);
    throw error;
  };
}
