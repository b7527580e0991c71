import { expect, test } from 'vitest';

import { createQueue } from '../../src/lib/queue.ts';

test('a queue gives what was put into it in its order, whatever is put and taken in between', () => {
  const queue = createQueue<{ readonly number: number }>();
  const expected: number[] = [];
  let next = 0;
  let state = 7;
  for (let step = 0; step < 5_000; step++) {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    // Grows in the first half, shrinks in the second.
    if (state % 100 < (step < 2_500 ? 60 : 40)) {
      queue.push({ number: next });
      expected.push(next++);
    } else expect(queue.shift()?.number).toBe(expected.shift());
    expect(queue.at(0)?.number).toBe(expected[0]);
    expect(queue.at(expected.length - 1)?.number).toBe(expected.at(-1));
    expect(queue.at(expected.length)).toBeUndefined();
  }
  expect(next).toBeGreaterThan(2_000);
});
