import { setTimeout as sleep } from 'node:timers/promises';

import { expect, test } from 'vitest';

import { createTurns } from '../../src/lib/turns.ts';

test('those that want the same act one after the other, in the order in which they asked', async () => {
  const turns = createTurns();
  const seen: string[] = [];
  const act = (name: string, ms: number) => async () => {
    seen.push(`${name} begins`);
    await sleep(ms);
    seen.push(`${name} ends`);
    return name;
  };
  expect(
    await Promise.all([turns.take('a', act('first', 20)), turns.take('a', act('second', 0)), turns.take('a', act('third', 0))]),
  ).toEqual(['first', 'second', 'third']);
  expect(seen).toEqual(['first begins', 'first ends', 'second begins', 'second ends', 'third begins', 'third ends']);
});

test('one that fails is followed by the next, and other keys do not wait', async () => {
  const turns = createTurns();
  const never = new Promise<never>(() => undefined);
  void turns.take('stuck', () => never);
  const failing = turns.take('a', () => Promise.reject(new Error('no')));
  const next = turns.take('a', () => Promise.resolve('goes on'));
  await expect(failing).rejects.toThrow('no');
  expect(await next).toBe('goes on');
});
