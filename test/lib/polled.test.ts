import { describe, expect, it } from 'vitest';

import { iterablePolled, polledPages } from '../../src/lib/polled.ts';

const some = (...values: readonly number[]) => values.map((value) => ({ value }));
const settle = () => new Promise((resolve) => setImmediate(resolve));

describe('updates that come in pages', () => {
  it('are there without a promise but where a page ends, and are asked for no earlier', async () => {
    let given = 0;
    async function* pages() {
      for (const page of [some(1, 2), [], some(3)]) {
        given++;
        yield page;
      }
    }
    const polled = polledPages(pages());
    let calls = 0;
    const again = () => void calls++;
    expect(polled.poll(again)).toBeNull();
    await settle();
    expect([calls, given]).toEqual([1, 1]);
    expect([polled.poll(again), polled.poll(again)]).toEqual(some(1, 2));
    await settle();
    expect([calls, given]).toEqual([1, 1]);
    expect(polled.poll(again)).toBeNull();
    await settle();
    expect(polled.poll(again)).toBeNull(); // the empty one
    await settle();
    expect(polled.poll(again)).toEqual({ value: 3 });
    expect(polled.poll(again)).toBeNull();
    await settle();
    expect(polled.poll(again)).toBeUndefined();
    expect(calls).toBe(4);
  });

  it('give what came before a failure, and then the failure', async () => {
    async function* pages() {
      yield some(1);
      throw new Error('gone');
    }
    const polled = polledPages(pages());
    const read: unknown[] = [];
    await expect(
      (async () => {
        for await (const update of polled) read.push(update);
      })(),
    ).rejects.toThrow('gone');
    expect(read).toEqual(some(1));
  });

  it('end at once for who leaves, though the next page never comes', async () => {
    let left = false;
    const never: AsyncGenerator<readonly { readonly value: number }[], void, undefined> = {
      next: () => new Promise(() => undefined),
      return: async () => {
        left = true;
        return { done: true, value: undefined };
      },
      throw: (error) => Promise.reject(error as Error),
      [Symbol.asyncIterator]() {
        return this;
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    const polled = polledPages(never);
    const next = polled[Symbol.asyncIterator]().next();
    polled.end();
    expect(await next).toEqual({ done: true, value: undefined });
    expect(left).toBe(true);
  });
});

it('a polled source can be iterated, and is told when its reader stops', async () => {
  let goOn: (() => void) | null = null;
  let ended = false;
  const waiting = some(1, 2);
  const source = iterablePolled({
    poll(again) {
      if (ended) return undefined;
      const update = waiting.shift();
      if (update === undefined) goOn = again;
      return update ?? null;
    },
    end: () => void (ended = true),
  });
  const read: unknown[] = [];
  for await (const update of source) {
    read.push(update);
    if (read.length === 2)
      setImmediate(() => {
        waiting.push({ value: 3 });
        goOn?.();
      });
    if (read.length === 3) break;
  }
  expect(read).toEqual(some(1, 2, 3));
  expect(ended).toBe(true);
});
