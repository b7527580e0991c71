import { randomInt } from 'node:crypto';

/** Numbers that come again when the seed does (mulberry32, by Tommy Ettinger, in the public domain). */
export type Random = {
  readonly seed: number;
  /** A whole number from `min` to `max`, both possible. */
  between(min: number, max: number): number;
  pick<Item>(items: readonly [Item, ...Item[]]): Item;
  chance(probability: number): boolean;
};

/** The seed is that of the variable TEST_SEED where it is set, and another one each time where it is not: print it. */
export function seededRandom(seed = Number(process.env['TEST_SEED'] ?? randomInt(2 ** 32))): Random {
  let state = seed;
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const between = (min: number, max: number): number => min + Math.floor(next() * (max - min + 1));
  return { seed, between, pick: (items) => items[between(0, items.length - 1)] ?? items[0], chance: (probability) => next() < probability };
}
