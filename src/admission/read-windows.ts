import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';

export type QuotaWindow = {
  readonly window: 'TOTAL' | 'DAILY' | 'WEEKLY' | 'MONTHLY';
  readonly limit: bigint;
  readonly used: bigint;
  readonly remaining: bigint;
  /** When a request could pass again; null where one can pass now, or never will by waiting. */
  readonly availableAt: Date | null;
};
export type LimitWindow = {
  readonly unit: 'REQUESTS' | 'TOKENS';
  readonly windowSeconds: number;
  readonly limit: bigint;
  readonly remaining: bigint;
};
export type KeyWindows = { readonly quotas: readonly QuotaWindow[]; readonly limits: readonly LimitWindow[] };

/** A key's caps, and what of each is used. */
export type CapColumns = {
  readonly quota_total: bigint | null;
  readonly quota_daily: bigint | null;
  readonly quota_weekly: bigint | null;
  readonly quota_monthly: bigint | null;
  readonly requests_per_minute: bigint | null;
  readonly tokens_per_minute: bigint | null;
  readonly total: bigint;
  readonly day: bigint;
  readonly week: bigint;
  readonly month: bigint;
  readonly minute: bigint;
  readonly tokens: bigint;
};
type Used = { readonly limit: bigint; readonly used: bigint };
export type CapsInUse = {
  readonly quotas: readonly (Used & Pick<QuotaWindow, 'window'>)[];
  readonly limits: readonly (Used & Pick<LimitWindow, 'unit'>)[];
};

type Row = CapColumns & {
  readonly number: number;
  readonly day_at: Date | null;
  readonly week_at: Date | null;
  readonly month_at: Date | null;
};

/** The windows of keys as they stand now, by key number, without changing them: what has left a window since its last verification is left out. */
export async function readWindows(db: Kysely<Tables>, keyNumbers: readonly number[]): Promise<ReadonlyMap<number, KeyWindows>> {
  const { rows } = await sql<Row>`
    SELECT k.number, k.quota_total, k.quota_daily, k.quota_weekly, k.quota_monthly, k.requests_per_minute, k.tokens_per_minute, w.total,
      sum_of(c.half_hours) AS day, sum_of(c.quarters[1:29]) AS week, sum_of(c.quarters) AS month, sum_of(c.seconds) AS minute, sum_of(c.tokens) AS tokens,
      CASE WHEN sum_of(c.half_hours) >= k.quota_daily
        THEN room_at(c.half_hours[2:], c.half_hours[1], c.half_hour, 48, 1800, 1 + sum_of(c.half_hours) - k.quota_daily) END AS day_at,
      CASE WHEN sum_of(c.quarters[1:29]) >= k.quota_weekly
        THEN room_at(c.quarters[2:], c.quarters[1], c.quarter, 28, 21600, 1 + sum_of(c.quarters[1:29]) - k.quota_weekly) END AS week_at,
      CASE WHEN sum_of(c.quarters) >= k.quota_monthly
        THEN room_at(c.quarters[2:], c.quarters[1], c.quarter, 120, 21600, 1 + sum_of(c.quarters) - k.quota_monthly) END AS month_at
    FROM api_keys k
    JOIN key_windows w ON w.key = k.number
    JOIN key_window_buckets b ON b.key = k.number
    CROSS JOIN (SELECT extract(epoch FROM ledger_now()) AS epoch) AS n
    -- The current sub-bucket first, then the closed ones, all as of now.
    CROSS JOIN LATERAL (
      SELECT greatest(floor(n.epoch / 1800)::bigint, w.half_hour_bucket) AS half_hour, greatest(floor(n.epoch / 21600)::bigint, w.quarter_bucket) AS quarter,
        close_buckets(b.seconds, w.second_count, 1 + greatest(0, floor(n.epoch)::bigint - w.second_bucket), 61) AS seconds,
        close_buckets(b.tokens, w.token_count, 1 + greatest(0, floor(n.epoch)::bigint - w.second_bucket), 61) AS tokens,
        close_buckets(b.half_hours, w.half_hour_count, 1 + greatest(0, floor(n.epoch / 1800)::bigint - w.half_hour_bucket), 49) AS half_hours,
        close_buckets(b.quarters, w.quarter_count, 1 + greatest(0, floor(n.epoch / 21600)::bigint - w.quarter_bucket), 121) AS quarters
    ) AS c
    WHERE k.number = ANY (${[...keyNumbers]}::integer[])`.execute(db);
  return new Map(rows.map((row) => [row.number, toWindows(row)]));
}

function toWindows(row: Row): KeyWindows {
  const availableAt = { TOTAL: null, DAILY: row.day_at, WEEKLY: row.week_at, MONTHLY: row.month_at };
  const { quotas, limits } = capsInUse(row);
  return {
    quotas: quotas.map((quota) => ({ ...quota, remaining: left(quota), availableAt: availableAt[quota.window] })),
    limits: limits.map((limit) => ({ unit: limit.unit, windowSeconds: 60, limit: limit.limit, remaining: left(limit) })),
  };
}

/** Those caps of a key that are set, in the order of their windows. */
export function capsInUse(row: CapColumns): CapsInUse {
  const quota = (window: QuotaWindow['window'], limit: bigint | null, used: bigint) => (limit === null ? [] : [{ window, limit, used }]);
  const limit = (unit: LimitWindow['unit'], cap: bigint | null, used: bigint) => (cap === null ? [] : [{ unit, limit: cap, used }]);
  return {
    quotas: [
      ...quota('TOTAL', row.quota_total, row.total),
      ...quota('DAILY', row.quota_daily, row.day),
      ...quota('WEEKLY', row.quota_weekly, row.week),
      ...quota('MONTHLY', row.quota_monthly, row.month),
    ],
    limits: [...limit('REQUESTS', row.requests_per_minute, row.minute), ...limit('TOKENS', row.tokens_per_minute, row.tokens)],
  };
}

function left({ limit, used }: Used): bigint {
  return used >= limit ? 0n : limit - used;
}
