/**
 * What a key's use in one hour is judged by: whole-hour counts of its requests, zeros where there were none. Hours and days are of UTC.
 */
export type ActivityEvidence = {
  /** Requests in the hour that has just ended. */
  readonly requests: number;
  /** The same hour of the week in the weeks before, as far back as the key has existed: the hour before it, the hour itself, the hour after it. */
  readonly weeks: readonly (readonly [number, number, number])[];
  /** The last three whole days: each one's requests, and those of the same day in the weeks before it. */
  readonly days: readonly { readonly requests: number; readonly before: readonly number[] }[];
};

export type UnusualActivity = {
  readonly direction: 'SURGE' | 'SILENCE';
  readonly requests: number;
  /** What was to be expected, in whole requests. */
  readonly expected: number;
};

/** So many weeks are looked at where the key is old enough; with fewer than are needed nothing is said. */
export const ACTIVITY_WEEKS = 6;
export const ACTIVITY_WEEKS_NEEDED = 4;
/** Whole days that tell whether a key has found a new level. */
export const ACTIVITY_DAYS = 3;
/** Below so many requests apart from what is expected, nothing is worth a person's time. */
export const ACTIVITY_MIN_REQUESTS = 50;

/** Deviations from which on an hour is unusual. Iglewicz and Hoaglin propose 3.5 for one look at a sample; here it is 8,760 looks a year. */
const DEVIATIONS = 6;
/** The deviation, as a logarithm, is at least so much, since few weeks can agree by chance: a surge is at least e^(6 × 0.13) = 2.2 times what is expected. */
const DEVIATION_FLOOR = 0.13;
/** Of what is expected; a key is silent at so much or less. */
const SILENCE_SHARE = 0.05;
/** Added to each count before ratios are taken, so that 3 instead of 1 is no surge. */
const SOFTENING = 10;
/** Makes a median absolute deviation comparable to a standard deviation (1 / Φ⁻¹(3/4)). */
const MAD_TO_SIGMA = 1.4826;

/**
 * Whether a key's use in an hour is unusual: far above what the same hour of the week saw in the weeks before, or next to nothing beside it.
 *
 * Counts are compared as ratios, since traffic varies by a share of itself. Median and median absolute deviation stand for what is usual, so that nearly half
 * of the weeks may be holidays or incidents themselves (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993; Rousseeuw and Croux, "Alternatives to
 * the Median Absolute Deviation", 1993). The neighbouring hours count as explanations too: a daylight-saving change moves everybody's day by one. A level that the
 * last days have kept is the new normal, so that a lasting change is told for two days and not for weeks. Null where nothing is unusual or the history is too short.
 */
export function unusualActivity({ requests, weeks, days }: ActivityEvidence): UnusualActivity | null {
  if (weeks.length < ACTIVITY_WEEKS_NEEDED) return null;
  const usual = [0, 1, 2].map((hour) => median(weeks.map((week) => week[hour] ?? 0)));
  const scatter = weeks.flatMap((week) => week.map((count, hour) => Math.abs(logRatio(count, usual[hour] ?? 0))));
  const deviation = Math.max(MAD_TO_SIGMA * median(scatter), DEVIATION_FLOOR);
  const level = levelOf(days);
  const most = Math.max(...usual) * Math.max(1, level);
  if (isFar(requests, most, deviation) && requests > most) return { direction: 'SURGE', requests, expected: Math.round(most) };
  const least = Math.min(...usual) * Math.min(1, level);
  if (isFar(requests, least, deviation) && requests <= SILENCE_SHARE * least) {
    return { direction: 'SILENCE', requests, expected: Math.round(least) };
  }
  return null;
}

/** Independent requests vary by the square root of their number (Poisson), however much the weeks agree. */
function isFar(requests: number, expected: number, deviation: number): boolean {
  const needed = DEVIATIONS * Math.max(deviation, 1 / Math.sqrt(expected + SOFTENING));
  return Math.abs(requests - expected) >= ACTIVITY_MIN_REQUESTS && Math.abs(logRatio(requests, expected)) >= needed;
}

function logRatio(count: number, expected: number): number {
  return Math.log((count + SOFTENING) / (expected + SOFTENING));
}

/** How the last days stand to the same days of the weeks before; 1 is as before. The median, so that an incident of one day is no level. */
function levelOf(days: ActivityEvidence['days']): number {
  if (days.length < ACTIVITY_DAYS) return 1;
  return median(days.map(({ requests, before }) => Math.exp(logRatio(requests, before.length === 0 ? requests : median(before)))));
}

function median(sample: readonly number[]): number {
  const sorted = sample.toSorted((one, other) => one - other);
  const upper = sorted[Math.floor(sorted.length / 2)] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[sorted.length / 2 - 1] ?? 0) + upper) / 2;
}
