import { describe, expect, it } from 'vitest';

import { createPacedUses } from '../../src/ledger/paced-uses.ts';
import type { KeyUse } from '../../src/ledger/use-followers.ts';

const useOf = (key: number, position: number, requests = 1): KeyUse => ({
  key,
  organization: 1,
  requests,
  position: BigInt(position),
  lastUsedAt: new Date(position),
});

describe('the uses of keys, at most once a second', () => {
  it('tell the first at once and what follows within the second together at its end', () => {
    const paced = createPacedUses(1000);
    paced.add(useOf(1, 10));
    expect(paced.take(0)).toEqual(useOf(1, 10));
    expect(paced.soonestMs(0)).toBeNull();
    paced.add(useOf(1, 11));
    paced.add(useOf(1, 12, 3));
    expect(paced.take(400)).toBeNull();
    expect(paced.soonestMs(400)).toBe(600);
    expect(paced.take(1000)).toEqual(useOf(1, 12, 4));
    expect(paced.take(1500)).toBeNull();
    paced.add(useOf(1, 13));
    expect(paced.take(1999)).toBeNull();
    expect(paced.take(2000)).toEqual(useOf(1, 13));
  });

  it('wait for nobody else, in the order in which they came', () => {
    const paced = createPacedUses(1000);
    for (const key of [3, 1, 2]) paced.add(useOf(key, key));
    expect([paced.take(0), paced.take(0), paced.take(0)].map((use) => use?.key)).toEqual([3, 1, 2]);
    paced.add(useOf(2, 4));
    paced.add(useOf(4, 5));
    expect(paced.take(10)?.key).toBe(4);
    expect(paced.soonestMs(10)).toBe(990);
  });

  it('keep nothing of most of many keys that are used no more, and those that are used again', () => {
    const paced = createPacedUses(1000);
    const tellAll = (nowMs: number): number => {
      let told = 0;
      while (paced.take(nowMs) !== null) told++;
      return told;
    };
    for (let key = 1; key <= 50_000; key++) paced.add(useOf(key, key));
    expect(tellAll(0)).toBe(50_000);
    paced.add(useOf(7, 50_001));
    expect(tellAll(1000)).toBe(1);
    expect(paced.kept()).toBe(1000);
    for (let key = 1; key <= 50_000; key++) paced.add(useOf(key, 50_001 + key));
    // Key 7 was told of a moment ago.
    expect(tellAll(1001)).toBe(49_999);
    expect(tellAll(2000)).toBe(1);
  });

  it('count each request once, and tell no key twice within a second, whatever happens', () => {
    const paced = createPacedUses(1000);
    const added = new Map<number, number>();
    const told = new Map<number, { requests: number; atMs: number }>();
    let state = 11;
    const random = (below: number): number => (state = (state * 48_271) % 2_147_483_647) % below;
    let nowMs = 0;
    const takeAll = (): void => {
      for (let use = paced.take(nowMs); use !== null; use = paced.take(nowMs)) {
        const before = told.get(use.key);
        if (before !== undefined) expect(nowMs - before.atMs).toBeGreaterThanOrEqual(1000);
        told.set(use.key, { requests: (before?.requests ?? 0) + use.requests, atMs: nowMs });
      }
    };
    for (let step = 0; step < 20_000; step++) {
      nowMs += random(20);
      const key = random(40);
      const requests = 1 + random(3);
      paced.add(useOf(key, step, requests));
      added.set(key, (added.get(key) ?? 0) + requests);
      if (random(3) === 0) takeAll();
    }
    takeAll();
    for (let soonestMs = paced.soonestMs(nowMs); soonestMs !== null; soonestMs = paced.soonestMs(nowMs)) {
      expect(soonestMs).toBeLessThanOrEqual(1000);
      nowMs += Math.max(0, soonestMs);
      takeAll();
    }
    expect(told.size).toBe(added.size);
    for (const [key, requests] of added) expect(told.get(key)?.requests).toBe(requests);
  });
});
