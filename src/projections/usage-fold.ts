import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { Folded, FoldRequest, Projection } from './projection.ts';
import { categorized, COUNTERS, sumsOf, usageFacts } from './usage-facts.ts';
import { GRAINS, MINUTES_ERASED_MS } from './usage-period.ts';

type Row = {
  readonly position: bigint;
  readonly head: bigint;
  readonly parked: readonly { readonly position: string; readonly reason: string }[] | null;
};

/** The counters per key, category, organization and minute, hour and day, and when each key and category was last used. */
export const USAGE_PROJECTION: Projection = {
  name: 'usage',
  tables: ['usage_counters', 'usage_breakdown', 'key_last_used'],
  fold: (db, request) => withoutNestedLoops(db, (tx) => foldUsage(tx, request)),
  restsInProportion: true,
};

/**
 * The planner can't know how many events a page has, takes them for a few, and then joins what it grouped in nested loops: time by the square of the page.
 * What has to be looked up row by row says so itself.
 */
function withoutNestedLoops<Result>(db: Kysely<Tables>, work: (tx: Kysely<Tables>) => Promise<Result>): Promise<Result> {
  const run = async (tx: Kysely<Tables>): Promise<Result> => {
    await sql`SET LOCAL enable_nestloop = off`.execute(tx);
    return work(tx);
  };
  return db.isTransaction ? run(db) : db.transaction().execute(run);
}

/**
 * Folds the next page of the log, everything in one statement: lock the checkpoint, read, group, add, move the checkpoint.
 *
 * Right under concurrency: the checkpoint's row lock lets one session at a time in, and the others skip. A statement whose snapshot is older than the
 * checkpoint it locked reads fewer events than it could, never one twice, since the lock gives it the newest checkpoint; and the upserts add to
 * the newest row, whatever the snapshot. The log is dense and visible in order of position, so up to the head of the snapshot nothing can be missing.
 */
async function foldUsage(db: Kysely<Tables>, { state, limit }: FoldRequest): Promise<Folded | null> {
  const added = sql.join(COUNTERS.map((name) => sql`${sql.id(name)} = kept.${sql.id(name)} + excluded.${sql.id(name)}`));
  const columns = sql.join(COUNTERS.map((name) => sql.id(name)));
  const { rows } = await sql<Row>`
    WITH checkpoint AS MATERIALIZED (
      SELECT slot, position FROM projections WHERE name = 'usage' AND state = ${state} FOR UPDATE SKIP LOCKED
    ),
    bounds AS MATERIALIZED (
      SELECT slot, position AS after, least(position + ${limit}::bigint, head) AS up_to, head FROM checkpoint, head_position() AS head
    ),
    page AS MATERIALIZED (
      SELECT * FROM usage_events WHERE position > (SELECT after FROM bounds) AND position <= (SELECT up_to FROM bounds)
    ),
    bare AS MATERIALIZED (${usageFacts(sql`page`)}),
    named AS MATERIALIZED (${categorized(sql`bare`)}),
    wanted AS MATERIALIZED (SELECT DISTINCT organization, category FROM named WHERE fault IS NULL AND category IS NOT NULL),
    -- In order, since a rebuild may do the same; DO UPDATE answers the number that a snapshot too old to see it would miss.
    numbered AS (
      INSERT INTO usage_categories (organization, category)
      SELECT organization, category FROM wanted w
      WHERE NOT EXISTS (SELECT FROM usage_categories c WHERE c.organization = w.organization AND c.category = w.category) ORDER BY 1, 2
      ON CONFLICT (organization, category) DO UPDATE SET category = excluded.category RETURNING organization, category, number
    ),
    category AS MATERIALIZED (
      SELECT c.organization, c.category, c.number FROM wanted JOIN usage_categories c USING (organization, category) UNION ALL SELECT * FROM numbered
    ),
    fact AS MATERIALIZED (SELECT f.*, -c.number AS of_category FROM named f LEFT JOIN category c USING (organization, category)),
    per_minute AS MATERIALIZED (
      SELECT f.organization, f.key, f.of_category, date_trunc('minute', f.at, 'UTC') AS at, ${sumsOf('f')}
      FROM fact f WHERE f.fault IS NULL GROUP BY 1, 2, 3, 4
    ),
    -- Each bucket of a key is also one of its category and of its organization (key 0).
    counted AS (
      INSERT INTO usage_counters AS kept (slot, grain, organization, key, at, ${columns})
      SELECT (SELECT slot FROM bounds), g.grain, m.organization, subject.key, date_trunc(g.unit, m.at, 'UTC'), ${sumsOf('m')}
      FROM per_minute m CROSS JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest) CROSS JOIN LATERAL (VALUES (m.key), (m.of_category), (0)) AS subject (key)
      WHERE m.at >= g.oldest AND subject.key IS NOT NULL
      GROUP BY 1, 2, 3, 4, 5
      ON CONFLICT (slot, grain, organization, key, at) DO UPDATE SET ${added}
    ),
    broken_down AS (
      INSERT INTO usage_breakdown AS kept (slot, grain, organization, key, at, dimension, value, events)
      SELECT (SELECT slot FROM bounds), g.grain, m.organization, subject.key, date_trunc(g.unit, m.at, 'UTC'), m.dimension, m.value, sum(m.events)
      FROM (
        SELECT f.organization, f.key, f.of_category, date_trunc('minute', f.at, 'UTC') AS at, d.dimension, d.value, count(*) AS events
        FROM fact f CROSS JOIN LATERAL (VALUES (1, f.refusal), (2, f.model)) AS d (dimension, value)
        WHERE f.fault IS NULL AND d.value IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6
      ) AS m CROSS JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest) CROSS JOIN LATERAL (VALUES (m.key), (m.of_category), (0)) AS subject (key)
      WHERE m.at >= g.oldest AND subject.key IS NOT NULL
      GROUP BY 1, 2, 3, 4, 5, 6, 7
      ON CONFLICT (slot, grain, organization, key, at, dimension, value) DO UPDATE SET events = kept.events + excluded.events
    ),
    last_used AS (
      INSERT INTO key_last_used AS kept (slot, key, organization, last_used_at)
      SELECT (SELECT slot FROM bounds), subject.key, f.organization, max(f.used_at)
      FROM fact f CROSS JOIN LATERAL (VALUES (f.key), (f.of_category)) AS subject (key)
      WHERE f.fault IS NULL AND f.used_at IS NOT NULL AND subject.key IS NOT NULL GROUP BY 2, 3
      ON CONFLICT (slot, key) DO UPDATE SET last_used_at = excluded.last_used_at WHERE excluded.last_used_at > kept.last_used_at
    ),
    parked AS (
      INSERT INTO parked_events (projection, slot, position, reason)
      SELECT 'usage', (SELECT slot FROM bounds), f.position, f.fault FROM fact f WHERE f.fault IS NOT NULL
      RETURNING position, reason
    ),
    moved AS (
      UPDATE projections p SET position = b.up_to FROM bounds b
      WHERE p.name = 'usage' AND p.slot = b.slot AND b.up_to > b.after
    )
    SELECT greatest(b.after, b.up_to) AS position, b.head,
           (SELECT json_agg(json_build_object('position', p.position::text, 'reason', p.reason) ORDER BY p.position) FROM parked p) AS parked
    FROM bounds b`.execute(db);
  const row = rows[0];
  if (row === undefined) return null;
  return {
    position: row.position,
    head: row.head,
    parked: (row.parked ?? []).map(({ position, reason }) => ({ position: BigInt(position), reason })),
  };
}

/** Minutes that are erased anyway are not folded: a rebuild of years would write them all. */
const GRAIN_ROWS = sql`
  VALUES (${GRAINS.MINUTE}::smallint, 'minute', now() - make_interval(secs => ${MINUTES_ERASED_MS / 1000})),
         (${GRAINS.HOUR}::smallint, 'hour', '-infinity'::timestamptz), (${GRAINS.DAY}::smallint, 'day', '-infinity'::timestamptz)`;
