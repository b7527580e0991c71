import { sql, type Kysely } from 'kysely';

import type { EventType } from '../domain/event.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';

/** One event of the log in the envelope that both kinds of row share. */
export type LedgerEntry = {
  readonly position: bigint;
  readonly organizationId: string;
  readonly stream: string;
  readonly type: EventType;
  /** Null for usage events. */
  readonly actorId: string | null;
  readonly recordedAt: Date;
  readonly data: JsonValue;
};

/** Which entries; what is left out doesn't restrict. */
export type LogFilter = {
  readonly organizationId?: string;
  readonly types?: readonly EventType[];
  /** Entries of these streams alone, such as `key:<id>`. */
  readonly streams?: readonly string[];
};

export type LogRange = {
  /** Exclusive. */
  readonly after: bigint;
  /** Inclusive; none: to the head. */
  readonly upTo?: bigint;
  /** Entries at most. */
  readonly limit: number;
};

const USAGE_TYPES: readonly EventType[] = ['UsageRecorded', 'UsageSettled'];
/** With up to so many keys, each key's own index is walked; with more, the positions themselves. */
const KEYS_READ_BY_INDEX = 500;

type Row = {
  readonly position: bigint;
  readonly organization_id: string;
  readonly stream: string;
  readonly type: string;
  readonly actor: string | null;
  readonly recorded_at: Date;
  readonly data: string;
};

/** Whether a filter may admit usage events, which are nearly all that a busy log gets. */
export function admitsUsage({ types }: LogFilter): boolean {
  return types === undefined || types.some((type) => USAGE_TYPES.includes(type));
}

/** Reads the log in order of position. Both kinds of row are read up to the limit and merged, so that neither scans past what is asked for. */
export async function readLog(db: Kysely<Tables>, filter: LogFilter, range: LogRange): Promise<readonly LedgerEntry[]> {
  const wantsLifecycle = filter.types === undefined || filter.types.some((type) => !USAGE_TYPES.includes(type));
  // The head bounds both reads, which take their snapshots one after the other: what is appended between them belongs to the next page.
  const upTo = range.upTo ?? (await snapshotHead(db));
  const [lifecycle, usage] = await Promise.all([
    wantsLifecycle ? readLifecycle(db, filter, { ...range, upTo }) : [],
    admitsUsage(filter) ? readUsage(db, filter, { ...range, upTo }) : [],
  ]);
  return mergeByPosition(lifecycle, usage).slice(0, range.limit);
}

export type LifecyclePage = { readonly entries: readonly LedgerEntry[]; readonly readTo: bigint; readonly head: bigint };

/** All but the usage events after a position: how far that goes, and the head, in one statement and so of one moment. */
export async function readLifecyclePage(db: Kysely<Tables>, after: bigint, limit: number): Promise<LifecyclePage> {
  const { rows } = await sql<{ head: bigint } & (Row | { readonly position: null })>`
    SELECT h.head, e.position, e.organization_id, e.stream, e.type, e.actor, e.recorded_at, e.data::text AS data
    FROM (SELECT head_position() AS head) AS h LEFT JOIN LATERAL (
      SELECT * FROM events WHERE position > ${after}::bigint ORDER BY position LIMIT ${limit}) AS e ON true
    ORDER BY e.position`.execute(db);
  const head = rows[0]?.head ?? after;
  const entries = rows.flatMap((row) => (row.position === null ? [] : [toEntry(row)]));
  const last = entries.at(-1);
  return { entries, head, readTo: entries.length === limit && last !== undefined ? last.position : head };
}

async function snapshotHead(db: Kysely<Tables>): Promise<bigint> {
  const { rows } = await sql<{ head: bigint }>`SELECT head_position() AS head`.execute(db);
  return rows[0]?.head ?? 0n;
}

async function readLifecycle(db: Kysely<Tables>, filter: LogFilter, range: Required<LogRange>): Promise<readonly LedgerEntry[]> {
  let query = db
    .selectFrom('events')
    .select(['position', 'organization_id', 'stream', 'type', 'actor', 'recorded_at', sql<string>`data::text`.as('data')])
    .where('position', '>', range.after)
    .where('position', '<=', range.upTo)
    .orderBy('position')
    .limit(range.limit);
  if (filter.organizationId !== undefined) query = query.where('organization_id', '=', filter.organizationId);
  if (filter.types !== undefined) query = query.where('type', '=', sql<string>`ANY(${[...filter.types]}::text[])`);
  if (filter.streams !== undefined) query = query.where('stream', '=', sql<string>`ANY(${[...filter.streams]}::text[])`);
  return (await query.execute()).map(toEntry);
}

async function readUsage(db: Kysely<Tables>, filter: LogFilter, range: Required<LogRange>): Promise<readonly LedgerEntry[]> {
  const keys = await keyNumbers(db, filter);
  if (keys !== 'any' && keys.length === 0) return [];
  const kinds = usageKinds(filter.types);
  const within = sql`u.position > ${range.after}::bigint AND u.position <= ${range.upTo}::bigint AND u.kind = ANY(${kinds}::smallint[])`;
  // The rows are picked by position first and dressed as entries afterwards.
  const picked =
    keys === 'any'
      ? sql`SELECT u.position FROM usage_events u WHERE ${within} ORDER BY u.position LIMIT ${range.limit}`
      : keys.length <= KEYS_READ_BY_INDEX
        ? sql`
            SELECT one.position FROM unnest(${[...keys]}::integer[]) AS k (number)
            CROSS JOIN LATERAL (SELECT u.position FROM usage_events u WHERE u.key = k.number AND ${within} ORDER BY u.position LIMIT ${range.limit}) AS one
            ORDER BY one.position LIMIT ${range.limit}`
        : sql`SELECT u.position FROM usage_events u WHERE ${within} AND u.key = ANY(${[...keys]}::integer[]) ORDER BY u.position LIMIT ${range.limit}`;
  const { rows } = await sql<Row>`
    WITH picked AS MATERIALIZED (${picked})
    SELECT l.position, l.organization_id, l.stream, l.type, l.actor, l.recorded_at, l.data
    FROM picked JOIN ledger_usage l USING (position) ORDER BY position`.execute(db);
  return rows.map(toEntry);
}

/** The numbers of the keys that the filter admits; `any` where it restricts neither organization nor streams. */
async function keyNumbers(db: Kysely<Tables>, filter: LogFilter): Promise<readonly number[] | 'any'> {
  if (filter.organizationId === undefined && filter.streams === undefined) return 'any';
  let query = db.selectFrom('api_keys').select('number');
  if (filter.organizationId !== undefined) query = query.where('organization_id', '=', filter.organizationId);
  if (filter.streams !== undefined) {
    const ids = filter.streams.filter((stream) => stream.startsWith('key:')).map((stream) => stream.slice('key:'.length));
    query = query.where('id', '=', sql<string>`ANY(${ids}::uuid[])`);
  }
  return (await query.execute()).map((row) => row.number);
}

function usageKinds(types: readonly EventType[] | undefined): readonly number[] {
  if (types === undefined) return [1, 2, 3];
  return [...(types.includes('UsageRecorded') ? [1, 2] : []), ...(types.includes('UsageSettled') ? [3] : [])];
}

function mergeByPosition(one: readonly LedgerEntry[], other: readonly LedgerEntry[]): readonly LedgerEntry[] {
  if (one.length === 0) return other;
  if (other.length === 0) return one;
  return [...one, ...other].sort((a, b) => (a.position < b.position ? -1 : 1));
}

function toEntry(row: Row): LedgerEntry {
  return {
    position: row.position,
    organizationId: row.organization_id,
    stream: row.stream,
    type: row.type as EventType, // appended by this program under a schema of domain/event.ts; readers treat unknown types as text
    actorId: row.actor,
    recordedAt: row.recorded_at,
    data: JSON.parse(row.data) as JsonValue,
  };
}
