import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';

import { createWakeGate } from '../../src/admission/wake-gate.ts';

const INTERVAL_MS = 40;

test('the first batch after a while wakes at once, those after it are told of once, later', async () => {
  let late = 0;
  const gate = createWakeGate({ intervalMs: INTERVAL_MS, wake: () => late++ });
  expect([gate.open(), gate.open(), gate.open()]).toEqual([true, false, false]);
  expect(late).toBe(0);
  await expect.poll(() => late).toBe(1);
  await sleep(3 * INTERVAL_MS);
  expect(late).toBe(1);
  expect(gate.open()).toBe(true);
  gate.close();
});

test('no batch goes untold, however they fall', async () => {
  let told = 0;
  let untold = 0;
  const tell = (): void => {
    told++;
    untold = 0;
  };
  const gate = createWakeGate({ intervalMs: INTERVAL_MS, wake: tell });
  const startedMs = performance.now();
  for (let batch = 0; batch < 200; batch++) {
    untold++;
    if (gate.open()) tell();
    await sleep(batch % 7);
  }
  await expect.poll(() => untold).toBe(0);
  // At once, after each interval, and once more for what was left: never with each batch.
  expect(told).toBeLessThanOrEqual((performance.now() - startedMs) / INTERVAL_MS + 2);
  gate.close();
});

test('a closed gate wakes nobody any more', async () => {
  let late = 0;
  const gate = createWakeGate({ intervalMs: INTERVAL_MS, wake: () => late++ });
  gate.open();
  gate.open();
  gate.close();
  await sleep(3 * INTERVAL_MS);
  expect(late).toBe(0);
});
