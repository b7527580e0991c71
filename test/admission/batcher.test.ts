import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';

import { describe, expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import { createBatcher, type BatcherOptions } from '../../src/admission/batcher.ts';

/** A batcher whose batches end when they are told to. */
function controlled(options: Partial<BatcherOptions<number, number>> = {}) {
  const started: { readonly items: readonly number[]; readonly end: (error?: Error) => void }[] = [];
  const batcher = createBatcher<number, number>({
    run: (items) =>
      new Promise((resolve, reject) => {
        started.push({ items, end: (error) => (error === undefined ? resolve(items.map((item) => -item)) : reject(error)) });
      }),
    maxInFlight: 2,
    maxBatch: 4,
    maxQueued: 10,
    maxWaitMs: 60_000,
    ...options,
  });
  const settle = async (): Promise<void> => {
    await turn();
    await turn();
  };
  const add = (...items: readonly number[]) => items.map((item) => batcher.add(item));
  return { batcher, started, settle, add, sizes: () => started.map(({ items }) => items.length) };
}

describe('batches of what arrives together', () => {
  it('start at once for a lone item, and take all that came meanwhile when it is done', async () => {
    const { started, settle, add, sizes } = controlled();
    const first = add(1);
    await settle();
    expect(sizes()).toEqual([1]);
    void add(2);
    await settle();
    expect(sizes()).toEqual([1, 1]);
    const rest = add(3, 4, 5);
    await settle();
    expect(sizes()).toEqual([1, 1]);
    started[0]?.end();
    expect(await Promise.all(first)).toEqual([-1]);
    await settle();
    expect(sizes()).toEqual([1, 1, 3]);
    started[2]?.end();
    expect(await Promise.all(rest)).toEqual([-3, -4, -5]);
  });

  it('overlap only where as many wait as are under way, and nothing waits on when that is done', async () => {
    const { started, settle, add, sizes } = controlled();
    void add(1, 2, 3);
    await settle();
    void add(4, 5);
    await settle();
    expect(sizes()).toEqual([3]);
    void add(6);
    await settle();
    expect(sizes()).toEqual([3, 3]);
    void add(7);
    await settle();
    expect(sizes()).toEqual([3, 3]);
    for (const { end } of started.slice()) end();
    await settle();
    expect(sizes()).toEqual([3, 3, 1]);
  });

  it('are of bounded size, and full ones overlap however many items there are', async () => {
    const { settle, add, sizes } = controlled();
    void add(1, 2, 3, 4, 5, 6, 7, 8, 9);
    await settle();
    expect(sizes()).toEqual([4, 4]);
  });

  it('refuse what is too much or too late, and a failing one fails alone', async () => {
    const { batcher, started, settle, add } = controlled({ maxInFlight: 1, maxQueued: 2, maxWaitMs: 50 });
    const [failing] = add(1);
    await settle();
    const [one, another, tooMany] = add(2, 3, 4);
    const late = [one, another].map((item) => expect(item).rejects.toThrow('too slow for the load'));
    await expect(tooMany).rejects.toThrow('Too many requests wait');
    await sleep(60);
    started[0]?.end(new Error('the statement failed'));
    await expect(failing).rejects.toThrow('the statement failed');
    await Promise.all(late);
    expect(started).toHaveLength(1);
    const closed = batcher.close();
    await expect(batcher.add(5)).rejects.toBeInstanceOf(AdmissionUnavailableError);
    await closed;
  });
});
