import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { headPosition } from '../../src/ledger/append.ts';
import { openKeyUses, type KeyUses } from '../../src/ledger/key-uses.ts';
import { readLog } from '../../src/ledger/read.ts';
import type { KeyUse, UseFilter } from '../../src/ledger/use-followers.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

/** What a follower was told so far, by key. */
type Follower = { readonly pending: Map<number, KeyUse>; readonly leave: () => void };

describe('following the uses of keys', () => {
  let ledger: TestLedger;
  let uses: KeyUses;
  beforeAll(async () => {
    ledger = await openTestLedger();
    uses = openKeyUses({ database: ledger.database, pollMs: 5, pauseMs: 1, onError: (error) => ledger.errors.push(error) });
  });
  afterAll(async () => {
    await uses.close();
    await ledger.close();
  });

  const follow = async (filter: UseFilter): Promise<Follower> => {
    const pending = new Map<number, KeyUse>();
    const leave = await uses.follow(filter, (use) => {
      pending.set(use.key, { ...use, requests: use.requests + (pending.get(use.key)?.requests ?? 0) });
    });
    return { pending, leave };
  };
  const numberOf = async (table: 'api_keys' | 'organizations', id: string): Promise<number> =>
    (await ledger.db.selectFrom(table).select('number').where('id', '=', id).executeTakeFirstOrThrow()).number;
  const newKey = async () => {
    const { keyId, secret } = await ledger.newKey();
    return { keyId, secret, number: await numberOf('api_keys', keyId) };
  };
  const requestsOf = ({ pending }: Follower, key: number): number => pending.get(key)?.requests ?? 0;
  /** Requests of a key that were let through after a position, as the log has them. */
  const logged = async (key: number, after: bigint): Promise<number> => {
    const { rows } = await ledger.database.pool.query<{ count: bigint }>(
      'SELECT count(*) FROM usage_events WHERE key = $1 AND position > $2 AND code = 0 AND kind IN (1, 2)',
      [key, after],
    );
    return Number(rows[0]?.count);
  };

  it('counts from the call on what is let through and what is reported, and nothing that is refused', async () => {
    const key = await newKey();
    await ledger.verify(key.secret);
    const follower = await follow({ keys: [key.number] });
    await ledger.verify(key.secret);
    done(await ledger.keys.deactivate(ledger.owner, { id: key.keyId }));
    await ledger.verify(key.secret);
    done(await ledger.keys.activate(ledger.owner, { id: key.keyId }));
    await ledger.verify(key.secret);
    const head = await headPosition(ledger.db);
    await eventually('the newest is told', () => follower.pending.get(key.number)?.position === head);
    expect(requestsOf(follower, key.number)).toBe(2);
    const [last] = (await readLog(ledger.db, {}, { after: head - 1n, limit: 1 })).slice(-1);
    expect(follower.pending.get(key.number)?.lastUsedAt).toEqual(last?.recordedAt);
    follower.leave();
    expect(uses.followers()).toBe(0);
  });

  it('tells of an organization all keys, those made later too, and of others nothing', async () => {
    const foreign = await ledger.newOrganization('Foreign');
    const organization = await numberOf('organizations', ledger.organization.id);
    const follower = await follow({ organization });
    const theirs = await ledger.newKey({}, foreign.owner);
    const mine = await newKey();
    await ledger.verify(theirs.secret, {}, foreign.id);
    await ledger.verify(mine.secret);
    await eventually('something is told', () => follower.pending.size > 0);
    expect([...follower.pending.keys()]).toEqual([mine.number]);
    follower.leave();
  });

  it('counts each request once for each follower, whoever comes and goes while keys are used', async () => {
    const keys = await Promise.all(Array.from({ length: 4 }, newKey));
    const numbers = keys.map(({ number }) => number);
    const organization = await numberOf('organizations', ledger.organization.id);
    let using = true;
    const users = keys.map(async ({ secret }) => {
      while (using) await Promise.all([ledger.verify(secret), ledger.verify(secret)]);
    });
    const stay: { readonly follower: Follower; readonly from: bigint; readonly to: bigint }[] = [];
    for (let round = 0; round < 60; round++) {
      const filter: UseFilter = round % 3 === 0 ? { organization } : { keys: numbers };
      const from = await headPosition(ledger.db);
      const follower = await follow(filter);
      const to = await headPosition(ledger.db);
      if (round % 2 === 0) stay.push({ follower, from, to });
      else follower.leave();
    }
    using = false;
    await Promise.all(users);
    const newest = await ledger.database.pool.query<{ position: bigint }>('SELECT max(position) AS position FROM usage_events');
    await eventually('the newest is told to all', () =>
      stay.every(({ follower }) => [...follower.pending.values()].some(({ position }) => position === newest.rows[0]?.position)),
    );
    let told = 0;
    for (const { follower, from, to } of stay) {
      for (const key of numbers) {
        // Where a follower came in lies between the heads of before and after; who counts twice, or misses one, is outside of that sooner or later.
        expect(requestsOf(follower, key)).toBeLessThanOrEqual(await logged(key, from));
        expect(requestsOf(follower, key)).toBeGreaterThanOrEqual(await logged(key, to));
        told += requestsOf(follower, key);
      }
      follower.leave();
    }
    expect(told).toBeGreaterThan(stay.length * 20);
    expect(ledger.errors).toEqual([]);
  });

  it('tells nothing to who left, however often it leaves, and each of two who follow alike', async () => {
    const key = await newKey();
    const [stays, leaves] = await Promise.all([follow({ keys: [key.number] }), follow({ keys: [key.number, key.number] })]);
    await ledger.verify(key.secret);
    await eventually('both are told', () => requestsOf(stays, key.number) === 1 && requestsOf(leaves, key.number) === 1);
    leaves.leave();
    leaves.leave();
    expect(uses.followers()).toBe(1);
    await ledger.verify(key.secret);
    await eventually('one is told', () => requestsOf(stays, key.number) === 2);
    expect(requestsOf(leaves, key.number)).toBe(1);
    stays.leave();
    expect(uses.followers()).toBe(0);
  });
});
