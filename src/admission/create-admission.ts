import type pg from 'pg';

import { parseKey } from '../domain/key-format.ts';
import { codeNumber } from '../domain/usage.ts';
import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { fastVerifier, type Peppers } from '../identity/pepper.ts';
import { isPostgresError, isUniqueViolation } from '../ledger/append.ts';
import type { Database } from '../postgres/pool.ts';
import { AdmissionUnavailableError, type Admission, type CallerRefused, type VerifyAnswer, type VerifyCaller, type VerifyRequest } from './admission.ts';
import { admitBatch, CALLER_FORBIDDEN, CALLER_UNAUTHENTICATED, OTHER_PEPPER, REQUEST_ID_TAKEN, type AdmitRow, type Asked } from './admit-batch.ts';
import { toAnswer } from './answer.ts';
import { createBatcher } from './batcher.ts';
import { openPipelinedConnection } from './pipelined-connection.ts';
import { recordUsage } from './record-usage.ts';

const SECOND_MS = 1000;
/** A second server's batch with the same request id, or a deadlock's victim: again, so often. */
const ATTEMPTS = 5;
const NO_MAC = Buffer.alloc(32);

export type AdmissionOptions = {
  readonly database: Database;
  /** Of the verifications' own connection. */
  readonly connection: pg.ClientConfig;
  readonly peppers: Peppers;
  readonly argon2: Argon2Verifiers;
  readonly onError: (error: Error) => void;
  readonly maxBatch?: number;
  readonly maxQueued?: number;
};

export type AdmissionGauges = { queued(): number; inFlight(): number; connected(): boolean };

/** The hot path. Each verification is decided, charged and recorded in the database, together with all others that arrived meanwhile. */
export function createAdmission(options: AdmissionOptions): Admission & { readonly gauges: AdmissionGauges } {
  const { database, peppers, argon2, onError } = options;
  const connection = openPipelinedConnection({
    // Planned once and never again: planning `admit` costs more than running it. Its estimates are of arrays, so JIT would be wrong each time.
    config: { ...options.connection, options: `${options.connection.options ?? ''} -c plan_cache_mode=force_generic_plan -c jit=off` },
    onError,
  });
  const batcher = createBatcher<Asked, AdmitRow>({
    run: decideBatch,
    maxInFlight: 2,
    maxBatch: options.maxBatch ?? 500,
    maxQueued: options.maxQueued ?? 10_000,
    maxWaitMs: 5 * SECOND_MS,
  });

  async function decideBatch(batch: readonly Asked[]): Promise<readonly AdmitRow[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        return inOrder(batch, await connection.query<AdmitRow>(admitBatch(batch, peppers.current.id)));
      } catch (error) {
        if (!isPostgresError(error)) throw error;
        const collided = ['40P01', '40001'].includes(error.code) || isUniqueViolation(error, 'usage_requests_pkey');
        if (collided && attempt < ATTEMPTS) continue;
        // 53*, 55*, 57*: the server is out of something, locked or going down. The rest would be a request that should not have come so far.
        if (/^(53|55|57|40)/.test(error.code)) throw new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 1, cause: error });
        if (batch.length === 1) throw error;
        return decideApart(batch);
      }
    }
  }

  /** A statement that fails for one request's sake must not fail for its neighbours'. */
  async function decideApart(batch: readonly Asked[]): Promise<readonly AdmitRow[]> {
    const half = Math.ceil(batch.length / 2);
    const parts = await Promise.allSettled([decideBatch(batch.slice(0, half)), decideBatch(batch.slice(half))]);
    return parts.flatMap((part, index) => {
      if (part.status === 'fulfilled') return part.value;
      const size = index === 0 ? half : batch.length - half;
      onError(part.reason instanceof Error ? part.reason : new Error(String(part.reason)));
      return Array.from({ length: size }, () => FAILED);
    });
  }

  /** Requests under way whose caller chose their id: a second one with the same id waits for the first one's answer to be there to be repeated. */
  const named = new Map<string, Promise<unknown>>();

  async function decide(asked: Asked): Promise<AdmitRow> {
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

  async function decideOne(asked: Asked): Promise<AdmitRow> {
    const row = await batcher.add(asked);
    if (row === FAILED) throw new AdmissionUnavailableError('The verification failed; see the log of the server.', { retryAfterSeconds: 1 });
    return row;
  }

  /** The key's fast verifier was made with another pepper: check the secret by that one or by argon2id, write the fast verifier anew, and ask again. */
  async function renewVerifier(asked: Asked, row: AdmitRow): Promise<'renewed' | 'wrong-secret'> {
    const { pepper_id: pepperId, argon2: durable } = row;
    if (pepperId === null || durable === null) throw new Error('The statement named another pepper but not which.');
    const pepper = peppers.get(pepperId);
    const renewal = database.kysely.updateTable('key_verifiers').set({ mac: asked.mac, pepper_id: peppers.current.id }).where('lookup_id', '=', asked.lookupId).where('pepper_id', '=', pepperId);
    if (pepper !== undefined) {
      const { numUpdatedRows } = await renewal.where('mac', '=', fastVerifier(pepper, asked.request.key)).executeTakeFirst();
      return numUpdatedRows === 1n || (await isRenewed(asked)) ? 'renewed' : 'wrong-secret';
    }
    const verdict = await argon2.verify(durable, asked.request.key);
    switch (verdict) {
      case 'match':
        await renewal.where('argon2', '=', durable).execute();
        return 'renewed';
      case 'mismatch':
        return 'wrong-secret';
      case 'busy':
        throw new AdmissionUnavailableError('Too many keys are being checked for the first time after a change of pepper; try again.', { retryAfterSeconds: 1 });
    }
    return verdict satisfies never;
  }

  async function isRenewed(asked: Asked): Promise<boolean> {
    const row = await database.kysely.selectFrom('key_verifiers').select('pepper_id').where('lookup_id', '=', asked.lookupId).executeTakeFirst();
    return row?.pepper_id === peppers.current.id;
  }

  return {
    async verify(caller: VerifyCaller, request: VerifyRequest): Promise<VerifyAnswer | CallerRefused> {
      const parsed = parseKey(request.key);
      const asked: Asked = {
        caller,
        request,
        lookupId: parsed?.lookupId ?? '',
        mac: parsed === null ? NO_MAC : fastVerifier(peppers.current, request.key),
      };
      let row = await decide(asked);
      if (row.code === OTHER_PEPPER) {
        if ((await renewVerifier(asked, row)) === 'renewed') row = await decide(asked);
        if (row.code === OTHER_PEPPER) return toAnswer({ ...row, code: codeNumber('INVALID_KEY'), rule: 0 }, null, request.requestId);
      }
      switch (row.code) {
        case CALLER_UNAUTHENTICATED:
          return { kind: 'unauthenticated' };
        case CALLER_FORBIDDEN:
          return { kind: 'forbidden' };
        case REQUEST_ID_TAKEN:
          return { kind: 'request-id-taken' };
        default:
          return toAnswer(row.answered ?? row, row.position, request.requestId);
      }
    },
    async recordUsage(organizationId, items) {
      for (let attempt = 1; ; attempt++) {
        try {
          return await recordUsage(database.kysely, organizationId, items);
        } catch (error) {
          if (!isPostgresError(error)) throw error;
          const collided =
            ['40P01', '40001'].includes(error.code) || isUniqueViolation(error, 'usage_requests_pkey') || isUniqueViolation(error, 'settlements_pkey');
          if (!collided || attempt === ATTEMPTS) throw error;
        }
      }
    },
    async close() {
      await batcher.close();
      await connection.close();
    },
    gauges: { queued: () => batcher.queued(), inFlight: () => batcher.inFlight(), connected: () => connection.connected() },
  };
}

// A mark, compared by identity, for the one request that failed by itself.
const FAILED = Object.freeze({ code: -1 }) as unknown as AdmitRow;

function inOrder(batch: readonly Asked[], rows: readonly AdmitRow[]): readonly AdmitRow[] {
  const ordered = new Array<AdmitRow>(batch.length);
  for (const row of rows) ordered[row.ordinal - 1] = row;
  return ordered;
}
