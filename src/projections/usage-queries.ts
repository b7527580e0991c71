import { sql, type Kysely, type RawBuilder } from 'kysely';

import type { VerificationCode } from '../domain/refusals.ts';
import { codeOf } from '../domain/usage.ts';
import { PREPARED } from '../postgres/prepared.ts';
import type { Tables } from '../postgres/tables.ts';
import { addUp, placesOf, type Whole } from './series-columns.ts';
import { coverPeriod, GRAIN_MS, GRAINS, seriesPoints, type GrainRange, type Granularity, type Period } from './usage-period.ts';

export type { Granularity, Period } from './usage-period.ts';

/**
 * A key, a category, or, with neither, the whole organization. A key of another organization has no usage. A request counts to the category that its key had
 * when it was recorded, wherever the key went since.
 */
export type UsageSubject = { readonly organizationId: string } & (
  | { readonly keyNumber: number; readonly category?: never }
  | { readonly category: string; readonly keyNumber?: never }
  | { readonly keyNumber?: never; readonly category?: never }
);

/** Sums over the requests that happened in a period; `requests` is `succeeded` + `failed` + `refused`. Money in millionths. */
export type UsageTotals = {
  readonly requests: bigint;
  /** Let through, and nothing says that they failed. */
  readonly succeeded: bigint;
  /** Let through, and answered with a status of 400 or above. */
  readonly failed: bigint;
  /** Not let through; by reason in `refusals`. */
  readonly refused: bigint;
  readonly costMicros: bigint;
  readonly tokensIn: bigint;
  readonly tokensOut: bigint;
  readonly models: readonly string[];
  readonly refusals: readonly { readonly code: VerificationCode; readonly count: bigint }[];
};

export type UsagePoint = {
  /** Where the minute, hour or day (UTC) begins; the first may begin before the period, and counts only what lies in it. */
  readonly at: Date;
  readonly requests: Whole;
  readonly failed: Whole;
  readonly refused: Whole;
  readonly costMicros: Whole;
  readonly tokensIn: Whole;
  readonly tokensOut: Whole;
};

type TotalsRow = {
  readonly requests: bigint;
  readonly succeeded: bigint;
  readonly failed: bigint;
  readonly refused: bigint;
  readonly cost_micros: bigint;
  readonly tokens_in: bigint;
  readonly tokens_out: bigint;
  readonly models: readonly string[];
  readonly refusals: Readonly<Record<string, string>>;
};

/**
 * The usage of a subject over a period, as of {@link statisticsPosition}. A year reads a few hundred rows. Throws {@link UsagePeriodError}.
 * See {@link coverPeriod} for how a period is rounded.
 */
export async function usageTotals(db: Kysely<Tables>, subject: UsageSubject, period: Period): Promise<UsageTotals> {
  const ranges = coverPeriod(period, 'DAY', new Date());
  // The laterals are grouped, so that they are walked by the index for each key and range and never hashed over the whole table.
  const { rows } = await sql<TotalsRow>`${PREPARED}
    WITH live AS MATERIALIZED (${LIVE_SLOT}), subject AS MATERIALIZED (${subjectKeys(subject)}), span AS MATERIALIZED (${spans(ranges)}),
    broken_down AS MATERIALIZED (
      SELECT b.dimension, b.value, sum(b.events)::bigint AS events
      FROM subject s CROSS JOIN span CROSS JOIN LATERAL (
        SELECT c.dimension, c.value, sum(c.events) AS events FROM usage_breakdown c
        WHERE c.slot = (SELECT slot FROM live) AND c.grain = span.grain AND c.organization = s.organization AND c.key = s.key
          AND c.at >= span.from_at AND c.at < span.to_at
        GROUP BY c.dimension, c.value) AS b
      GROUP BY b.dimension, b.value
    )
    SELECT coalesce(sum(u.requests), 0)::bigint AS requests, coalesce(sum(u.succeeded), 0)::bigint AS succeeded, coalesce(sum(u.failed), 0)::bigint AS failed,
           coalesce(sum(u.refused), 0)::bigint AS refused, coalesce(sum(u.cost_micros), 0)::bigint AS cost_micros,
           coalesce(sum(u.tokens_in), 0)::bigint AS tokens_in, coalesce(sum(u.tokens_out), 0)::bigint AS tokens_out,
           coalesce((SELECT array_agg(value ORDER BY value) FROM broken_down WHERE dimension = 2), '{}') AS models,
           coalesce((SELECT json_object_agg(value, events::text) FROM broken_down WHERE dimension = 1 AND events > 0), '{}') AS refusals
    FROM subject s CROSS JOIN span CROSS JOIN LATERAL (
      SELECT sum(c.requests) AS requests, sum(c.succeeded) AS succeeded, sum(c.failed) AS failed, sum(c.refused) AS refused, sum(c.cost_micros) AS cost_micros,
             sum(c.tokens_in) AS tokens_in, sum(c.tokens_out) AS tokens_out
      FROM usage_sums c
      WHERE c.slot = (SELECT slot FROM live) AND c.grain = span.grain AND c.organization = s.organization AND c.key = s.key
        AND c.at >= span.from_at AND c.at < span.to_at) AS u`.execute(db);
  const row = rows[0];
  if (row === undefined) throw new Error('A sum without groups answered no row.');
  return {
    requests: row.requests,
    succeeded: row.succeeded,
    failed: row.failed,
    refused: row.refused,
    costMicros: row.cost_micros,
    tokensIn: row.tokens_in,
    tokensOut: row.tokens_out,
    models: row.models,
    refusals: Object.entries(row.refusals)
      .map(([code, count]) => ({ code: codeOf(Number(code)), count: BigInt(count) }))
      .toSorted((a, b) => (a.count === b.count ? a.code.localeCompare(b.code) : a.count > b.count ? -1 : 1)),
  };
}

/** The columns of a series' buckets, each as one text `{1,2,…}`: ten thousand rows of seven cells cost pg several times what their numbers do. */
type SeriesRow = Readonly<Record<'at' | 'requests' | 'failed' | 'refused' | 'cost_micros' | 'tokens_in' | 'tokens_out', string | null>>;

/**
 * The usage of a subject in steps, oldest first, with zeros where nothing happened; the points sum up to {@link usageTotals} of the same period.
 * Throws {@link UsagePeriodError}: above 10,000 points, and by MINUTE where the minutes are no longer kept.
 */
export async function usageSeries(
  db: Kysely<Tables>,
  subject: UsageSubject,
  period: Period,
  granularity: Granularity,
): Promise<readonly UsagePoint[]> {
  const ranges = coverPeriod(period, granularity, new Date());
  const starts = seriesPoints(period, granularity);
  const { rows } = await sql<SeriesRow>`${PREPARED}
    WITH live AS MATERIALIZED (${LIVE_SLOT}), subject AS MATERIALIZED (${subjectKeys(subject)}), span AS MATERIALIZED (${spans(ranges)})
    SELECT array_agg(date_part('epoch', c.at)::bigint)::text AS at, array_agg(c.requests)::text AS requests, array_agg(c.failed)::text AS failed,
           array_agg(c.refused)::text AS refused, array_agg(c.cost_micros)::text AS cost_micros, array_agg(c.tokens_in)::text AS tokens_in,
           array_agg(c.tokens_out)::text AS tokens_out
    FROM subject s CROSS JOIN span CROSS JOIN LATERAL (
      SELECT c.* FROM usage_sums c
      WHERE c.slot = (SELECT slot FROM live) AND c.grain = span.grain AND c.organization = s.organization AND c.key = s.key
        AND c.at >= span.from_at AND c.at < span.to_at
      -- LIMIT keeps this a walk along the index for each range, whatever the planner believes.
      LIMIT ALL OFFSET 0) AS c`.execute(db);
  const [row] = rows;
  const firstMs = starts[0]?.getTime() ?? 0;
  // The buckets of a cut hour or day are finer than the points, and one to which the open minute belongs has two rows: they add up.
  const places = placesOf(row?.at, (second) => Math.floor((second * 1000 - firstMs) / GRAIN_MS[granularity]), starts.length);
  const sums = (column: string | null | undefined): ArrayLike<Whole> => addUp(column, places, starts.length);
  const [requests, failed, refused] = [sums(row?.requests), sums(row?.failed), sums(row?.refused)];
  const [costs, tokensIn, tokensOut] = [sums(row?.cost_micros), sums(row?.tokens_in), sums(row?.tokens_out)];
  return starts.map((at, place) => ({
    at,
    requests: requests[place] ?? 0,
    failed: failed[place] ?? 0,
    refused: refused[place] ?? 0,
    costMicros: costs[place] ?? 0,
    tokensIn: tokensIn[place] ?? 0,
    tokensOut: tokensOut[place] ?? 0,
  }));
}

/** When keys were last used, by their numbers: let through by a verification, or reported as used. A key that never was is not in it. */
export async function lastUsed(db: Kysely<Tables>, keyNumbers: readonly number[]): Promise<ReadonlyMap<number, Date>> {
  if (keyNumbers.length === 0) return new Map();
  const { rows } = await sql<{ key: number; last_used_at: Date }>`
    SELECT key, last_used_at FROM key_last_used WHERE slot = (${LIVE_SLOT}) AND key = ANY(${[...keyNumbers]}::integer[])`.execute(db);
  return new Map(rows.map((row) => [row.key, row.last_used_at]));
}

/**
 * When any key of a subject was last let through or reported as used, whatever the period; null where none was. A category's is that of the requests that
 * count to it.
 */
export async function subjectLastUsed(db: Kysely<Tables>, subject: UsageSubject): Promise<Date | null> {
  // An organization's newest minute is found by the index, and in it the newest moment.
  const used = sql`SELECT u.last_used_at FROM key_last_used u WHERE u.slot = (${LIVE_SLOT}) AND u.organization = s.organization`;
  const wanted =
    subject.keyNumber === undefined && subject.category === undefined
      ? sql`${used} ORDER BY u.last_used_minute DESC, u.last_used_at DESC LIMIT 1`
      : sql`${used} AND u.key = s.key`;
  const { rows } = await sql<{ last_used_at: Date }>`${PREPARED}
    SELECT l.last_used_at FROM (${subjectKeys(subject)}) AS s CROSS JOIN LATERAL (${wanted}) AS l`.execute(db);
  return rows[0]?.last_used_at ?? null;
}

/** The position up to which totals, series and last-used have been folded. */
export async function statisticsPosition(db: Kysely<Tables>): Promise<bigint> {
  const row = await db
    .selectFrom('projections')
    .select('position')
    .where('name', '=', 'usage')
    .where('state', '=', 'live')
    .executeTakeFirst();
  if (row === undefined) throw new Error("The projection 'usage' has no live slot: migration 0003 was changed.");
  return row.position;
}

const LIVE_SLOT = sql`SELECT slot FROM projections WHERE name = 'usage' AND state = 'live'`;

/** Key 0 stands for the whole organization, a number below for a category. */
function subjectKeys({ organizationId, keyNumber, category }: UsageSubject): RawBuilder<unknown> {
  if (category === undefined) {
    return sql`SELECT o.number AS organization, ${keyNumber ?? 0}::integer AS key FROM organizations o WHERE o.id = ${organizationId}::uuid`;
  }
  return sql`
    SELECT o.number AS organization, -c.number AS key FROM organizations o JOIN usage_categories c ON c.organization = o.number
    WHERE o.id = ${organizationId}::uuid AND c.category = ${category}`;
}

function spans(ranges: readonly GrainRange[]): RawBuilder<unknown> {
  return sql`
    SELECT grain, from_at, to_at
    FROM unnest(${ranges.map((range) => GRAINS[range.granularity])}::smallint[], ${ranges.map((range) => range.from)}::timestamptz[],
      ${ranges.map((range) => range.to)}::timestamptz[]) AS span (grain, from_at, to_at)`;
}
