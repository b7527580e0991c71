import { setImmediate as nextRound } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';

import { takeTurns } from '../../src/lib/take-turns.ts';

afterEach(() => void vi.restoreAllMocks());

function spend(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

test('work beyond a round waits for later ones, in its order, and the network is looked at in between', async () => {
  const takeTurn = takeTurns({ atLeast: 3, atMostMs: 0 });
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

test('where all else takes long, more is done in a round, and never more than its time', async () => {
  const takeTurn = takeTurns({ atLeast: 1, atMostMs: 10 });
  let done = 0;
  const work = Array.from({ length: 300 }, async () => {
    await takeTurn();
    spend(0.5);
    done++;
  });
  const rounds: number[] = [];
  while (done < 300) {
    spend(8);
    const before = done;
    await nextRound();
    rounds.push(done - before);
  }
  await Promise.all(work);
  const most = Math.max(...rounds);
  expect(most).toBeGreaterThan(4);
  expect(most).toBeLessThan(40);
});

test('work that comes seldom never waits', async () => {
  const takeTurn = takeTurns({ atLeast: 1, atMostMs: 0 });
  for (let round = 0; round < 3; round++) {
    expect(takeTurn()).toBeUndefined();
    await nextRound();
    await nextRound();
  }
});

test('the longer work has waited, the greater its share of the time', async () => {
  let nowMs = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
  const takeTurn = takeTurns({ atLeast: 1, atMostMs: 10 });
  let done = 0;
  const work = Array.from({ length: 4_000 }, async () => {
    await takeTurn();
    nowMs += 0.05;
    done++;
  });
  const inRound = new Map<number, number>();
  while (done < work.length) {
    nowMs += 5;
    const [beganMs, before] = [nowMs, done];
    await nextRound();
    inRound.set(beganMs, done - before);
  }
  await Promise.all(work);
  const between = (fromMs: number, toMs: number) => [...inRound].filter(([ms]) => ms > fromMs && ms < toMs).map(([, count]) => count);
  // 0.15 of 5 ms at 0.05 ms each, and half of them after half a second.
  expect(Math.max(...between(20, 60))).toBeLessThanOrEqual(20);
  expect(Math.min(...between(20, 60))).toBeGreaterThanOrEqual(14);
  expect(Math.min(...between(510, nowMs - 10))).toBeGreaterThanOrEqual(49);
});
