import { sql, type Kysely } from 'kysely';

import type { JsonValue } from '../lib/canonical-json.ts';
import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { STATE_TABLES, type FoldedRow, type StateTable } from './folded-row.ts';
import { foldStreams, type FoldedStream, type StreamChoice, type StreamKind } from './state-fold.ts';

/** Streams in one page. */
export const STATE_PAGE = 200;

/** The tables that a kind of stream folds to. */
export const TABLES_OF: Readonly<Record<StreamKind, readonly StateTable[]>> = {
  organization: ['organizations', 'members'],
  token: ['access_tokens'],
  profile: ['profiles'],
  key: ['api_keys'],
  'alert-rule': ['alert_rules'],
  alert: ['alerts'],
  webhook: ['webhook_endpoints'],
};

/** A row that is not what the log says; `found` null: there is none. */
export type StateDifference = {
  readonly table: StateTable;
  /** The row's primary key as `a/b`. */
  readonly subject: string;
  readonly expected: Readonly<Record<string, JsonValue>>;
  /** The columns that differ, as the table has them. */
  readonly found: Readonly<Record<string, JsonValue>> | null;
  readonly columns: readonly string[];
  /** Which version of the row was compared. */
  readonly rowVersion: string | null;
};

type Row = {
  readonly subject: string;
  readonly row_version: string | null;
  readonly columns: readonly string[];
  readonly expected: Readonly<Record<string, JsonValue>>;
  readonly found: Readonly<Record<string, JsonValue>> | null;
};

/** Compares rows of one table with those folded, column by column, in the database's own types. */
async function differencesOf(db: Kysely<Tables>, table: StateTable, rows: readonly FoldedRow[]): Promise<readonly StateDifference[]> {
  const expected = JSON.stringify(rows.filter((row) => row.table === table).map(({ row }) => row));
  const keys = STATE_TABLES[table];
  const sameKey = sql.join(
    keys.map((key) => sql`f.${sql.id(key)} = e.${sql.id(key)}`),
    sql` AND `,
  );
  const subject = sql.join(
    keys.map((key) => sql`e.${sql.id(key)}::text`),
    sql` || '/' || `,
  );
  const { rows: found } = await sql<Row>`
    SELECT ${subject} AS subject, f.xmin::text AS row_version, d.columns, d.expected, CASE WHEN f.xmin IS NOT NULL THEN coalesce(d.found, '{}') END AS found
    FROM json_populate_recordset(NULL::${sql.table(table)}, ${expected}::json) AS e
    LEFT JOIN ${sql.table(table)} f ON ${sameKey}
    CROSS JOIN LATERAL (
      SELECT array_agg(key ORDER BY key) AS columns, jsonb_object_agg(key, x.value) AS expected, jsonb_object_agg(key, y.value) AS found
      FROM jsonb_each(to_jsonb(e)) AS x FULL JOIN jsonb_each(to_jsonb(f)) AS y USING (key)
      WHERE x.value IS DISTINCT FROM y.value) AS d
    WHERE d.columns IS NOT NULL`.execute(db);
  return found.map((row) => ({
    table,
    subject: row.subject,
    columns: row.columns,
    expected: row.expected,
    found: row.found,
    rowVersion: row.row_version,
  }));
}

export type ComparedPage = { readonly folded: readonly FoldedStream[]; readonly differences: readonly StateDifference[] };

/**
 * Streams folded and compared with their rows in one snapshot, so that commands which run meanwhile make no difference. `also` looks at more in the same
 * snapshot. A page without streams is the end.
 */
export async function compareStreams(
  database: Database,
  kind: StreamKind,
  choice: StreamChoice,
  also: (tx: Kysely<Tables>, folded: readonly FoldedStream[]) => Promise<void> = () => Promise.resolve(),
): Promise<ComparedPage> {
  return database.kysely
    .transaction()
    .setIsolationLevel('repeatable read')
    .setAccessMode('read only')
    .execute(async (tx) => {
      const folded = await foldStreams(tx, kind, choice);
      const rows = folded.flatMap((stream) => (stream.kind === 'folded' ? stream.rows : []));
      const differences: StateDifference[] = [];
      for (const table of TABLES_OF[kind]) differences.push(...(await differencesOf(tx, table, rows)));
      await also(tx, folded);
      return { folded, differences };
    });
}

/** Rows that no stream of the log accounts for, by primary key. */
export async function unaccountedRows(db: Kysely<Tables>, table: StateTable): Promise<readonly string[]> {
  const { rows } = await sql<{ subject: string }>`${UNACCOUNTED[table]}`.execute(db);
  return rows.map((row) => row.subject);
}

const UNACCOUNTED = {
  organizations: sql`SELECT id::text AS subject FROM organizations o WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'organization:' || o.id) ORDER BY 1`,
  members: sql`
    SELECT m.organization_id || '/' || m.id AS subject FROM members m
    WHERE NOT EXISTS (
      SELECT FROM events e
      WHERE e.stream = 'organization:' || m.organization_id AND e.type = 'MemberAdded' AND (e.data ->> 'memberId') = m.id::text) ORDER BY 1`,
  access_tokens: sql`SELECT id::text AS subject FROM access_tokens t WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'token:' || t.id) ORDER BY 1`,
  webhook_endpoints: sql`SELECT id::text AS subject FROM webhook_endpoints w WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'webhook:' || w.id) ORDER BY 1`,
  profiles: sql`
    SELECT id::text AS subject FROM profiles p
    WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'profile:' || p.id)
      OR EXISTS (SELECT FROM events e WHERE e.stream = 'profile:' || p.id AND e.type = 'ProfileDeleted') ORDER BY 1`,
  api_keys: sql`SELECT id::text AS subject FROM api_keys k WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'key:' || k.id) ORDER BY 1`,
  alert_rules: sql`SELECT id::text AS subject FROM alert_rules r WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'alert-rule:' || r.id) ORDER BY 1`,
  alerts: sql`SELECT id::text AS subject FROM alerts a WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream = 'alert:' || a.id) ORDER BY 1`,
} as const;
