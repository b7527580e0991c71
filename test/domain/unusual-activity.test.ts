import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';

import { ACTIVITY_WEEKS_NEEDED, unusualActivity, type ActivityEvidence, type UnusualActivity } from '../../src/domain/unusual-activity.ts';
import { evidenceAt } from './activity-evidence.ts';
import { DAYS_A_YEAR, HABITS, HOURS_A_DAY, HOURS_A_WEEK, syntheticYear } from './synthetic-year.ts';

const steady = (count: number, weeks: number): ActivityEvidence['weeks'] =>
  Array.from({ length: weeks }, () => [count, count, count] as const);

describe('6.1 unusual activity', () => {
  it('says nothing without enough history, whatever happens', () => {
    expect(unusualActivity({ requests: 1_000_000, weeks: steady(100, ACTIVITY_WEEKS_NEEDED - 1), days: [] })).toBeNull();
    expect(unusualActivity({ requests: 1_000_000, weeks: steady(100, ACTIVITY_WEEKS_NEEDED), days: [] })).toMatchObject({
      direction: 'SURGE',
      expected: 100,
    });
  });

  it('calls neither twice the usual nor a twentieth more than nothing unusual', () => {
    expect(unusualActivity({ requests: 200, weeks: steady(100, 6), days: [] })).toBeNull();
    expect(unusualActivity({ requests: 300, weeks: steady(100, 6), days: [] })).toMatchObject({ direction: 'SURGE' });
    expect(unusualActivity({ requests: 20, weeks: steady(200, 6), days: [] })).toBeNull();
    expect(unusualActivity({ requests: 5, weeks: steady(200, 6), days: [] })).toEqual({ direction: 'SILENCE', requests: 5, expected: 200 });
  });

  it('minds no handful of requests', () => {
    expect(unusualActivity({ requests: 49, weeks: steady(0, 6), days: [] })).toBeNull();
    expect(unusualActivity({ requests: 1000, weeks: steady(0, 6), days: [] })).toMatchObject({ direction: 'SURGE', expected: 0 });
    expect(unusualActivity({ requests: 0, weeks: steady(49, 6), days: [] })).toBeNull();
  });

  it('is not blinded by incidents in fewer than half of the weeks', () => {
    const weeks: ActivityEvidence['weeks'] = [...steady(100, 4), [5000, 5000, 5000], [0, 0, 0]];
    expect(unusualActivity({ requests: 1000, weeks, days: [] })).toMatchObject({ direction: 'SURGE', expected: 100 });
  });

  it('takes a level that three days have kept for the new normal', () => {
    const days = [2900, 3100, 3000].map((requests) => ({ requests, before: [1000, 1000, 1000, 1000] }));
    expect(unusualActivity({ requests: 300, weeks: steady(100, 6), days: days.slice(0, 2) })).toMatchObject({ direction: 'SURGE' });
    expect(unusualActivity({ requests: 300, weeks: steady(100, 6), days })).toBeNull();
  });
});

const SEEDS = 10;
/** Where anomalies are planted: on the first days of months, at 3, 11 and 17 o'clock, after the weeks in which nothing can be said. */
const STARTS = [
  [70, 3],
  [105, 11],
  [136, 17],
  [198, 11],
  [234, 3],
  [270, 17],
  [333, 11],
] as const;

type Plan = { readonly name: string; readonly hours: number; readonly change: (usual: number, hourOfAnomaly: number) => number };
const PLANS: readonly Plan[] = [
  { name: 'ten times the use, for 1 hour', hours: 1, change: (usual) => 10 * usual },
  { name: 'five times the use, for 3 hours', hours: 3, change: (usual) => 5 * usual },
  { name: 'three times the use, for 6 hours', hours: 6, change: (usual) => 3 * usual },
  { name: 'twice the use, for 12 hours', hours: 12, change: (usual) => 2 * usual },
  { name: '2,000 requests an hour more, for 3 hours', hours: 3, change: (usual) => usual + 2000 },
  { name: 'silent for 2 hours', hours: 2, change: () => 0 },
  { name: 'half the use, for 6 hours', hours: 6, change: (usual) => usual / 2 },
  { name: 'growing by 5 % a day for 30 days', hours: 30 * HOURS_A_DAY, change: (usual, hour) => usual * 1.05 ** (hour / HOURS_A_DAY) },
  { name: 'three times the use from then on: told on the first day', hours: DAYS_A_YEAR * HOURS_A_DAY, change: (usual) => 3 * usual },
];
const WATCHED = ['office', 'consumer', 'machine', 'bursty'];

type Told = UnusualActivity & { readonly hour: number };

/** One alert a key, direction and day, as they are raised. */
function alertsOf(year: readonly number[]): readonly Told[] {
  const told = new Map<string, Told>();
  year.forEach((_, hour) => {
    const found = unusualActivity(evidenceAt(year, hour));
    const window = `${found?.direction ?? ''} ${Math.floor(hour / HOURS_A_DAY)}`;
    if (found !== null && !told.has(window)) told.set(window, { ...found, hour });
  });
  return [...told.values()];
}

describe('6.1 unusual activity over a synthetic year', () => {
  // The planted hours are judged one by one: a year has few places for anomalies that don't hide each other.
  const years = new Map(HABITS.map((habit) => [habit.name, Array.from({ length: SEEDS }, (_, seed) => syntheticYear(habit, seed + 1))]));
  const share = (plan: Plan, habit: string): number => {
    let found = 0;
    for (const usual of years.get(habit) ?? []) {
      for (const [day, ofDay] of STARTS) {
        const fromHour = day * HOURS_A_DAY + ofDay;
        const year = usual.map((count, hour) => {
          const within = hour - fromHour;
          return within >= 0 && within < plan.hours ? Math.round(plan.change(count, within)) : count;
        });
        const watched = Math.min(plan.hours, plan.hours > 30 * HOURS_A_DAY ? HOURS_A_DAY : plan.hours);
        const hours = Array.from({ length: watched }, (_, index) => fromHour + index);
        if (hours.some((hour) => unusualActivity(evidenceAt(year, hour)) !== null)) found++;
      }
    }
    return found / (SEEDS * STARTS.length);
  };
  const detection = PLANS.map((plan) => ({ plan, shares: WATCHED.map((habit) => share(plan, habit)) }));
  const wolves = [...years].map(([habit, usual]) => {
    const alerts = usual.flatMap(alertsOf);
    const count = (direction: UnusualActivity['direction']): number =>
      alerts.filter((alert) => alert.direction === direction).length / SEEDS;
    return { habit, surges: count('SURGE'), silences: count('SILENCE') };
  });
  const found = (name: string): readonly number[] => detection.find(({ plan }) => plan.name.startsWith(name))?.shares ?? [];

  it('finds what a leaked key or an outage looks like', () => {
    expect(Math.min(...found('ten times').slice(0, 3))).toBeGreaterThanOrEqual(0.9);
    expect(Math.min(...found('five times').slice(0, 3))).toBeGreaterThanOrEqual(0.9);
    expect(Math.min(...found('silent').slice(1, 3))).toBeGreaterThanOrEqual(0.95);
    expect(Math.min(...found('three times the use, for 6').slice(0, 3))).toBeGreaterThanOrEqual(0.75);
  });

  it('misses what it is stated to miss', () => {
    expect(Math.max(...found('half the use').slice(0, 3))).toBeLessThanOrEqual(0.05);
    expect(Math.max(...found('twice').slice(1, 3))).toBeLessThanOrEqual(0.5);
    expect(Math.max(...found('growing').slice(1, 3))).toBeLessThanOrEqual(0.5);
  });

  it('hardly ever cries wolf over a key with habits', () => {
    const allowed = (habit: string): number => (habit === 'bursty' ? 13 : habit === 'monthly job' ? 12 : 2);
    expect(wolves.filter(({ habit, surges, silences }) => surges + silences > allowed(habit))).toEqual([]);
  });

  it('hears wolves all day from a rule that only looks at last week', () => {
    const year = years.get('office')?.[0] ?? [];
    const naive = year.filter((count, hour) => hour > 4 * HOURS_A_WEEK && count > 1.5 * (year[hour - HOURS_A_WEEK] ?? 0) + 50);
    expect(naive.length).toBeGreaterThan(100);
  });

  it('is described with the figures of this test', async () => {
    const page = await readFile(new URL('../../docs/unusual-activity.md', import.meta.url), 'utf8');
    const percent = (part: number): string => `${Math.round(100 * part)} %`;
    const rows = [
      ...detection.map(({ plan, shares }) => [plan.name, ...shares.map(percent)]),
      ...wolves.map(({ habit, surges, silences }) => [habit, surges.toFixed(1), silences.toFixed(1)]),
    ];
    // The formatter pads the cells.
    const cells = page.split('\n').map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim())
        .join(' | '),
    );
    for (const row of rows) expect(cells).toContain(row.join(' | '));
  });
});
