import { sql, type Kysely } from 'kysely';

import { evolveKey, ABSENT_KEY, type KeyState } from '../../src/domain/api-key.ts';
import { parseEvent } from '../../src/domain/event.ts';
import { readLog } from '../../src/ledger/read.ts';
import type { Tables } from '../../src/postgres/tables.ts';
import { keyRow } from '../../src/projections/key-row.ts';

/** What is wrong with the log's numbering; empty where positions run 1 … head without hole or double. */
export async function numberingFaults(db: Kysely<Tables>): Promise<readonly string[]> {
  const { rows } = await sql<{ count: bigint; distinct: bigint; head: bigint }>`
    SELECT count(*) AS count, count(DISTINCT position) AS distinct, coalesce(max(position), 0) AS head
    FROM (SELECT position FROM events UNION ALL SELECT position FROM usage_events) AS log`.execute(db);
  const log = rows[0];
  if (log === undefined) return ['the log could not be read'];
  return [
    ...(log.count === log.distinct ? [] : [`${log.count - log.distinct} positions are taken twice`]),
    ...(log.distinct === log.head ? [] : [`the head is ${log.head}, but there are ${log.distinct} positions`]),
  ];
}

/** Differences between the rows that access is decided on and the fold of the log. */
export async function keyRowFaults(db: Kysely<Tables>): Promise<readonly string[]> {
  const events = await db
    .selectFrom('events')
    .select(['stream', 'version', 'type', 'data'])
    .where('stream', 'like', 'key:%')
    .orderBy('position')
    .execute();
  const states = new Map<string, { state: KeyState; version: number }>();
  for (const event of events) {
    const before = states.get(event.stream) ?? { state: ABSENT_KEY, version: 0 };
    states.set(event.stream, { state: evolveKey(before.state, parseEvent.key(event.type, event.data)), version: event.version });
  }
  const rows = await db.selectFrom('api_keys').selectAll().execute();
  const faults = rows.length === states.size ? [] : [`${rows.length} rows for ${states.size} keys`];
  for (const row of rows) {
    const folded = states.get(`key:${row.id}`);
    if (folded === undefined || folded.state.kind === 'absent') {
      faults.push(`${row.id} has a row but no events`);
      continue;
    }
    const expected = keyRow(folded.state);
    if (row.version !== folded.version) faults.push(`${row.id} is at version ${row.version}, the log at ${folded.version}`);
    if (row.state !== expected.state || row.name !== expected.name || JSON.stringify(row.metadata) !== expected.metadata)
      faults.push(`${row.id} differs from its events`);
  }
  return faults;
}

/** Differences between each key's all-time counter and its usage events. */
export async function totalFaults(db: Kysely<Tables>): Promise<readonly string[]> {
  const { rows } = await sql<{ key: number; total: bigint; logged: bigint }>`
    SELECT w.key, w.total, coalesce(sum(u.credits), 0)::bigint AS logged
    FROM key_windows w LEFT JOIN usage_events u ON u.key = w.key
    GROUP BY w.key, w.total HAVING w.total <> coalesce(sum(u.credits), 0)`.execute(db);
  return rows.map((row) => `key ${row.key} has counted ${row.total}, the log says ${row.logged}`);
}

/** Every position of the log, read in pages. */
export async function allPositions(db: Kysely<Tables>): Promise<readonly bigint[]> {
  const positions: bigint[] = [];
  for (;;) {
    const page = await readLog(db, {}, { after: positions.at(-1) ?? 0n, limit: 1000 });
    if (page.length === 0) return positions;
    positions.push(...page.map((entry) => entry.position));
  }
}
