import { sql, type Kysely, type RawBuilder } from 'kysely';

import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { COUNTERS, sumsOf } from '../projections/usage-facts.ts';
import { checkCategories } from './check-categories.ts';
import type { CheckStep } from './finding.ts';
import { FINDINGS, GRAIN_ROWS, isWhole, LIVE, pageOfFacts, reportBuckets, type BucketRow } from './usage-buckets.ts';

/** Keys, by their numbers, in one statement. */
const KEYS = 100;
/**
 * The counters, breakdowns and last-used moments are what the usage events up to the projector's checkpoint add up to; the windows what all events
 * do. Each statement sees log, checkpoint and counters at one moment, so traffic and projector can go on.
 */
export async function checkUsage(database: Database, step: CheckStep): Promise<void> {
  const { kysely: db } = database;
  await checkProgress(db, step);
  const end = await lastKeyNumber(db);
  for (let from = 1; from <= end && step.signal?.aborted !== true; from += KEYS) {
    const page = sql`BETWEEN ${from}::integer AND ${from + KEYS - 1}::integer`;
    await checkCounters(db, page, step);
    await checkBreakdown(db, page, step);
    await checkLastUsed(db, page, step);
    await checkWindows(db, page, step);
    step.progress(Math.min(end, from + KEYS - 1), end);
  }
  if (step.signal?.aborted !== true) await checkOrganizations(db, step);
  if (step.signal?.aborted !== true) await checkCategories(database, step);
}

/** Key numbers above the last one given would be damage too, so the counters are asked as well. */
async function lastKeyNumber(db: Kysely<Tables>): Promise<number> {
  const { rows } = await sql<{ last: number }>`
    SELECT greatest((SELECT max(number) FROM api_keys), (SELECT max(key) FROM key_last_used), (SELECT max(key) FROM usage_counters WHERE grain = 3), (SELECT max(key) FROM usage_open_minutes), 0) AS last`.execute(
    db,
  );
  return rows[0]?.last ?? 0;
}

async function checkProgress(db: Kysely<Tables>, { report }: CheckStep): Promise<void> {
  // The head first: it can only have grown when the checkpoint is read.
  const { rows } = await sql<{ position: bigint; head: bigint; parked: readonly { position: string; reason: string }[] | null }>`
    SELECT l.position, head_position() AS head,
           (SELECT json_agg(json_build_object('position', p.position::text, 'reason', p.reason) ORDER BY p.position)
            FROM (SELECT * FROM parked_events WHERE projection = 'usage' AND slot = l.slot ORDER BY position LIMIT ${FINDINGS}) AS p) AS parked
    FROM (${LIVE}) AS l`.execute(db);
  const row = rows[0];
  if (row === undefined) return report({ kind: 'projection-ahead', subject: 'projection usage', expected: 'a live slot', found: 'none' });
  if (row.position > row.head) {
    report({
      kind: 'projection-ahead',
      subject: 'projection usage',
      expected: `a checkpoint up to the log's head ${row.head}`,
      found: `checkpoint ${row.position}`,
    });
  }
  for (const { position, reason } of row.parked ?? []) {
    report({ kind: 'event-parked', subject: `position ${position}`, expected: 'counted', found: `set aside: ${reason}` });
  }
}

async function checkCounters(db: Kysely<Tables>, page: RawBuilder<unknown>, step: CheckStep): Promise<void> {
  const { rows } = await sql<BucketRow>`
    WITH ${pageOfFacts(page)},
    expected AS (
      SELECT g.grain, f.organization, f.key, date_trunc(g.unit, f.at, 'UTC') AS at, json_build_array(${counterSums('f')})::text AS sums
      FROM fact f CROSS JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest) WHERE f.at >= g.oldest GROUP BY 1, 2, 3, 4
    ),
    kept AS (
      SELECT c.grain, c.organization, c.key, c.at, json_build_array(${counterSums('c')})::text AS sums
      FROM usage_sums c JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest) ON g.grain = c.grain AND c.at >= g.oldest
      WHERE c.slot = (SELECT slot FROM live) AND c.key ${page} GROUP BY 1, 2, 3, 4
    )
    SELECT grain, organization, key, at, e.sums AS expected, k.sums AS found
    FROM expected e FULL JOIN kept k USING (grain, organization, key, at)
    WHERE e.sums IS DISTINCT FROM k.sums AND ${isWhole('at')}
    ORDER BY grain DESC, organization, key, at LIMIT ${FINDINGS}`.execute(db);
  reportBuckets(rows, 'counters', step);
}

function counterSums(alias: string): RawBuilder<unknown> {
  return sql.join(COUNTERS.map((name) => sql`coalesce(sum(${sql.ref(`${alias}.${name}`)}), 0)::bigint`));
}

async function checkBreakdown(db: Kysely<Tables>, page: RawBuilder<unknown>, step: CheckStep): Promise<void> {
  const { rows } = await sql<BucketRow>`
    WITH ${pageOfFacts(page)},
    expected AS (
      SELECT g.grain, f.organization, f.key, date_trunc(g.unit, f.at, 'UTC') AS at, d.dimension, d.value, count(*) AS events
      FROM fact f CROSS JOIN LATERAL (VALUES (1::smallint, f.refusal), (2::smallint, f.model)) AS d (dimension, value) CROSS JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest)
      WHERE d.value IS NOT NULL AND f.at >= g.oldest GROUP BY 1, 2, 3, 4, 5, 6
    ),
    kept AS (
      SELECT c.* FROM usage_breakdown c JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest) ON g.grain = c.grain AND c.at >= g.oldest
      WHERE c.slot = (SELECT slot FROM live) AND c.key ${page}
    )
    SELECT grain, organization, key, at, CASE dimension WHEN 1 THEN 'refusals ' ELSE 'model ' END || value || ': ' || coalesce(e.events, 0) AS expected, coalesce(k.events, 0)::text AS found
    FROM expected e FULL JOIN kept k USING (grain, organization, key, at, dimension, value)
    WHERE e.events IS DISTINCT FROM k.events AND ${isWhole('at')}
    ORDER BY grain DESC, organization, key, at LIMIT ${FINDINGS}`.execute(db);
  reportBuckets(rows, 'breakdown', step);
}

async function checkLastUsed(db: Kysely<Tables>, page: RawBuilder<unknown>, { report }: CheckStep): Promise<void> {
  const { rows } = await sql<{ key: number; expected: string | null; found: string | null }>`
    WITH ${pageOfFacts(page)}
    SELECT key, e.used_at::text AS expected, k.last_used_at::text AS found
    FROM (SELECT organization, key, max(used_at) AS used_at FROM fact WHERE used_at IS NOT NULL GROUP BY organization, key) AS e
    FULL JOIN (SELECT organization, key, last_used_at FROM key_last_used WHERE slot = (SELECT slot FROM live) AND key ${page}) AS k USING (organization, key)
    WHERE e.used_at IS DISTINCT FROM k.last_used_at ORDER BY key LIMIT ${FINDINGS}`.execute(db);
  for (const { key, expected, found } of rows) {
    report({ kind: 'last-used-differs', subject: `key number ${key}`, expected: expected ?? 'never', found: found ?? 'never' });
  }
}

/** The windows that admission decides by, each sub-bucket of them, as of the moment to which they were brought forward. */
async function checkWindows(db: Kysely<Tables>, page: RawBuilder<unknown>, { report }: CheckStep): Promise<void> {
  const { rows } = await sql<{ key: number; kept: string; expected: string; found: string }>`
    SELECT k.number AS key, d.kept, d.expected, d.found FROM api_keys k CROSS JOIN LATERAL window_differences(k.number) AS d WHERE k.number ${page}
    UNION ALL
    SELECT k.number, 'all', 'windows', 'none' FROM api_keys k WHERE k.number ${page} AND NOT EXISTS (SELECT FROM key_windows w WHERE w.key = k.number)
    ORDER BY 1 LIMIT ${FINDINGS}`.execute(db);
  for (const { key, kept, expected, found } of rows)
    report({ kind: 'window-differs', subject: `${kept} of key number ${key}`, expected, found });
}

/** An organization's buckets (key 0) are the sums of its keys'. */
async function checkOrganizations(db: Kysely<Tables>, step: CheckStep): Promise<void> {
  for (const [table, extra, sums, what] of [
    ['usage_sums', sql``, sumsOf('c'), 'counters'],
    ['usage_breakdown', sql`, dimension, value`, sql`sum(c.events)::bigint AS events`, 'breakdown'],
  ] as const) {
    const { rows } = await sql<BucketRow>`
      WITH live AS MATERIALIZED (${LIVE}),
      total AS (SELECT c.grain, c.organization, c.at ${extra}, ${sums} FROM ${sql.table(table)} c WHERE c.slot = (SELECT slot FROM live) AND c.key > 0 GROUP BY grain, organization, at ${extra}),
      whole AS (SELECT c.grain, c.organization, c.at ${extra}, ${sums} FROM ${sql.table(table)} c WHERE c.slot = (SELECT slot FROM live) AND c.key = 0 GROUP BY grain, organization, at ${extra})
      SELECT grain, organization, 0 AS key, at, to_jsonb(t) - ARRAY['grain', 'organization', 'at'] AS expected, to_jsonb(w) - ARRAY['grain', 'organization', 'at'] AS found
      FROM total t FULL JOIN whole w USING (grain, organization, at ${extra})
      WHERE to_jsonb(t) IS DISTINCT FROM to_jsonb(w) AND ${isWhole('at')}
      ORDER BY grain DESC, organization, at LIMIT ${FINDINGS}`.execute(db);
    reportBuckets(rows, what, step);
  }
}
