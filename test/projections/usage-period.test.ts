import { expect, test } from 'vitest';

import { coverPeriod, GRAIN_MS, seriesPoints, UsagePeriodError } from '../../src/projections/usage-period.ts';

const NOW = new Date('2025-06-30T12:00:00Z');
const at = (text: string) => new Date(text);
const shown = (from: string, to: string, coarsest: 'MINUTE' | 'HOUR' | 'DAY' = 'DAY') =>
  coverPeriod({ from: at(from), to: at(to) }, coarsest, NOW).map(
    (range) => `${range.granularity} ${range.from.toISOString().slice(5, 16)} ${range.to.toISOString().slice(5, 16)}`,
  );

test('a period is whole days in the middle, hours and minutes at its edges', () => {
  expect(shown('2025-06-25T22:58:00Z', '2025-06-28T01:02:00Z')).toEqual([
    'MINUTE 06-25T22:58 06-25T23:00',
    'HOUR 06-25T23:00 06-26T00:00',
    'DAY 06-26T00:00 06-28T00:00',
    'HOUR 06-28T00:00 06-28T01:00',
    'MINUTE 06-28T01:00 06-28T01:02',
  ]);
});

test('a period inside an hour is minutes, and one inside a minute is that minute', () => {
  expect(shown('2025-06-30T10:10:00Z', '2025-06-30T10:12:00Z')).toEqual(['MINUTE 06-30T10:10 06-30T10:12']);
  expect(shown('2025-06-30T10:10:10.5Z', '2025-06-30T10:10:11Z')).toEqual(['MINUTE 06-30T10:10 06-30T10:11']);
});

test('an edge older than the minutes are kept is rounded outwards to whole hours', () => {
  expect(shown('2025-06-01T10:10:00Z', '2025-06-01T13:40:00Z')).toEqual(['HOUR 06-01T10:00 06-01T14:00']);
});

test('any period is covered without gap or overlap by ranges that begin and end on their own grain', () => {
  for (let seed = 1; seed < 400; seed++) {
    const fromMs = NOW.getTime() - ((seed * 7_919_377) % (7 * GRAIN_MS.DAY));
    const period = { from: new Date(fromMs), to: new Date(fromMs + 1 + ((seed * 15_485_863) % (5 * GRAIN_MS.DAY))) };
    const ranges = coverPeriod(period, 'DAY', NOW);
    expect(ranges.length).toBeLessThanOrEqual(5);
    expect(ranges[0]?.from.getTime()).toBe(Math.floor(fromMs / GRAIN_MS.MINUTE) * GRAIN_MS.MINUTE);
    expect(ranges.at(-1)?.to.getTime()).toBe(Math.ceil(period.to.getTime() / GRAIN_MS.MINUTE) * GRAIN_MS.MINUTE);
    for (const [index, range] of ranges.entries()) {
      expect(range.from.getTime() % GRAIN_MS[range.granularity]).toBe(0);
      expect(range.to.getTime() % GRAIN_MS[range.granularity]).toBe(0);
      if (index > 0) expect(range.from).toEqual(ranges[index - 1]?.to);
    }
  }
});

test('what can not be answered is refused with what to ask instead', () => {
  expect(() => shown('2025-06-30T10:00:00Z', '2025-06-30T10:00:00Z')).toThrow(UsagePeriodError);
  expect(() => shown('2025-06-01T10:00:00Z', '2025-06-02T10:00:00Z', 'MINUTE')).toThrow(
    /kept for 8 days; ask for a later period, or by HOUR or DAY/,
  );
  expect(() => seriesPoints({ from: at('2025-01-01T00:00:00Z'), to: at('2027-01-01T00:00:00Z') }, 'HOUR')).toThrow(
    /17520 points by HOUR, more than 10000/,
  );
  expect(seriesPoints({ from: at('2025-01-01T00:30:00Z'), to: at('2025-01-01T02:00:00Z') }, 'HOUR')).toEqual([
    at('2025-01-01T00:00:00Z'),
    at('2025-01-01T01:00:00Z'),
  ]);
});
