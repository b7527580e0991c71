import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { createWakeGate, type WakeGate } from '../../src/admission/wake-gate.ts';

const INTERVAL_MS = 40;

let gate: WakeGate;
/** When the gate woke by itself. */
let late: number[];
beforeEach(() => {
  vi.useFakeTimers();
  late = [];
  gate = createWakeGate({ intervalMs: INTERVAL_MS, wake: () => late.push(performance.now()) });
});
afterEach(() => {
  gate.close();
  vi.useRealTimers();
});

const pass = (ms: number): void => void vi.advanceTimersByTime(ms);

test('the first batch after a while wakes at once, those after it are told of once, later', () => {
  const first = [gate.open(), gate.open(), gate.open()];
  expect(first.map(({ wake }) => wake)).toEqual([true, false, false]);
  for (const waking of first) waking.done();
  pass(1.5 * INTERVAL_MS - 1);
  expect(late).toHaveLength(0);
  pass(1);
  expect(late).toHaveLength(1);
  pass(10 * INTERVAL_MS);
  expect(late).toHaveLength(1);
  expect(gate.open().wake).toBe(true);
});

test('under load batches wake by themselves, and nothing else does', () => {
  let woke = 0;
  for (let batch = 0; batch < 100; batch++) {
    const waking = gate.open();
    pass(4); // its answer takes longer than the next one's question
    if (waking.wake) woke++;
    waking.done();
  }
  expect(late).toHaveLength(0);
  expect(woke).toBe(400 / INTERVAL_MS);
});

test('what a batch that failed was to tell is told later', () => {
  gate.open().done();
  gate.open();
  pass(INTERVAL_MS);
  expect(gate.open().wake).toBe(true);
  pass(INTERVAL_MS / 2);
  expect(late).toHaveLength(1);
});

test('what came while a batch was to wake is told of later, though that one woke', () => {
  gate.open().done();
  gate.open();
  pass(INTERVAL_MS);
  const waking = gate.open();
  expect([waking.wake, gate.open().wake]).toEqual([true, false]);
  waking.done();
  pass(1.5 * INTERVAL_MS);
  expect(late).toHaveLength(1);
});

test('no batch goes untold, and none is waited for longer than one and a half intervals, however they fall', () => {
  let recordedMs: number[] = [];
  let woke = 0;
  let longestMs = 0;
  const told = (): void => {
    woke++;
    longestMs = Math.max(longestMs, performance.now() - (recordedMs[0] ?? performance.now()));
    recordedMs = [];
  };
  gate = createWakeGate({ intervalMs: INTERVAL_MS, wake: told });
  for (let batch = 0; batch < 500; batch++) {
    const waking = gate.open();
    // Now and then one fails, and has recorded nothing.
    if (batch % 5 > 0) {
      recordedMs.push(performance.now());
      if (waking.wake) told();
      waking.done();
    }
    pass(batch % 23 === 0 ? 3 * INTERVAL_MS : batch % 7);
  }
  pass(2 * INTERVAL_MS);
  expect(recordedMs).toEqual([]);
  expect(longestMs).toBeLessThanOrEqual(1.5 * INTERVAL_MS);
  // At once, after each interval, and once more for what was left: never with each batch.
  expect(woke).toBeLessThanOrEqual(performance.now() / INTERVAL_MS + 2);
});

test('a closed gate wakes nobody any more', () => {
  gate.open();
  gate.open();
  gate.close();
  pass(10 * INTERVAL_MS);
  expect(late).toHaveLength(0);
});
