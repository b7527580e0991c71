import { sql, type Kysely } from 'kysely';

import type { Tables } from '../../src/postgres/tables.ts';

type Row = {
  readonly key: number;
  readonly total: bigint;
  readonly second_bucket: bigint;
  readonly second_count: bigint;
  readonly minute_closed: bigint;
  readonly token_count: bigint;
  readonly token_closed: bigint;
  readonly half_hour_bucket: number;
  readonly half_hour_count: bigint;
  readonly day_closed: bigint;
  readonly quarter_bucket: number;
  readonly quarter_count: bigint;
  readonly week_closed: bigint;
  readonly month_closed: bigint;
  readonly seconds: readonly bigint[];
  readonly tokens: readonly bigint[];
  readonly half_hours: readonly bigint[];
  readonly quarters: readonly bigint[];
};
type Used = { readonly key: number; readonly epoch: number; readonly credits: bigint; readonly tokens: bigint };

const LAST_SECOND_OF_MINUTE = 60;
const HALF_HOURS_OF_DAY = 48;
const QUARTERS_OF_WEEK = 28;
const QUARTERS_OF_MONTH = 120;

/**
 * Differences between the windows of keys, each as of its own last moment, and what their usage events add up to; computed here from the events alone. Of one snapshot, so that it can be
 * asked while they are used.
 */
export function windowFaults(db: Kysely<Tables>): Promise<readonly string[]> {
  return db.transaction().setIsolationLevel('repeatable read').execute(faultsIn);
}

async function faultsIn(db: Kysely<Tables>): Promise<readonly string[]> {
  const { rows } = await sql<Row>`SELECT * FROM key_windows JOIN key_window_buckets USING (key) ORDER BY key`.execute(db);
  const { rows: used } = await sql<Used>`
    SELECT key, extract(epoch FROM least(occurred_at, recorded_at))::float8 AS epoch, credits::bigint AS credits, coalesce(tokens_in, 0) + coalesce(tokens_out, 0) AS tokens
    FROM usage_events`.execute(db);
  const usedByKey = Map.groupBy(used, (one) => one.key);
  return rows.flatMap((row) => faultsOf(row, usedByKey.get(row.key) ?? []).map((fault) => `key ${row.key}: ${fault}`));
}

/** Differences between the windows of organizations and what the log says of the time that they cover. */
export async function organizationWindowFaults(db: Kysely<Tables>): Promise<readonly string[]> {
  const { rows } = await sql<{ organization: number; kept: string; logged: string }>`
    WITH used AS (
      SELECT organization, floor(extract(epoch FROM recorded_at) * 20)::bigint AS tick, floor(extract(epoch FROM recorded_at))::bigint AS second, credits FROM usage_events
    ),
    compared AS (
      SELECT w.organization,
        json_build_array(w.tick_count, w.second_closed, sum_of(w.ticks), w.second_count, w.minute_closed, sum_of(w.seconds))::text AS kept,
        json_build_array(l.tick_count, l.second_closed, l.second_closed, l.second_count, l.minute_closed, l.minute_closed)::text AS logged
      FROM organization_windows w CROSS JOIN LATERAL (
        SELECT coalesce(sum(credits) FILTER (WHERE tick = w.tick_bucket), 0) AS tick_count,
          coalesce(sum(credits) FILTER (WHERE tick BETWEEN w.tick_bucket - 20 AND w.tick_bucket - 1), 0) AS second_closed,
          coalesce(sum(credits) FILTER (WHERE second = w.second_bucket), 0) AS second_count,
          coalesce(sum(credits) FILTER (WHERE second BETWEEN w.second_bucket - 60 AND w.second_bucket - 1), 0) AS minute_closed
        FROM used u WHERE u.organization = w.organization
      ) AS l
    )
    SELECT * FROM compared WHERE kept <> logged`.execute(db);
  return rows.map((row) => `organization ${row.organization} has ${row.kept}, the log says ${row.logged}`);
}

function faultsOf(row: Row, used: readonly Used[]): readonly string[] {
  /** Amounts by sub-bucket, the current one first, then those before it. */
  const spread = (bucket: number, widthSeconds: number, length: number, amount: (one: Used) => bigint): readonly bigint[] => {
    const counts = Array.from({ length: length + 1 }, () => 0n);
    for (const one of used) {
      const age = bucket - Math.floor(one.epoch / widthSeconds);
      if (age >= 0 && age <= length) counts[age] = (counts[age] ?? 0n) + amount(one);
    }
    return counts;
  };
  const credits = (one: Used): bigint => one.credits;
  const seconds = spread(Number(row.second_bucket), 1, LAST_SECOND_OF_MINUTE, credits);
  const tokens = spread(Number(row.second_bucket), 1, LAST_SECOND_OF_MINUTE, (one) => one.tokens);
  const halfHours = spread(row.half_hour_bucket, 1800, HALF_HOURS_OF_DAY, credits);
  const quarters = spread(row.quarter_bucket, 21_600, QUARTERS_OF_MONTH, credits);
  const faults: string[] = [];
  const compare = (name: string, kept: readonly bigint[], expected: readonly bigint[]): void => {
    const padded = expected.map((_, index) => kept[index] ?? 0n);
    if (padded.join() !== expected.join() || kept.length > expected.length)
      faults.push(`${name} are ${trimmed(kept)}, the log says ${trimmed(expected)}`);
  };
  compare('total', [row.total], [total(used.map(credits))]);
  compare('seconds', [row.second_count, ...row.seconds], seconds);
  compare('tokens', [row.token_count, ...row.tokens], tokens);
  compare('half hours', [row.half_hour_count, ...row.half_hours], halfHours);
  compare('quarters of days', [row.quarter_count, ...row.quarters], quarters);
  compare(
    'sums of closed sub-buckets',
    [row.minute_closed, row.token_closed, row.day_closed, row.week_closed, row.month_closed],
    [seconds, tokens, halfHours, quarters.slice(0, QUARTERS_OF_WEEK + 1), quarters].map((counts) => total(counts.slice(1))),
  );
  return faults;
}

function total(counts: readonly bigint[]): bigint {
  return counts.reduce((sum, count) => sum + count, 0n);
}

function trimmed(counts: readonly bigint[]): string {
  return counts.join(' ').replace(/( 0)+$/, ' …');
}
