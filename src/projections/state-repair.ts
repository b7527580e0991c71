import { sql, type Kysely } from 'kysely';

import type { JsonValue } from '../lib/canonical-json.ts';
import { isPostgresError } from '../ledger/append.ts';
import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { compareStreams, STATE_PAGE, TABLES_OF, unaccountedRows, type StateDifference } from './state-difference.ts';
import { keyOf, keyPart, STATE_TABLES, type FoldedRow } from './folded-row.ts';
import { STREAM_KINDS, type FoldedStream, type StreamKind } from './state-fold.ts';

/** A stream that a command changes between compare and write is compared again, alone and so faster. */
const ATTEMPTS = 100;

export type StateRepairProgress = { readonly kind: StreamKind; readonly streams: number };

export type StateRepairOutcome = {
  readonly interrupted: boolean;
  readonly streams: number;
  /** Rows written anew. */
  readonly repaired: readonly string[];
  /** What could not be mended, in words. */
  readonly left: readonly string[];
};

/**
 * Folds every stream of the given kinds and writes the rows that are not what they fold to, while the service runs. Starts from the beginning each time:
 * a comparison that finds nothing writes nothing.
 */
export async function repairState(
  database: Database,
  options: {
    readonly kinds: readonly StreamKind[];
    readonly onProgress: (progress: StateRepairProgress) => void;
    readonly signal?: AbortSignal;
  },
): Promise<StateRepairOutcome> {
  const repaired: string[] = [];
  const left: string[] = [];
  let streams = 0;
  for (const kind of STREAM_KINDS.filter((wanted) => options.kinds.includes(wanted))) {
    let after: string | null = null;
    let done = 0;
    for (;;) {
      if (options.signal?.aborted === true) return { interrupted: true, streams, repaired, left };
      const page = await repairPage(database, kind, after);
      repaired.push(...page.repaired);
      left.push(...page.left);
      streams += page.streams;
      options.onProgress({ kind, streams: (done += page.streams) });
      if (page.last === null) break;
      after = page.last;
    }
    for (const table of TABLES_OF[kind]) {
      const strangers = await unaccountedRows(database.kysely, table);
      left.push(
        ...strangers.map((subject) => `${table} ${subject} is not in the log; the server may not delete it, the owner of the tables can`),
      );
    }
  }
  return { interrupted: false, streams, repaired, left };
}

type Page = {
  readonly last: string | null;
  readonly streams: number;
  readonly repaired: readonly string[];
  readonly left: readonly string[];
};

async function repairPage(database: Database, kind: StreamKind, after: string | null): Promise<Page> {
  const page = await compareStreams(database, kind, { after, limit: STATE_PAGE });
  const damaged = new Set(page.differences.map((difference) => rowOf(page.folded, difference).stream));
  const repaired = new Set<string>();
  const left = page.folded.flatMap((stream) =>
    stream.kind === 'unreadable' ? [`${stream.stream} can't be folded: ${stream.reason}`] : [],
  );
  for (const stream of damaged) {
    const outcome = await repairStream(database, kind, stream);
    for (const row of outcome.repaired) repaired.add(row);
    left.push(...outcome.left);
  }
  return { last: page.folded.at(-1)?.stream ?? null, streams: page.folded.length, repaired: [...repaired], left };
}

/** Compares and writes until there is nothing left to write: what was written is compared once more, since a command may have gone by in between. */
async function repairStream(
  database: Database,
  kind: StreamKind,
  stream: string,
): Promise<{ readonly repaired: readonly string[]; readonly left: readonly string[] }> {
  const repaired: string[] = [];
  for (let attempt = 1; ; attempt++) {
    const { folded, differences } = await compareStreams(database, kind, { stream });
    if (differences.length === 0) return { repaired, left: [] };
    if (attempt > ATTEMPTS) return { repaired, left: [`${stream} is changed by commands all the time; run this again`] };
    const refused: string[] = [];
    for (const difference of differences) {
      const name = `${difference.table} ${difference.subject}`;
      const outcome = await write(database.kysely, difference, rowOf(folded, difference).row);
      if (outcome === 'written') repaired.push(name);
      else if (outcome !== 'changed meanwhile') refused.push(`${name} could not be written: ${outcome}`);
    }
    if (refused.length === differences.length) return { repaired, left: refused };
  }
}

function rowOf(
  folded: readonly FoldedStream[],
  { table, subject }: StateDifference,
): { readonly stream: string; readonly row: FoldedRow['row'] } {
  for (const stream of folded) {
    const found = stream.kind === 'folded' ? stream.rows.find((row) => row.table === table && keyOf(row) === subject) : undefined;
    if (found !== undefined) return { stream: stream.stream, row: found.row };
  }
  throw new Error(`There is no folded row for ${table} ${subject}.`);
}

/**
 * Writes one row as folded. Right under concurrency: every command writes the row in the statement that appends, so while the row still is the very
 * version that was compared (xmin), nothing was appended since either. A row that is missing is inserted, and compared again.
 */
async function write(
  db: Kysely<Tables>,
  { table, found, rowVersion }: StateDifference,
  row: Readonly<Record<string, JsonValue>>,
): Promise<'written' | 'changed meanwhile' | (string & {})> {
  const columns = sql.join(Object.keys(row).map((name) => sql.id(name)));
  const values = sql`SELECT ${columns} FROM json_populate_record(NULL::${sql.table(table)}, ${JSON.stringify(row)}::json)`;
  const sameKey = sql.join(
    STATE_TABLES[table].map((key) => sql`${sql.id(key)} = ${keyPart(row, key)}::uuid`),
    sql` AND `,
  );
  try {
    // Servers that keep facts of such rows in memory compare the revision.
    const { numAffectedRows } = await (
      found === null
        ? sql`WITH revised AS (UPDATE state_revision SET revision = revision + 1) INSERT INTO ${sql.table(table)} (${columns}) ${values} ON CONFLICT DO NOTHING`
        : sql`WITH revised AS (UPDATE state_revision SET revision = revision + 1) UPDATE ${sql.table(table)} SET (${columns}) = (${values}) WHERE ${sameKey} AND xmin = ${rowVersion}::xid`
    ).execute(db);
    return numAffectedRows === 1n ? 'written' : 'changed meanwhile';
  } catch (error) {
    if (isPostgresError(error) && error.code.startsWith('23')) return error.message;
    throw error;
  }
}
