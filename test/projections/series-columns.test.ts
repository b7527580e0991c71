import { describe, expect, it } from 'vitest';

import { addUp, placesOf } from '../../src/projections/series-columns.ts';

const column = (numbers: readonly (number | bigint)[]): string => `{${numbers.join()}}`;
const sums = (numbers: readonly (number | bigint)[], places: readonly number[], count: number) =>
  Array.from(addUp(column(numbers), places, count));

describe('the columns of a series', () => {
  it('are added up by point', () => {
    expect(sums([1, 20, 300, 0, -4], [0, 2, 2, 1, 3], 5)).toEqual([1, 0, 320, -4, 0]);
  });

  it('are zeros where there is no bucket', () => {
    for (const nothing of [null, undefined, '{}']) expect(Array.from(addUp(nothing, [], 2)).map(Number)).toEqual([0, 0]);
    expect(placesOf(null, Number, 3)).toEqual([]);
  });

  it('stay exact where numbers can not hold them, one alone or their sum', () => {
    const large = 2n ** 62n + 1n;
    expect(sums([5, large], [0, 1], 2)).toEqual([5n, large]);
    expect(sums([2n ** 53n - 1n, 2n], [0, 0], 1)).toEqual([2n ** 53n + 1n]);
    expect(sums([-(2n ** 60n), 1], [0, 0], 1)).toEqual([1n - 2n ** 60n]);
  });

  it('are the same as bigints, whatever they hold', () => {
    for (let round = 0; round < 200; round++) {
      const digits = 1 + (round % 18);
      const numbers = Array.from({ length: 40 }, () => BigInt(Math.floor(Math.random() * 9)) * 10n ** BigInt(digits - 1) + BigInt(round));
      const places = numbers.map(() => Math.floor(Math.random() * 7));
      const expected = Array.from({ length: 7 }, (_, place) =>
        numbers.reduce((sum, number, at) => (places[at] === place ? sum + number : sum), 0n),
      );
      expect(sums(numbers, places, 7).map(BigInt)).toEqual(expected);
    }
  });

  it('refuse a bucket outside of the period', () => {
    expect(placesOf('{60,120}', (second) => second / 60, 3)).toEqual([1, 2]);
    expect(() => placesOf('{60,180}', (second) => second / 60, 3)).toThrow(/outside of the period/);
    expect(() => addUp('{1,x}', [0, 0], 1)).toThrow(/no number/);
  });
});
