import { ACTIVITY_DAYS, ACTIVITY_WEEKS, type ActivityEvidence } from '../../src/domain/unusual-activity.ts';
import { HOURS_A_DAY, HOURS_A_WEEK } from './synthetic-year.ts';

/** What is known about an hour when it has ended: the hours before it. The key was made at hour 0. */
export function evidenceAt(hours: readonly number[], hour: number): ActivityEvidence {
  const day = Math.floor(hour / HOURS_A_DAY);
  const weeks = Math.min(ACTIVITY_WEEKS, Math.floor(hour / HOURS_A_WEEK));
  const at = (index: number): number => hours[index] ?? 0;
  const dayTotal = (index: number): number => {
    let sum = 0;
    for (let ofDay = 0; ofDay < HOURS_A_DAY; ofDay++) sum += at(index * HOURS_A_DAY + ofDay);
    return sum;
  };
  return {
    requests: at(hour),
    weeks: Array.from({ length: weeks }, (_, week) => {
      const then = hour - (week + 1) * HOURS_A_WEEK;
      return [at(then - 1), at(then), at(then + 1)] as const;
    }),
    days: Array.from({ length: Math.min(ACTIVITY_DAYS, day) }, (_, back) => {
      const last = day - 1 - back;
      const known = Math.min(ACTIVITY_WEEKS, Math.floor(last / 7));
      return { requests: dayTotal(last), before: Array.from({ length: known }, (__, week) => dayTotal(last - (week + 1) * 7)) };
    }),
  };
}
