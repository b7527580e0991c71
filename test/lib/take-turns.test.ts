import { setImmediate as nextRound } from 'node:timers/promises';
import { expect, test } from 'vitest';

import { takeTurns } from '../../src/lib/take-turns.ts';

test('work beyond a round waits for later ones, in its order, and the network is looked at in between', async () => {
  const takeTurn = takeTurns(3);
  const done: number[] = [];
  const rounds: number[] = [];
  const work = Array.from({ length: 10 }, async (_, index) => {
    await takeTurn();
    done.push(index);
  });
  for (let round = 0; round < 5; round++) {
    await nextRound();
    rounds.push(done.length);
  }
  await Promise.all(work);
  expect(done).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(Math.max(...rounds.map((count, index) => count - (rounds[index - 1] ?? 0)))).toBeLessThanOrEqual(6);
  expect(rounds[0]).toBeLessThan(10);
});

test('work that comes seldom never waits', async () => {
  const takeTurn = takeTurns(1);
  for (let round = 0; round < 3; round++) {
    expect(takeTurn()).toBeUndefined();
    await nextRound();
    await nextRound();
  }
});
