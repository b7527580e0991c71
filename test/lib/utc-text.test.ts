import { expect, it } from 'vitest';

import { createUtcText } from '../../src/lib/utc-text.ts';

const DAY = 24 * 60 * 60_000;
const LAST = 8_640_000_000_000_000;

it('writes a moment as Date does', () => {
  const utcText = createUtcText();
  const moments = [0, -1, 1, 999, -999, DAY - 1, DAY, -DAY - 1, LAST, -LAST, LAST - 1, 1 - LAST, Date.UTC(9999, 11, 31, 23, 59, 59, 999)];
  // A series, and moments all over what a Date can hold, so that the day is now the same and now another.
  for (let index = 0; index < 20_000; index++)
    moments.push(1_700_000_000_000 + index * 61_003, Math.floor((Math.random() - 0.5) * 2 * LAST));
  for (const ms of moments) expect(utcText(new Date(ms))).toBe(new Date(ms).toISOString());
});

it('refuses a date that is none, before and after others', () => {
  const utcText = createUtcText();
  expect(() => utcText(new Date(Number.NaN))).toThrow(RangeError);
  expect(utcText(new Date(0))).toBe('1970-01-01T00:00:00.000Z');
  expect(() => utcText(new Date(LAST + 1))).toThrow(RangeError);
  expect(utcText(new Date(1))).toBe('1970-01-01T00:00:00.001Z');
});
