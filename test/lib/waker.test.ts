import { expect, test } from 'vitest';

import { createWaker } from '../../src/lib/waker.ts';

const LONG_MS = 60_000;

test('a wait is over when it is woken, when its time is over and when the signal fires', async () => {
  const closing = new AbortController();
  const waker = createWaker(closing.signal);
  const woken = waker.next(LONG_MS);
  waker.wake();
  await woken;
  await waker.next(5);
  const closed = waker.next(LONG_MS);
  closing.abort();
  await closed;
  await waker.next(LONG_MS);
});

test('what woke the loop while it worked ends its next wait, and that one alone', async () => {
  const closing = new AbortController();
  const waker = createWaker(closing.signal);
  waker.wake();
  waker.wake();
  await waker.next(LONG_MS);
  let over = false;
  const next = waker.next(LONG_MS).then(() => (over = true));
  await new Promise((resolve) => setImmediate(resolve));
  expect(over).toBe(false);
  waker.wake();
  await next;
});
