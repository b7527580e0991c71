const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;

/** What a deliverer waits after each failure in a row; after the last one it gives up. About 22 hours in all. */
export const RETRY_DELAYS_MS: readonly number[] = [
  5 * SECOND_MS,
  30 * SECOND_MS,
  2 * MINUTE_MS,
  10 * MINUTE_MS,
  30 * MINUTE_MS,
  HOUR_MS,
  3 * HOUR_MS,
  6 * HOUR_MS,
  12 * HOUR_MS,
];
/** A receiver may ask for more patience, but not for so much that the delivery is forgotten. */
export const LONGEST_RETRY_AFTER_MS = 24 * HOUR_MS;
/** Up to a fifth is added by chance, so that what failed together doesn't come back together. */
const JITTER = 0.2;

/**
 * What to wait before the next attempt, in milliseconds, after `failures` in a row (1 or more); null where there is none. `chance` is between 0 and 1;
 * `retryAfterMs` is what the receiver asked for.
 */
export function retryDelay(schedule: readonly number[], failures: number, chance: number, retryAfterMs: number | null): number | null {
  const delay = schedule[failures - 1];
  if (delay === undefined) return null;
  return Math.round(Math.max(delay * (1 + JITTER * chance), Math.min(retryAfterMs ?? 0, LONGEST_RETRY_AFTER_MS)));
}
