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
import {
  ADDRESS_BLOCKING,
  admitBatch,
  CALLER_FORBIDDEN,
  CALLER_UNAUTHENTICATED,
  OTHER_PEPPER,
  REQUEST_ID_TAKEN,
  type AddressBlocking,
  type AdmitRow,
  type Asked,
  type Special,
} from './admit-batch.ts';
import { repeatAnswer, toAnswer, type Decided } from './answer.ts';
import { createBatcher } from './batcher.ts';
import { createKeyFactsCache, type KeyFacts, type WantedFacts } from './key-facts.ts';
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

/** One request's verdict as the batch gave it; `failed`: its statement failed by itself. */
type Verdict = { readonly decided: Decided; readonly key: KeyFacts | null; readonly special: Special | null } | 'failed';

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
  const keyFacts = createKeyFactsCache(database.kysely, CACHED_KEYS);
  const renewal = createVerifierRenewal({ db: database.kysely, peppers, argon2: options.argon2 });
  const adoption = createVerifierAdoption({ db: database.kysely, argon2: options.argon2, replace: options.replaceVerifier, onError });
  const batcher = createBatcher<Asked, Verdict>({
    run: decideBatch,
    maxInFlight: 2,
    maxBatch: options.maxBatch ?? 500,
    maxQueued: options.maxQueued ?? 10_000,
    maxWaitMs: 5 * SECOND_MS,
  });

  async function decideBatch(batch: readonly Asked[]): Promise<readonly Verdict[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        const [row] = await connection.query<AdmitRow>(admitBatch(batch, { pepperId: peppers.current.id, blocking, wake: gate.open() }));
        if (row === undefined) throw new Error('admit answered no row: the function of migration 0004 was changed.');
        return await told(row);
      } catch (error) {
        if (!isPostgresError(error)) throw error;
        const collided = ['40P01', '40001'].includes(error.code) || isUniqueViolation(error, 'usage_requests_pkey');
        if (collided && attempt < ATTEMPTS) continue;
        // 53*, 55*, 57*: the server is out of something, locked or going down. The rest would be a request that should not have come so far.
        if (/^(53|55|57|40)/.test(error.code))
          throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
        onError(error);
        return batch.length === 1 ? ['failed'] : decideApart(batch);
      }
    }
  }

  /** Whatever fails here, the batch is decided, charged and recorded: it must not be decided again. */
  async function told(row: AdmitRow): Promise<readonly Verdict[]> {
    try {
      return toVerdicts(row, await keyFacts.load(wantedFacts(row)));
    } catch (error) {
      throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
    }
  }

  /** A statement that fails for one request's sake must not fail for its neighbours'. */
  async function decideApart(batch: readonly Asked[]): Promise<readonly Verdict[]> {
    const half = Math.ceil(batch.length / 2);
    const [first, second] = await Promise.all([decideBatch(batch.slice(0, half)), decideBatch(batch.slice(half))]);
    return [...first, ...second];
  }

  /** Requests under way whose caller chose their id: a second one with the same id waits for the first one's answer to be there to be repeated. */
  const named = new Map<string, Promise<unknown>>();

  async function decide(asked: Asked): Promise<Exclude<Verdict, 'failed'>> {
    const { requestId } = asked.request;
    if (requestId === null) return decideOne(asked);
    const name = `${asked.caller.kind === 'token' ? asked.caller.tokenHash.toString('latin1') : asked.caller.organizationId} ${requestId}`;
    for (let earlier = named.get(name); earlier !== undefined; earlier = named.get(name)) await earlier.catch(() => undefined); // its own caller is told
    const decision = decideOne(asked);
    named.set(name, decision);
    try {
      return await decision;
    } finally {
      named.delete(name);
    }
  }

  async function decideOne(asked: Asked): Promise<Exclude<Verdict, 'failed'>> {
    const verdict = await batcher.add(asked);
    if (verdict === 'failed')
      throw new AdmissionUnavailableError('The verification failed; see the log of the server.', { retryAfterSeconds: 1 });
    return verdict;
  }

  return {
    async verify(caller: VerifyCaller, request: VerifyRequest): Promise<VerifyAnswer | CallerRefused> {
      const parsed = parseKey(request.key);
      const foreignHash = parsed === null ? foreignHashOf(request.key) : null;
      const asked: Asked = {
        caller,
        request,
        lookupId: parsed?.lookupId ?? '',
        foreignHash,
        mac: fastVerifier(peppers.current, request.key),
      };
      let verdict = await decide(asked);
      if (verdict.special !== null && 'pepperId' in verdict.special) {
        if ((await renewal.renew(asked, verdict.special)) === 'renewed') verdict = await decide(asked);
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

function wantedFacts(row: AdmitRow): ReadonlyMap<number, WantedFacts> {
  const wanted = new Map<number, WantedFacts>();
  row.keys.forEach((key, index) => {
    const version = row.versions[index];
    if (key !== null && version !== null && version !== undefined && tellsOfKey(row.codes[index] ?? INVALID_KEY))
      wanted.set(key, { version, profileVersion: row.profile_versions?.[index] ?? null });
  });
  return wanted;
}

function toVerdicts(row: AdmitRow, facts: ReadonlyMap<number, KeyFacts>): readonly Verdict[] {
  const atMs = row.at.getTime();
  const left = leftByKey(row);
  let next = row.first_position;
  return row.codes.map((code, index) => {
    const special = row.special?.[index] ?? null;
    const refusing = special !== null && 'retryAt' in special ? special : null;
    const key = row.keys[index] ?? null;
    const position = row.recorded[index] === true ? next : null;
    if (position !== null) next = position + 1n;
    return {
      decided: {
        code,
        rule: row.rules?.[index] ?? 0,
        position,
        outdated: row.outdated?.[index] ?? false,
        atMs,
        retryAtMs: refusing?.retryAt == null ? null : Date.parse(refusing.retryAt),
        quotaStatus: refusing?.quotaStatus ?? null,
        left: (key === null ? undefined : left.get(key)) ?? NOTHING_KNOWN_LEFT,
      },
      key: key !== null && tellsOfKey(code) ? (facts.get(key) ?? null) : null,
      special,
    };
  });
}

const NOTHING_KNOWN_LEFT: Decided['left'] = { minute: null, total: null, daily: null, weekly: null, monthly: null };

function leftByKey(row: AdmitRow): ReadonlyMap<number, Decided['left']> {
  const left = new Map<number, Decided['left']>();
  row.consumed_keys?.forEach((key, index) => {
    left.set(key, {
      minute: toNumber(row.minute_left?.[index]),
      total: toNumber(row.total_left?.[index]),
      daily: toNumber(row.day_left?.[index]),
      weekly: toNumber(row.week_left?.[index]),
      monthly: toNumber(row.month_left?.[index]),
    });
  });
  return left;
}

function toNumber(value: bigint | null | undefined): number | null {
  return value === null || value === undefined ? null : Number(value);
}
