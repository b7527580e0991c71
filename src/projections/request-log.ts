import { sql, type Kysely, type RawBuilder } from 'kysely';

import type { VerificationCode } from '../domain/refusals.ts';
import { codeOf, requestIdOf } from '../domain/usage.ts';
import type { Tables } from '../postgres/tables.ts';

/** One request of a key, with what was reported about it afterwards. */
export type RequestLogEntry = {
  readonly position: bigint;
  readonly requestId: string;
  readonly keyId: string;
  /** When it happened, which for a reported request may be another moment than when it was recorded. */
  readonly at: Date;
  readonly endpoint: string | null;
  /** What the end client was answered, where that is known. */
  readonly status: number | null;
  readonly durationMs: number | null;
  readonly ip: string | null;
  readonly credits: number;
  readonly code: VerificationCode;
};

/** With up to so many keys, each key's own index is walked; with more, the positions themselves. */
const KEYS_READ_BY_INDEX = 500;

type Row = {
  readonly position: bigint;
  readonly key_id: string;
  readonly at: Date;
  readonly endpoint: string | null;
  readonly status: number | null;
  readonly duration_ms: number | null;
  readonly ip: string | null;
  readonly credits: number;
  readonly code: number;
  readonly request_id: string | null;
};

/**
 * The requests of a key, or of all keys of an organization, newest first: those before a position, `limit` at most. Read from the log itself, so
 * never behind. A key of another organization has none.
 */
export async function requestLog(
  db: Kysely<Tables>,
  subject: { readonly organizationId: string; readonly keyNumber?: number },
  page: { readonly before?: bigint; readonly limit: number },
): Promise<readonly RequestLogEntry[]> {
  const keys = await keysOf(db, subject);
  if (keys.length === 0) return [];
  const { rows } = await sql<Row>`
    WITH picked AS MATERIALIZED (${pick(keys, page)})
    SELECT u.position, k.id AS key_id, coalesce(u.occurred_at, u.recorded_at) AS at, coalesce(u.endpoint, s.endpoint) AS endpoint, coalesce(s.status, u.status) AS status,
           coalesce(s.duration_ms, u.duration_ms) AS duration_ms, host(coalesce(u.ip, s.ip)) AS ip, u.credits + coalesce(s.credits, 0) AS credits, u.code, u.request_id
    FROM picked JOIN usage_events u USING (position) JOIN api_keys k ON k.number = u.key
    LEFT JOIN settlements ON settlements.request = u.position
    LEFT JOIN usage_events s ON s.position = settlements.settled_by
    ORDER BY u.position DESC`.execute(db);
  return rows.map((row) => ({
    position: row.position,
    requestId: row.request_id ?? requestIdOf(row.position),
    keyId: row.key_id,
    at: row.at,
    endpoint: row.endpoint,
    status: row.status,
    durationMs: row.duration_ms,
    ip: row.ip,
    credits: row.credits,
    code: codeOf(row.code),
  }));
}

async function keysOf(
  db: Kysely<Tables>,
  { organizationId, keyNumber }: { readonly organizationId: string; readonly keyNumber?: number },
): Promise<readonly number[]> {
  let query = db.selectFrom('api_keys').select('number').where('organization_id', '=', organizationId);
  if (keyNumber !== undefined) query = query.where('number', '=', keyNumber);
  return (await query.execute()).map((row) => row.number);
}

/** The newest positions of the keys: each key's newest merged, or for very many keys the log walked backwards. */
function pick(keys: readonly number[], { before, limit }: { readonly before?: bigint; readonly limit: number }): RawBuilder<unknown> {
  const requests = sql`u.kind IN (1, 2) AND (${before ?? null}::bigint IS NULL OR u.position < ${before ?? null}::bigint)`;
  if (keys.length > KEYS_READ_BY_INDEX) {
    return sql`SELECT u.position FROM usage_events u WHERE ${requests} AND u.key = ANY(${[...keys]}::integer[]) ORDER BY u.position DESC LIMIT ${limit}`;
  }
  return sql`
    SELECT one.position FROM unnest(${[...keys]}::integer[]) AS k (number)
    CROSS JOIN LATERAL (SELECT u.position FROM usage_events u WHERE u.key = k.number AND ${requests} ORDER BY u.position DESC LIMIT ${limit}) AS one
    ORDER BY one.position DESC LIMIT ${limit}`;
}
