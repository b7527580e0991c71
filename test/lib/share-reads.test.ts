import { expect, test } from 'vitest';

import { shareReads } from '../../src/lib/share-reads.ts';

test('those who ask the same at once share one read, and who asks later reads anew', async () => {
  const share = shareReads<number>();
  let reads = 0;
  const read = async () => ++reads;
  expect(await Promise.all([share('a', read), share('a', read), share('b', read)])).toEqual([1, 1, 2]);
  expect(await share('a', read)).toBe(3);
});

test('a read that fails fails for those who shared it, and for nobody after them', async () => {
  const share = shareReads<number>();
  const failing = () => Promise.reject(new Error('no database'));
  const both = await Promise.allSettled([share('a', failing), share('a', failing)]);
  expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  expect(await share('a', async () => 7)).toBe(7);
});
