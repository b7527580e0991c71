import type pg from 'pg';

import { foreignHashOf } from '../domain/foreign-key.ts';
import { parseKey } from '../domain/key-format.ts';
import { codeNumber } from '../domain/usage.ts';
import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { fastVerifier, type Peppers } from '../identity/pepper.ts';
import { isPostgresError, isUniqueViolation } from '../ledger/append.ts';
import type { Database } from '../postgres/pool.ts';
import {
  AdmissionUnavailableError,
  type Admission,
  type CallerRefused,
  type VerifyAnswer,
  type VerifyCaller,
  type VerifyRequest,
} from './admission.ts';
import { ADDRESS_BLOCKING, admitBatch, isRecorded, type AddressBlocking, type AdmitRow, type Judged, type Special } from './admit-batch.ts';
import { repeatAnswer, toAnswer, type Decided } from './answer.ts';
import type { Asked } from './asked.ts';
import { createBatcher } from './batcher.ts';
import {
  CALLER_FORBIDDEN,
  CALLER_UNAUTHENTICATED,
  judge,
  OTHER_PEPPER,
  REQUEST_ID_TAKEN,
  unitsLeft,
  ceilingOf,
  type Facts,
  type Validity,
} from './facts.ts';
import { createFactsCache, type Known } from './facts-cache.ts';
import type { KeyFacts } from './key-facts.ts';
import { openPipelinedConnection } from './pipelined-connection.ts';
import { createUsageRecorder } from './usage-recorder.ts';
import { createVerifierAdoption, type ReplaceVerifier } from './verifier-adoption.ts';
import { createVerifierRenewal } from './verifier-renewal.ts';
import { createWakeGate } from './wake-gate.ts';

const SECOND_MS = 1000;
/** A second server's batch with the same request id, or a deadlock's victim: again, so often. */
const ATTEMPTS = 5;
const WAKE_MS = 20;
const CACHED_KEYS = 100_000;
/** Requests whose facts are read by one statement. */
const MAX_READ = 500;
/** Batches that a request may be part of until one is decided: it is taken up again where its facts were out of date. */
const MAX_TRIES = 10;
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

/** A request on its way with its facts: as they were in memory when so much was known, or, where that is null, read for it alone. */
type Waiting = { readonly asked: Asked; readonly facts: Facts; readonly known: Known | null };

type Verdict = {
  readonly decided: Decided;
  readonly key: KeyFacts | null;
  readonly special: Special | null;
  /** Of the secret by which the presented one was looked up. */
  readonly lookupId: string | null;
};
/** One request's part of a batch's answer; `failed`: its statement failed by itself, `stale`: it was not decided, since its facts are not those of now. */
type Outcome = Verdict | 'failed' | 'stale';

/** The hot path. Each verification is decided, charged and recorded in the database, together with all others that arrived meanwhile. */
export function createAdmission(options: AdmissionOptions): Admission & { readonly gauges: AdmissionGauges } {
  const { database, peppers, onError, blocking = ADDRESS_BLOCKING } = options;
  const connection = openPipelinedConnection({
    // Planned once and never again: planning `admit` costs more than running it. Its estimates are of arrays, so JIT would be wrong each time. Nested loops
    // alone: by them rows are locked in the order of keys; a hash join takes them as they come, and then servers wait for each other in a circle.
    config: {
      ...options.connection,
      options: `${options.connection.options ?? ''} -c plan_cache_mode=force_generic_plan -c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off`,
    },
    onError,
  });
  const gate = createWakeGate({
    intervalMs: WAKE_MS,
    wake: () => {
      // Where that fails, the followers' own polling finds what there is.
      connection.query({ text: "SELECT pg_notify('keyledger_log', '')" }).catch(() => undefined);
    },
  });
  const usage = createUsageRecorder({ db: database.kysely });
  const facts = createFactsCache(database.kysely, { capacity: CACHED_KEYS, maxRead: MAX_READ });
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
    maxQueued: options.maxQueued ?? 10_000,
    maxWaitMs: 5 * SECOND_MS,
  });

  /** The facts of a request from memory are looked up when the batch is made up, and so agree with the point of the log that it names. */
  async function decideBatch(batch: readonly Waiting[]): Promise<readonly Outcome[]> {
    const outcomes: Outcome[] = batch.map(() => 'stale');
    const validity = { sinceUs: 0, untilUs: Number.MAX_SAFE_INTEGER };
    const places: number[] = [];
    const judged: Judged[] = [];
    batch.forEach(({ asked, facts: given, known }, place) => {
      const found = known === null || known === facts.known() ? given : facts.find(asked);
      if (found === undefined) return;
      places.push(place);
      judged.push({
        asked,
        facts: found,
        judgement: judge(found, asked, peppers.current.id, told.atMs * 1000, validity),
        fresh: known === null,
      });
    });
    if (judged.length === 0) return outcomes;
    const decided = await admit(judged, validity);
    decided.forEach((outcome, index) => (outcomes[places[index] ?? 0] = outcome));
    return outcomes;
  }

  async function admit(batch: readonly Judged[], validity: Validity): Promise<readonly Outcome[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        const query = admitBatch(batch, { known: facts.known(), second: secondNow(), newest, validity, blocking, wake: gate.open() });
        const [row] = await connection.query<AdmitRow>(query);
        if (row === undefined) throw new Error('admit answered no row: the function of migration 0011 was changed.');
        told = { atMs: row.at.getTime(), heardMs: performance.now() };
        facts.forget(row);
        if (row.stale) return batch.map(() => 'stale');
        newest = row.first_position ?? newest;
        return toVerdicts(batch, row);
      } catch (error) {
        if (!isPostgresError(error)) throw error;
        const collided = ['40P01', '40001'].includes(error.code) || isUniqueViolation(error, 'usage_requests_pkey');
        if (collided && attempt < ATTEMPTS) continue;
        // 53*, 55*, 57*: the server is out of something, locked or going down. The rest would be a request that should not have come so far.
        if (/^(53|55|57|40)/.test(error.code))
          throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
        onError(error);
        return batch.length === 1 ? ['failed'] : admitApart(batch, validity);
      }
    }
  }

  /** A statement that fails for one request's sake must not fail for its neighbours'. */
  async function admitApart(batch: readonly Judged[], validity: Validity): Promise<readonly Outcome[]> {
    const half = Math.ceil(batch.length / 2);
    const [first, second] = await Promise.all([admit(batch.slice(0, half), validity), admit(batch.slice(half), validity)]);
    return [...first, ...second];
  }

  /** Requests under way whose caller chose their id: a second one with the same id waits for the first one's answer to be there to be repeated. */
  const named = new Map<string, Promise<unknown>>();

  async function decide(asked: Asked): Promise<Verdict> {
    const { requestId } = asked.request;
    if (requestId === null) return decideOne(asked);
    const name = `${asked.caller.kind === 'token' ? asked.caller.tokenHash : asked.caller.organizationId} ${requestId}`;
    for (let earlier = named.get(name); earlier !== undefined; earlier = named.get(name)) await earlier.catch(() => undefined); // its own caller is told
    const decision = decideOne(asked);
    named.set(name, decision);
    try {
      return await decision;
    } finally {
      named.delete(name);
    }
  }

  /** From memory at first; where that turns out to be out of date, by what is read for this request alone, which no later change can overtake. */
  async function decideOne(asked: Asked): Promise<Verdict> {
    for (let tries = 1; tries <= MAX_TRIES; tries++) {
      const inMemory = tries > 1 ? undefined : facts.find(asked);
      const outcome = await batcher.add(
        inMemory === undefined ? { asked, facts: await readFacts(asked), known: null } : { asked, facts: inMemory, known: facts.known() },
      );
      if (outcome === 'failed')
        throw new AdmissionUnavailableError('The verification failed; see the log of the server.', { retryAfterSeconds: 1 });
      if (outcome !== 'stale') return outcome;
    }
    throw new AdmissionUnavailableError('What the key may do changes faster than it can be read; try again.', { retryAfterSeconds: 1 });
  }

  async function readFacts(asked: Asked): Promise<Facts> {
    try {
      return await facts.read(asked);
    } catch (error) {
      throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
    }
  }

  return {
    async verify(caller: VerifyCaller, request: VerifyRequest): Promise<VerifyAnswer | CallerRefused> {
      const parsed = parseKey(request.key);
      const foreignHash = parsed === null ? foreignHashOf(request.key) : null;
      const asked: Asked = {
        caller,
        request,
        lookupId: parsed?.lookupId ?? null,
        foreignHash,
        mac: fastVerifier(peppers.current, request.key),
      };
      let verdict = await decide(asked);
      if (verdict.decided.code === OTHER_PEPPER && verdict.lookupId !== null) {
        const renewed = await renewal.renew(asked, verdict.lookupId);
        facts.forgetSecret(verdict.lookupId);
        if (renewed === 'renewed') {
          verdict = await decide(asked);
        }
        if (verdict.decided.code === OTHER_PEPPER) return toAnswer({ ...verdict.decided, code: INVALID_KEY }, null, request.requestId);
      }
      const { decided, key, special } = verdict;
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
    },
    recordUsage: usage.record,
    async close() {
      await adoption.close();
      await batcher.close();
      gate.close();
      await connection.close();
    },
    gauges: { queued: () => batcher.queued(), inFlight: () => batcher.inFlight(), connected: () => connection.connected() },
  };
}

/** Whether an outcome tells of a key: it was found, and the right secret was presented. */
function tellsOfKey(code: number): boolean {
  return code < CALLER_UNAUTHENTICATED && code !== INVALID_KEY;
}

function toVerdicts(batch: readonly Judged[], row: AdmitRow): readonly Verdict[] {
  const atMs = row.at.getTime();
  const left = leftByKey(batch, row);
  let next = row.first_position;
  return batch.map((judged, index) => {
    const { key } = judged.judgement;
    const code = row.codes?.[index] ?? judged.judgement.code;
    const special = row.special?.[index] ?? null;
    const refusing = special !== null && 'retryAt' in special ? special : null;
    const position = (row.recorded === null ? isRecorded(judged) : row.recorded[index] === true) ? next : null;
    if (position !== null) next = position + 1n;
    return {
      decided: {
        code,
        rule: row.rules?.[index] ?? 0,
        position,
        outdated: judged.facts.verifier?.current === false,
        atMs,
        retryAtMs: refusing?.retryAt == null ? null : Date.parse(refusing.retryAt),
        quotaStatus: refusing?.quotaStatus ?? null,
        left: (key === null ? undefined : left.get(key.number)) ?? NOTHING_KNOWN_LEFT,
      },
      key: key !== null && tellsOfKey(code) ? key.told : null,
      special,
      lookupId: judged.facts.verifier?.lookupId ?? null,
    };
  });
}

const NOTHING_KNOWN_LEFT: Decided['left'] = { minute: null, total: null, daily: null, weekly: null, monthly: null };

/** What each key that was asked for has left, which is noted for the next batch. */
function leftByKey(batch: readonly Judged[], row: AdmitRow): ReadonlyMap<number, Decided['left']> {
  const places = new Map<number, number>();
  row.consumed_keys?.forEach((key, place) => {
    if (key !== null) places.set(key, place);
  });
  const second = Math.floor(row.at.getTime() / SECOND_MS);
  const left = new Map<number, Decided['left']>();
  for (const { judgement } of batch) {
    const { key } = judgement;
    const place = key === null ? undefined : places.get(key.number);
    if (key === null || place === undefined || left.has(key.number)) continue;
    const total = row.total_used?.[place] ?? 0;
    const units = unitsLeft(key.limits, {
      total,
      minute: row.minute_used?.[place] ?? null,
      day: row.day_used?.[place] ?? null,
      week: row.week_used?.[place] ?? null,
      month: row.month_used?.[place] ?? null,
    });
    left.set(key.number, units);
    key.windows.second = second;
    key.windows.ceiling = ceilingOf(total, units);
  }
  return left;
}
