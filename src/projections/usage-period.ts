export type Period = { readonly from: Date; readonly to: Date };
export type Granularity = 'MINUTE' | 'HOUR' | 'DAY';

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** `usage_counters.grain`. */
export const GRAINS = { MINUTE: 1, HOUR: 2, DAY: 3 } as const;
export const GRAIN_MS = { MINUTE: MINUTE_MS, HOUR: HOUR_MS, DAY: DAY_MS } as const;

/** Minutes are kept at least so long; hours and days for ever. */
export const MINUTES_KEPT_MS = 8 * DAY_MS;
/** Minutes older than this are neither folded nor kept. A day above what is promised, so that an hour that is cut at its edge is there in whole. */
export const MINUTES_ERASED_MS = 9 * DAY_MS;
export const MAX_SERIES_POINTS = 10_000;

/** The period can't be answered; the message says why and what to ask instead. For GraphQL BAD_USER_INPUT. */
export class UsagePeriodError extends Error {
  override readonly name = 'UsagePeriodError';
}

/** Buckets of one grain that begin in [from, to). */
export type GrainRange = { readonly granularity: Granularity; readonly from: Date; readonly to: Date };

const FINER = { DAY: 'HOUR', HOUR: 'MINUTE', MINUTE: null } as const;

/**
 * The buckets that make up a period exactly once: whole days (or what `coarsest` is) in the middle, hours and minutes at the edges; five ranges at most.
 *
 * A period is read in whole minutes, `from` rounded down and `to` up; an edge that is older than the minutes are kept, in whole hours (UTC).
 * Throws {@link UsagePeriodError} where `to` is not after `from`.
 */
export function coverPeriod(period: Period, coarsest: Granularity, now: Date): readonly GrainRange[] {
  const fromMs = period.from.getTime();
  const toMs = period.to.getTime();
  if (!(toMs > fromMs)) throw new UsagePeriodError("'to' must be later than 'from'");
  const finestAt = (ms: number): Granularity => (ms < now.getTime() - MINUTES_KEPT_MS ? 'HOUR' : 'MINUTE');
  if (coarsest === 'MINUTE' && finestAt(fromMs) !== 'MINUTE') {
    throw new UsagePeriodError(
      `Usage by the minute is kept for ${MINUTES_KEPT_MS / DAY_MS} days; ask for a later period, or by HOUR or DAY`,
    );
  }
  return cover(floorTo(fromMs, finestAt(fromMs)), ceilTo(toMs, finestAt(toMs)), coarsest);
}

function cover(fromMs: number, toMs: number, granularity: Granularity): readonly GrainRange[] {
  if (fromMs >= toMs) return [];
  const finer = FINER[granularity];
  if (finer === null) return [{ granularity, from: new Date(fromMs), to: new Date(toMs) }];
  const innerFromMs = ceilTo(fromMs, granularity);
  const innerToMs = floorTo(toMs, granularity);
  if (innerFromMs >= innerToMs) return cover(fromMs, toMs, finer);
  return [
    ...cover(fromMs, innerFromMs, finer),
    { granularity, from: new Date(innerFromMs), to: new Date(innerToMs) },
    ...cover(innerToMs, toMs, finer),
  ];
}

/** Where the points of a series begin. Throws {@link UsagePeriodError} above {@link MAX_SERIES_POINTS}. */
export function seriesPoints(period: Period, granularity: Granularity): readonly Date[] {
  const firstMs = floorTo(period.from.getTime(), granularity);
  const endMs = ceilTo(period.to.getTime(), granularity);
  const count = (endMs - firstMs) / GRAIN_MS[granularity];
  if (count > MAX_SERIES_POINTS) {
    throw new UsagePeriodError(
      `This period has ${count} points by ${granularity}, more than ${MAX_SERIES_POINTS}; ask for a shorter period or a coarser granularity`,
    );
  }
  return Array.from({ length: count }, (_, index) => new Date(firstMs + index * GRAIN_MS[granularity]));
}

function floorTo(ms: number, granularity: Granularity): number {
  return Math.floor(ms / GRAIN_MS[granularity]) * GRAIN_MS[granularity];
}

function ceilTo(ms: number, granularity: Granularity): number {
  return Math.ceil(ms / GRAIN_MS[granularity]) * GRAIN_MS[granularity];
}
