import { sql, type RawBuilder } from 'kysely';

import { usageFacts } from '../projections/usage-facts.ts';
import { GRAINS, MINUTES_KEPT_MS } from '../projections/usage-period.ts';
import type { CheckStep } from './finding.ts';

/** Of one kind and page; the first ones tell what happened. */
export const FINDINGS = 100;

/** The live slot and its checkpoint. */
export const LIVE = sql`SELECT slot, position FROM projections WHERE name = 'usage' AND state = 'live'`;
const GRAIN_NAMES = new Map<number, string>(Object.entries(GRAINS).map(([name, number]) => [number, name.toLowerCase()]));
/** Each grain with its unit and the oldest moment from which on it is compared. */
export const GRAIN_ROWS = sql`
  VALUES (${GRAINS.MINUTE}::smallint, 'minute', now() - make_interval(secs => ${MINUTES_KEPT_MS / 1000})),
         (${GRAINS.HOUR}::smallint, 'hour', '-infinity'::timestamptz), (${GRAINS.DAY}::smallint, 'day', '-infinity'::timestamptz)`;

/** What the events of some keys should have added up to. */
export function pageOfFacts(page: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`
    live AS MATERIALIZED (${LIVE}),
    page AS MATERIALIZED (SELECT * FROM usage_events u WHERE u.key ${page} AND position <= (SELECT position FROM live)),
    fact AS MATERIALIZED (
      SELECT f.* FROM (${usageFacts(sql`page`)}) AS f
      WHERE f.fault IS NULL AND NOT EXISTS (
        SELECT FROM parked_events p WHERE p.projection = 'usage' AND p.slot = (SELECT slot FROM live) AND p.position = f.position)
    )`;
}

export type BucketRow = {
  readonly grain: number;
  readonly organization: number;
  readonly key: number;
  readonly category?: string | null;
  readonly at: Date;
  readonly expected: unknown;
  readonly found: unknown;
};

/** The minute in which the retention begins is cut, not wrong. */
export function isWhole(column: string): RawBuilder<unknown> {
  return sql`(grain > 1 OR ${sql.ref(column)} > now() - make_interval(secs => ${MINUTES_KEPT_MS / 1000}) + interval '1 minute')`;
}

/** Says of each bucket what the log has and what is kept. */
export function reportBuckets(rows: readonly BucketRow[], what: string, { report }: CheckStep): void {
  for (const { grain, organization, key, category, at, expected, found } of rows) {
    const ofCategory = category === undefined ? '' : `category ${category ?? 'unknown'} of `;
    const whose = key === 0 ? `${ofCategory}organization number ${organization}` : `key number ${key}`;
    report({
      kind: 'counter-differs',
      subject: `${what} of ${whose}, ${GRAIN_NAMES.get(grain) ?? grain} ${at.toISOString()}`,
      expected: text(expected),
      found: text(found),
    });
  }
}

function text(sums: unknown): string {
  if (sums == null) return 'none';
  return typeof sums === 'string' ? sums : JSON.stringify(sums);
}
