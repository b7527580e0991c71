import { expect, test } from 'vitest';

import type { EventType } from '../../src/domain/event.ts';
import type { LedgerEntry, LogFilter } from '../../src/ledger/read.ts';
import { admits, createRecentEntries } from '../../src/ledger/recent-entries.ts';
import { createWaitingFollowers } from '../../src/ledger/waiting-followers.ts';
import { seededRandom } from '../support/random.ts';

const ORGANIZATIONS = ['one', 'two'] as const;
const STREAMS = ['key:a', 'key:b', 'key:c'] as const;
const TYPES = ['UsageRecorded', 'Updated', 'Deactivated'] as const satisfies readonly EventType[];

function entryAt(position: number, random: ReturnType<typeof seededRandom>): LedgerEntry {
  return {
    position: BigInt(position),
    organizationId: random.pick(ORGANIZATIONS),
    stream: random.pick(STREAMS),
    type: random.pick(TYPES),
    actorId: 'system',
    recordedAt: new Date(0),
    data: {},
  };
}

function anyFilter(random: ReturnType<typeof seededRandom>): LogFilter {
  const some = <Item>(items: readonly Item[]): readonly Item[] => items.filter(() => random.chance(0.5));
  return {
    ...(random.chance(0.5) ? { organizationId: random.pick(ORGANIZATIONS) } : {}),
    ...(random.chance(0.5) ? { types: some(TYPES) } : {}),
    ...(random.chance(0.5) ? { streams: some(STREAMS) } : {}),
  };
}

test('what is found by topics is what a walk over all entries finds, whatever the filter, the page and the place', () => {
  const random = seededRandom();
  const capacity = 200;
  const recent = createRecentEntries(capacity, 0n);
  const all: LedgerEntry[] = [];
  for (let round = 0; round < 60; round++) {
    const more = Array.from({ length: random.between(1, 20) }, (_, index) => entryAt(all.length + index + 1, random));
    all.push(...more);
    recent.add(more);
    const filter = anyFilter(random);
    const after = random.between(0, all.length);
    const limit = random.between(1, 30);
    const page = recent.after(BigInt(after), filter, limit);
    if (page === null) {
      expect(after).toBeLessThan(all.length - capacity + 20);
      continue;
    }
    const expected = all.filter((entry) => entry.position > BigInt(after) && admits(filter, entry)).slice(0, limit);
    expect(page.entries, `seed ${random.seed}`).toEqual(expected);
    expect(page.readTo).toBe(expected.length === limit ? expected.at(-1)?.position : BigInt(all.length));
  }
  expect(recent.after(0n, {}, 10)).toBeNull();
});

test('a hole in the log is refused', () => {
  const recent = createRecentEntries(10, 5n);
  const random = seededRandom();
  expect(() => recent.add([entryAt(7, random)])).toThrow(/hole/);
});

test('usage events that were passed over are asked of the database, all else is found here', () => {
  const recent = createRecentEntries(10, 0n);
  const random = seededRandom(1);
  const renamed = { ...entryAt(2, random), type: 'Updated' } as const;
  recent.addLifecycle([renamed], 3n);
  expect(recent.head()).toBe(3n);
  expect(recent.after(0n, { types: ['Updated'] }, 10)).toEqual({ entries: [renamed], readTo: 3n });
  for (const filter of [{}, { types: ['UsageRecorded'] }, { streams: [renamed.stream] }] as const)
    expect(recent.after(2n, filter, 10)).toBeNull();
  const used = { ...entryAt(4, random), type: 'UsageRecorded' } as const;
  recent.add([used]);
  expect(recent.after(3n, { types: ['UsageRecorded'] }, 10)).toEqual({ entries: [used], readTo: 4n });
});

test('a follower waits until something comes that concerns it, and is told in front of what', async () => {
  const followers = createWaitingFollowers();
  const recent = createRecentEntries(100, 0n);
  const leaving = new AbortController();
  const entry = (position: number, stream: string): LedgerEntry => ({ ...entryAt(position, seededRandom(1)), stream });
  const add = (one: LedgerEntry) => followers.wake(recent.add([one]), one.position - 1n);
  const waiter = followers.join({ streams: ['key:a', 'key:b'] }, leaving.signal);
  let told: bigint | null | undefined;
  void waiter.next().then((after) => (told = after));
  add(entry(1, 'key:c'));
  await Promise.resolve();
  expect(told).toBeUndefined();
  add(entry(2, 'key:b'));
  add(entry(3, 'key:a'));
  await Promise.resolve();
  expect(told).toBe(1n);
  const waiting = waiter.next();
  leaving.abort();
  expect(await waiting).toBeNull();
  expect(await waiter.next()).toBeNull();
});
