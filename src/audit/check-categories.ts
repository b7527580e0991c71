import { sql } from 'kysely';

import type { Database } from '../postgres/pool.ts';
import { categorized, COUNTERS, RECATEGORIZED, sumsOf } from '../projections/usage-facts.ts';
import type { CheckStep } from './finding.ts';
import { FINDINGS, GRAIN_ROWS, isWhole, pageOfFacts, reportBuckets, type BucketRow } from './usage-buckets.ts';

/**
 * A category's buckets are the sums of its keys', which were compared with the log before; of keys that have been in several categories, the sums of the
 * events themselves.
 */
export async function checkCategories({ kysely: db }: Database, step: CheckStep): Promise<void> {
  const moved = sql`IN (SELECT k.number FROM api_keys k JOIN events e ON e.stream = 'key:' || k.id WHERE ${RECATEGORIZED})`;
  const facts = sql`
    WITH ${pageOfFacts(moved)},
    categorized AS MATERIALIZED (${categorized(sql`fact`)}),
    stayed AS MATERIALIZED (SELECT k.number AS key, k.category FROM api_keys k WHERE NOT k.number ${moved})`;
  for (const [table, extra, dimensions, sums, factSums, what] of [
    ['usage_sums', sql``, sql``, sumsOf('c'), sumsOf('f'), 'counters'],
    [
      'usage_breakdown',
      sql`, dimension, value`,
      sql`CROSS JOIN LATERAL (VALUES (1::smallint, f.refusal), (2::smallint, f.model)) AS d (dimension, value)`,
      sql`sum(c.events)::bigint AS events`,
      sql`count(d.value) AS events`,
      'breakdown',
    ],
  ] as const) {
    const names = what === 'counters' ? COUNTERS : (['events'] as const);
    const { rows } = await sql<BucketRow & { readonly category: string }>`
      ${facts},
      total AS (
        SELECT p.grain, p.organization, p.category, p.at ${extra}, ${sql.join(names.map((name) => sql`sum(p.${sql.id(name)})::bigint AS ${sql.id(name)}`))}
        FROM (
          SELECT c.grain, c.organization, s.category, c.at ${extra}, ${sums}
          FROM ${sql.table(table)} c JOIN stayed s ON s.key = c.key WHERE c.slot = (SELECT slot FROM live) GROUP BY 1, 2, 3, 4 ${extra}
          UNION ALL
          SELECT g.grain, f.organization, f.category, date_trunc(g.unit, f.at, 'UTC') AS at ${extra}, ${factSums}
          FROM categorized f ${dimensions} CROSS JOIN (${GRAIN_ROWS}) AS g (grain, unit, oldest)
          WHERE f.at >= g.oldest ${what === 'counters' ? sql`` : sql`AND d.value IS NOT NULL`} GROUP BY 1, 2, 3, 4 ${extra}
        ) AS p GROUP BY 1, 2, 3, 4 ${extra}
      ),
      whole AS (
        SELECT c.grain, c.organization, n.category, c.at ${extra}, ${sums}
        FROM ${sql.table(table)} c LEFT JOIN usage_categories n ON n.number = -c.key AND n.organization = c.organization
        WHERE c.slot = (SELECT slot FROM live) AND c.key < 0 GROUP BY 1, 2, 3, 4 ${extra}
      )
      SELECT grain, organization, 0 AS key, category, at, to_jsonb(t) - ARRAY['grain', 'organization', 'category', 'at'] AS expected,
             to_jsonb(w) - ARRAY['grain', 'organization', 'category', 'at'] AS found
      FROM total t FULL JOIN whole w USING (grain, organization, category, at ${extra})
      WHERE to_jsonb(t) IS DISTINCT FROM to_jsonb(w) AND ${isWhole('at')}
      ORDER BY grain DESC, organization, category, at LIMIT ${FINDINGS}`.execute(db);
    reportBuckets(rows, what, step);
  }
  const { rows } = await sql<{ organization: number; category: string | null; expected: string | null; found: string | null }>`
    ${facts}
    SELECT organization, category, e.used_at::text AS expected, k.last_used_at::text AS found
    FROM (
      SELECT u.organization, u.category, max(u.used_at) AS used_at
      FROM (
        SELECT l.organization, s.category, l.last_used_at AS used_at FROM key_last_used l JOIN stayed s ON s.key = l.key WHERE l.slot = (SELECT slot FROM live)
        UNION ALL SELECT f.organization, f.category, f.used_at FROM categorized f WHERE f.used_at IS NOT NULL
      ) AS u GROUP BY 1, 2
    ) AS e
    FULL JOIN (
      SELECT l.organization, n.category, l.last_used_at FROM key_last_used l LEFT JOIN usage_categories n ON n.number = -l.key AND n.organization = l.organization
      WHERE l.slot = (SELECT slot FROM live) AND l.key < 0
    ) AS k USING (organization, category)
    WHERE e.used_at IS DISTINCT FROM k.last_used_at ORDER BY 1, 2 LIMIT ${FINDINGS}`.execute(db);
  for (const { organization, category, expected, found } of rows) {
    step.report({
      kind: 'last-used-differs',
      subject: `category ${category ?? 'unknown'} of organization number ${organization}`,
      expected: expected ?? 'never',
      found: found ?? 'never',
    });
  }
}
