import { sql, type Kysely, type RawBuilder } from 'kysely';

import type { VerificationCode } from '../domain/refusals.ts';
import { codeNumber, codeOf, requestIdOf } from '../domain/usage.ts';
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

/** Which requests are wanted; all conditions together. */
export type RequestLogFilter = {
  readonly code?: VerificationCode | undefined;
  /** As the log shows it: what was reported, where something was. */
  readonly status?: number | undefined;
  readonly endpoint?: string | undefined;
  readonly ip?: string | undefined;
  /** When it happened; `to` exclusive. */
  readonly from?: Date | undefined;
  readonly to?: Date | undefined;
};

export type RequestLogSubject = {
  readonly organizationId: string;
  readonly keyNumber?: number | undefined;
  /** Whose personal keys are shown beside those of the team. */
  readonly personalKeysOf?: { readonly memberId: string | null } | 'everybody';
};

export type RequestLogPage = {
  readonly entries: readonly RequestLogEntry[];
  /** Where the next page begins; null where there is nothing before this one. */
  readonly before: bigint | null;
};

/** With up to so many keys, each key's own index is walked; with more, the positions themselves, so far back at a time. */
const KEYS_READ_BY_INDEX = 500;
const WALKED_POSITIONS = 50_000n;
/** Requests that are looked at for one page where a filter decides which are on it; so a page costs the same however rare they are, and can be short. */
const LOOKED_AT = 5_000;

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
 * never behind. A key of another organization has none. A page can be shorter than `limit` and yet not the last, where a filter is given.
 */
export async function requestLog(
  db: Kysely<Tables>,
  subject: RequestLogSubject,
  page: { readonly before?: bigint | undefined; readonly limit: number; readonly filter?: RequestLogFilter | undefined },
): Promise<RequestLogPage> {
  const { limit, filter = {} } = page;
  const wanted = matching(filter);
  // One more than is shown tells whether there is another page.
  const candidates = await newest(db, subject, page.before, wanted === null ? limit + 1 : LOOKED_AT);
  if (candidates.positions.length === 0) return { entries: [], before: null };
  const { rows } = await sql<Row>`
    SELECT u.position, k.id AS key_id, coalesce(u.occurred_at, u.recorded_at) AS at, coalesce(u.endpoint, s.endpoint) AS endpoint, coalesce(s.status, u.status) AS status,
           coalesce(s.duration_ms, u.duration_ms) AS duration_ms, host(coalesce(u.ip, s.ip)) AS ip, u.credits + coalesce(s.credits, 0) AS credits, u.code, u.request_id
    FROM unnest(${candidates.positions}::bigint[]) AS picked (position) JOIN usage_events u USING (position) JOIN api_keys k ON k.number = u.key
    LEFT JOIN settlements ON settlements.request = u.position
    LEFT JOIN usage_events s ON s.position = settlements.settled_by
    WHERE ${wanted ?? sql`true`}
    ORDER BY u.position DESC LIMIT ${limit + 1}`.execute(db);
  const shown = rows.slice(0, limit);
  const next = rows.length > limit ? shown.at(-1)?.position : candidates.more ? candidates.positions.at(-1) : undefined;
  return { entries: shown.map(toEntry), before: next ?? null };
}

function toEntry(row: Row): RequestLogEntry {
  return {
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
  };
}

/** Null where everything is wanted. */
function matching({ code, status, endpoint, ip, from, to }: RequestLogFilter): RawBuilder<unknown> | null {
  const conditions: RawBuilder<unknown>[] = [];
  if (code !== undefined) conditions.push(sql`u.code = ${codeNumber(code)}`);
  if (status !== undefined) conditions.push(sql`coalesce(s.status, u.status) = ${status}::integer`);
  if (endpoint !== undefined) conditions.push(sql`coalesce(u.endpoint, s.endpoint) = ${endpoint}`);
  if (ip !== undefined) conditions.push(sql`coalesce(u.ip, s.ip) = ${ip}::inet`);
  if (from !== undefined) conditions.push(sql`coalesce(u.occurred_at, u.recorded_at) >= ${from}::timestamptz`);
  if (to !== undefined) conditions.push(sql`coalesce(u.occurred_at, u.recorded_at) < ${to}::timestamptz`);
  return conditions.length === 0 ? null : sql.join(conditions, sql` AND `);
}

type Candidates = { readonly positions: readonly bigint[]; readonly more: boolean };

/** The newest positions of requests of the keys, `limit` at most, and whether there are more before them. */
async function newest(db: Kysely<Tables>, subject: RequestLogSubject, before: bigint | undefined, limit: number): Promise<Candidates> {
  const owners = subject.personalKeysOf ?? 'everybody';
  const visible = owners === 'everybody' ? sql`true` : sql`(k.owner_id IS NULL OR k.owner_id = ${owners.memberId}::uuid)`;
  const one = subject.keyNumber === undefined ? sql`true` : sql`k.number = ${subject.keyNumber}::integer`;
  const own = sql`SELECT k.number FROM api_keys k WHERE k.organization_id = ${subject.organizationId}::uuid AND ${visible} AND ${one}`;
  const found = await sql<{ number: number }>`${own} LIMIT ${KEYS_READ_BY_INDEX + 1}`.execute(db);
  if (found.rows.length === 0) return { positions: [], more: false };
  if (found.rows.length > KEYS_READ_BY_INDEX) {
    const walked = await walk(db, subject.organizationId, visible, before, limit);
    if (walked.length === limit) return { positions: walked, more: true };
  }
  const requests = sql`u.kind IN (1, 2) AND (${before ?? null}::bigint IS NULL OR u.position < ${before ?? null}::bigint)`;
  const { rows } = await sql<{ position: bigint }>`
    SELECT one.position FROM (${own}) AS k
    CROSS JOIN LATERAL (SELECT u.position FROM usage_events u WHERE u.key = k.number AND ${requests} ORDER BY u.position DESC LIMIT ${limit}) AS one
    ORDER BY one.position DESC LIMIT ${limit}`.execute(db);
  return { positions: rows.map(({ position }) => position), more: rows.length === limit };
}

/** An organization of many keys mostly has enough in the newest part of the log; where it has not, its keys are asked one by one. */
async function walk(
  db: Kysely<Tables>,
  organizationId: string,
  visible: RawBuilder<unknown>,
  before: bigint | undefined,
  limit: number,
): Promise<readonly bigint[]> {
  const { rows } = await sql<{ position: bigint }>`
    WITH bounds AS MATERIALIZED (SELECT coalesce(${before ?? null}::bigint, head_position() + 1) AS before)
    SELECT u.position FROM usage_events u JOIN api_keys k ON k.number = u.key
    WHERE u.position < (SELECT before FROM bounds) AND u.position >= (SELECT before - ${WALKED_POSITIONS}::bigint FROM bounds) AND u.kind IN (1, 2)
      AND u.organization = (SELECT number FROM organizations WHERE id = ${organizationId}::uuid) AND ${visible}
    ORDER BY u.position DESC LIMIT ${limit}`.execute(db);
  return rows.map(({ position }) => position);
}
