import { sql, type Kysely, type RawBuilder } from 'kysely';

import { seesAllKeys, visible } from '../commands/visible-keys.ts';
import type { Actor } from '../domain/actor.ts';
import type { KeyStatus } from '../domain/api-key.ts';
import type { KeyType } from '../domain/key-format.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';
import { foldName } from '../projections/key-row.ts';
import { badUserInput } from './client-error.ts';

/** A key as lists and nodes show it; its status is that of the moment of reading, by the database's clock. */
export type KeyRow = {
  readonly id: string;
  readonly number: number;
  readonly organization_id: string;
  readonly name: string;
  readonly type: KeyType;
  readonly status: KeyStatus;
  readonly category: string;
  readonly permissions: readonly string[];
  readonly expires_at: Date | null;
  readonly profile_id: string | null;
  readonly metadata: JsonValue;
  readonly ip_allowlist: readonly string[];
  readonly allowed_origins: readonly string[];
  readonly owner_id: string | null;
  readonly archived: boolean;
  readonly rotate_every_days: number | null;
  readonly masked: string;
  readonly created_at: Date;
  readonly created_by: string;
  /** A use that the caller was just told of, which statistics may not have folded yet. */
  readonly seenUsedAt?: Date;
};

export type KeyFilter = {
  readonly status?: KeyStatus | null | undefined;
  readonly type?: KeyType | null | undefined;
  readonly category?: string | null | undefined;
  /** A member's uuid. */
  readonly ownerId?: string | null | undefined;
  readonly personal?: boolean | null | undefined;
  readonly archived?: boolean | null | undefined;
  readonly search?: string | null | undefined;
  readonly unusedForDays?: number | null | undefined;
  readonly includeDeleted?: boolean | null | undefined;
};
export type KeyOrder = { readonly field: 'CREATED_AT' | 'NAME' | 'LAST_USED_AT' | 'EXPIRES_AT'; readonly direction: 'ASC' | 'DESC' };

const COLUMNS = sql`
  k.id, k.number, k.organization_id, k.name, k.type, k.category, k.permissions, k.expires_at, k.profile_id, k.metadata, k.ip_allowlist::text[] AS ip_allowlist, k.allowed_origins,
  k.owner_id, k.archived, k.rotate_every_days, k.masked, k.created_at, k.created_by,
  CASE WHEN k.state = 'deleted' THEN 'DELETED' WHEN k.expires_at <= (SELECT ledger_now()) THEN 'EXPIRED' WHEN k.archived THEN 'INACTIVE' ELSE upper(k.state) END AS status`;

/** The same for all callers who see the same keys. */
export function sightOf(actor: Actor): string {
  const sees = seesAllKeys(actor) ? 'all' : actor.kind === 'member' ? actor.memberId : 'team';
  return `${actor.organizationId}/${sees}`;
}

/** Keys by their uuids, in that order; null for what the caller may not see or what is not there, which look alike. */
export async function loadKeys(db: Kysely<Tables>, actor: Actor, ids: readonly string[]): Promise<readonly (KeyRow | null)[]> {
  if (ids.length === 0) return [];
  const { rows } = await sql<KeyRow>`SELECT ${COLUMNS} FROM api_keys k WHERE k.id = ANY(${[...ids]}::uuid[]) AND ${visible(actor)}`.execute(
    db,
  );
  const found = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id) => found.get(id) ?? null);
}

/** The same by their numbers. */
export async function loadKeysByNumber(db: Kysely<Tables>, actor: Actor, numbers: readonly number[]): Promise<readonly (KeyRow | null)[]> {
  if (numbers.length === 0) return [];
  const { rows } =
    await sql<KeyRow>`SELECT ${COLUMNS} FROM api_keys k WHERE k.number = ANY(${[...numbers]}::integer[]) AND ${visible(actor)}`.execute(db);
  const found = new Map(rows.map((row) => [row.number, row]));
  return numbers.map((number) => found.get(number) ?? null);
}

export type KeyPageRequest = {
  readonly filter: KeyFilter;
  readonly order: KeyOrder;
  readonly limit: number;
  readonly after: string | null;
};

/** A key with the place it has in its list. */
export type ListedKey = KeyRow & { readonly cursor: string };

/**
 * Keys in order from a cursor on. Keyset, not offset: each page costs the same, and keys that come or go in between shift nothing. The cursor holds the
 * sorted value as the database's own text, since a Date would lose its microseconds.
 */
export async function listKeys(db: Kysely<Tables>, actor: Actor, request: KeyPageRequest): Promise<readonly ListedKey[]> {
  const { order, limit, after } = request;
  const from = after === null ? null : parseCursor(after, order);
  if (order.field !== 'LAST_USED_AT') return readKeys(db, actor, request, from, sortedBy(order.field));
  // Used keys are walked in the order of the index on when they were, and those that never were by their ids: as one list, each page would sort all keys.
  const parts = [used(actor), NEVER_USED] as const;
  const [first, second] = order.direction === 'ASC' ? parts.toReversed() : parts;
  if (first === undefined || second === undefined) return [];
  const inSecond = from !== null && (from.value === NEVER) !== (first === NEVER_USED);
  const head = inSecond ? [] : await readKeys(db, actor, request, from, first);
  if (head.length >= limit) return head;
  const rest = await readKeys(db, actor, { ...request, limit: limit - head.length }, inSecond ? from : null, second);
  return [...head, ...rest];
}

/** What a list is sorted by, and the relation `u` that it takes for it. */
type SortedBy = {
  readonly join: RawBuilder<unknown>;
  readonly value: RawBuilder<unknown>;
  readonly type: RawBuilder<unknown>;
  readonly where?: RawBuilder<unknown>;
  /** The value is the same for all: they are in the order of their ids. */
  readonly constant?: boolean;
  /** Comes first in the index, and follows from the value. */
  readonly leading?: { readonly column: RawBuilder<unknown>; readonly of: (value: string) => RawBuilder<unknown> };
};

async function readKeys(
  db: Kysely<Tables>,
  actor: Actor,
  { filter, order, limit }: KeyPageRequest,
  from: { readonly value: string; readonly id: string } | null,
  { join, where, value, type, leading, constant }: SortedBy,
): Promise<readonly ListedKey[]> {
  const compare = order.direction === 'ASC' ? sql`>` : sql`<`;
  const direction = order.direction === 'ASC' ? sql`ASC` : sql`DESC`;
  const conditions = [visible(actor), matching(filter), ...(where === undefined ? [] : [where])];
  if (from !== null && constant === true) conditions.push(sql`k.id ${compare} ${from.id}::uuid`);
  else if (from !== null) conditions.push(sql`(${value}, k.id) ${compare} (${from.value}::${type}, ${from.id}::uuid)`);
  if (from !== null && leading !== undefined) conditions.push(sql`${leading.column} ${compare}= ${leading.of(from.value)}`);
  const sorting = [...(leading === undefined ? [] : [leading.column]), ...(constant === true ? [] : [value]), sql`k.id`];
  const { rows } = await sql<KeyRow & { readonly sorted: string }>`
    SELECT ${COLUMNS}, (${value})::text AS sorted
    FROM api_keys k ${join} ${order.field === 'LAST_USED_AT' ? sql`` : joinLastUsed(filter)}
    WHERE ${sql.join(conditions, sql` AND `)}
    ORDER BY ${sql.join(sorting.map((column) => sql`${column} ${direction}`))}
    LIMIT ${limit}`.execute(db);
  return rows.map(({ sorted, ...row }) => ({ ...row, cursor: formatCursor(order, sorted, row.id) }));
}

/** How many keys a filter admits. */
export async function countKeys(db: Kysely<Tables>, actor: Actor, filter: KeyFilter): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    SELECT count(*)::integer AS count FROM api_keys k ${joinLastUsed(filter)} WHERE ${visible(actor)} AND ${matching(filter)}`.execute(db);
  return rows[0]?.count ?? 0;
}

function sortedBy(field: Exclude<KeyOrder['field'], 'LAST_USED_AT'>): SortedBy {
  switch (field) {
    case 'CREATED_AT':
      return { join: sql``, value: sql`k.created_at`, type: sql`timestamptz` };
    case 'NAME':
      return { join: sql``, value: sql`k.name_folded`, type: sql`text` };
    case 'EXPIRES_AT':
      return { join: sql``, value: sql`coalesce(k.expires_at, 'infinity'::timestamptz)`, type: sql`timestamptz` };
  }
  return field satisfies never;
}

const NEVER = '-infinity';
const LIVE_SLOT = sql`SELECT slot FROM projections WHERE name = 'usage' AND state = 'live'`;

/** The rows of an organization, walked by (organization, last_used_minute). */
function used({ organizationId }: Actor): SortedBy {
  return {
    join: sql`
      JOIN key_last_used u ON u.key = k.number AND u.slot = (${LIVE_SLOT}) AND u.organization = (SELECT number FROM organizations WHERE id = ${organizationId}::uuid)`,
    value: sql`u.last_used_at`,
    type: sql`timestamptz`,
    leading: { column: sql`u.last_used_minute`, of: (value) => sql`date_bin('1 minute', ${value}::timestamptz, '2000-01-01T00:00:00Z')` },
  };
}

/** Walked by (organization, id), and none of them is used. */
const NEVER_USED: SortedBy = {
  join: sql`LEFT JOIN key_last_used u ON u.key = k.number AND u.slot = (${LIVE_SLOT})`,
  where: sql`u.key IS NULL`,
  value: sql`'${sql.raw(NEVER)}'::timestamptz`,
  type: sql`timestamptz`,
  constant: true,
};

function joinLastUsed(filter: KeyFilter): RawBuilder<unknown> {
  if (filter.unusedForDays == null) return sql``;
  return sql`LEFT JOIN key_last_used u ON u.key = k.number AND u.slot = (${LIVE_SLOT})`;
}

function matching(filter: KeyFilter): RawBuilder<unknown> {
  const conditions: RawBuilder<unknown>[] = [];
  if (filter.includeDeleted !== true && filter.status !== 'DELETED') conditions.push(sql`k.state <> 'deleted'`);
  if (filter.status != null) conditions.push(hasStatus(filter.status));
  if (filter.type != null) conditions.push(sql`k.type = ${filter.type}`);
  if (filter.category != null) conditions.push(sql`k.category = ${filter.category}`);
  if (filter.ownerId != null) conditions.push(sql`k.owner_id = ${filter.ownerId}::uuid`);
  if (filter.personal != null) conditions.push(filter.personal ? sql`k.owner_id IS NOT NULL` : sql`k.owner_id IS NULL`);
  if (filter.archived != null) conditions.push(sql`k.archived = ${filter.archived}`);
  if (filter.search != null) conditions.push(sql`k.name_folded LIKE ${`%${escapeLike(foldName(filter.search))}%`}`);
  if (filter.unusedForDays != null) {
    const days = filter.unusedForDays;
    if (days < 0 || days > 36_500) throw badUserInput("'unusedForDays' takes 0 to 36500.");
    conditions.push(sql`coalesce(u.last_used_at, k.created_at) < (SELECT ledger_now()) - make_interval(days => ${days}::integer)`);
  }
  return conditions.length === 0 ? sql`true` : sql.join(conditions, sql` AND `);
}

function hasStatus(status: KeyStatus): RawBuilder<unknown> {
  const expired = sql`k.expires_at IS NOT NULL AND k.expires_at <= (SELECT ledger_now())`;
  switch (status) {
    case 'DELETED':
      return sql`k.state = 'deleted'`;
    case 'EXPIRED':
      return sql`k.state <> 'deleted' AND ${expired}`;
    case 'ACTIVE':
      return sql`k.state = 'active' AND NOT k.archived AND NOT (${expired})`;
    case 'INACTIVE':
      return sql`(k.state = 'inactive' OR k.state = 'active' AND k.archived) AND NOT (${expired})`;
  }
  return status satisfies never;
}

function escapeLike(text: string): string {
  return text.replaceAll(/[\\%_]/g, (character) => `\\${character}`);
}

function formatCursor({ field, direction }: KeyOrder, value: string, id: string): string {
  return Buffer.from(JSON.stringify([field, direction, value, id])).toString('base64url');
}

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const MOMENT = /^(?:-?infinity|\d{4,6}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?[+-]\d\d(?::?\d\d){0,2})$/;

/** A cursor is read with as much distrust as any input: it has to fit the order that it is used with. */
function parseCursor(cursor: string, { field, direction }: KeyOrder): { readonly value: string; readonly id: string } {
  let parsed: unknown = null;
  try {
    parsed = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
  } catch {
    // refused below with the others
  }
  if (Array.isArray(parsed)) {
    const [madeFor, going, value, id] = parsed as unknown[];
    const fits = madeFor === field && going === direction && typeof value === 'string' && typeof id === 'string' && UUID.test(id);
    if (fits && (field === 'NAME' ? !value.includes('\0') : MOMENT.test(value))) return { value, id };
  }
  throw badUserInput("'after' is no cursor of this list in this order.");
}
