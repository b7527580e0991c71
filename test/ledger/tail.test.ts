import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { headPosition } from '../../src/ledger/append.ts';
import { readLog, type LedgerEntry } from '../../src/ledger/read.ts';
import { openTail, type LogPage, type Tail } from '../../src/ledger/tail.ts';
import { listenForAppends } from '../../src/ledger/wake.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

describe('following the log', () => {
  let ledger: TestLedger;
  beforeAll(async () => {
    ledger = await openTestLedger();
  });
  afterAll(() => ledger.close());

  async function withTail<T>(pollMs: number, work: (tail: Tail) => Promise<T>): Promise<T> {
    const tail = openTail({ db: ledger.db, pollMs, onError: (error) => ledger.errors.push(error) });
    try {
      return await work(tail);
    } finally {
      await tail.close();
    }
  }

  async function take(pages: AsyncGenerator<LogPage>, count: number): Promise<readonly LedgerEntry[]> {
    const entries: LedgerEntry[] = [];
    for await (const page of pages) {
      entries.push(...page.entries);
      if (entries.length >= count) break;
    }
    return entries;
  }

  it('delivers the whole history and then what comes, in order', async () => {
    const { keyId, secret } = await ledger.newKey();
    await withTail(10, async (tail) => {
      const history = await readLog(ledger.db, {}, { after: 0n, limit: 10_000 });
      const following = take(tail.follow({ after: 0n, filter: {} }), history.length + 3);
      await ledger.verify(secret);
      done(await ledger.keys.deactivate(ledger.owner, { id: keyId }));
      await ledger.verify(secret);
      const entries = await following;
      expect(entries.map((entry) => entry.position)).toEqual(entries.map((_, index) => BigInt(index + 1)));
      expect(entries.slice(-3).map((entry) => entry.type)).toEqual(['UsageRecorded', 'Deactivated', 'UsageRecorded']);
      expect(entries.at(-1)?.data).toMatchObject({ keyId, code: 2, credits: 0 });
    });
  });

  it('filters by organization, type and stream, the same from memory as from the database', async () => {
    const foreign = await ledger.newOrganization('Foreign');
    const mine = await ledger.newKey();
    await ledger.newKey({}, foreign.owner);
    await withTail(10, async (tail) => {
      const filter = {
        organizationId: ledger.organization.id,
        types: ['Deactivated', 'UsageRecorded'],
        streams: [`key:${mine.keyId}`],
      } as const;
      const after = (await readLog(ledger.db, {}, { after: 0n, limit: 10_000 })).at(-1)?.position ?? 0n;
      // Behind a position that is known: 'now' is whenever the follower has asked for it, which may be after all of this.
      const live = take(tail.follow({ after, filter }), 2);
      const othersKey = await ledger.newKey({}, foreign.owner);
      await ledger.verify(othersKey.secret, {}, foreign.id);
      await ledger.verify(mine.secret);
      done(await ledger.keys.deactivate(ledger.owner, { id: mine.keyId }));
      const fromMemory = await live;
      expect(fromMemory.map((entry) => entry.type)).toEqual(['UsageRecorded', 'Deactivated']);
      expect(await readLog(ledger.db, filter, { after, limit: 100 })).toEqual(fromMemory);
    });
  });

  it('tells who comes for usage all of it, though the reader has passed it over so far', async () => {
    const { secret } = await ledger.newKey();
    const filter = { types: ['UsageRecorded'] } as const;
    await withTail(1, async (tail) => {
      const quiet = tail.follow({ after: 'now', filter: { types: ['Deactivated'] } });
      const nothing = quiet.next();
      let using = true;
      const users = Array.from({ length: 4 }, async () => {
        while (using) await ledger.verify(secret);
      });
      for (let round = 0; round < 40; round++) {
        const after = (await headPosition(ledger.db)) - 3n;
        const told = await take(tail.follow({ after: round % 2 === 0 ? after : 'now', filter }), 6);
        const first = told[0]?.position ?? 0n;
        // One that begins at a position begins with the first after it; one that begins now misses nothing behind its first.
        const from = round % 2 === 0 ? after : first - 1n;
        const positions = (await readLog(ledger.db, filter, { after: from, limit: told.length })).map(({ position }) => position);
        expect(told.map(({ position }) => position)).toEqual(positions);
      }
      using = false;
      await Promise.all(users);
      await quiet.return();
      await nothing;
    });
    expect(ledger.errors).toEqual([]);
  });

  it('ends at once when its reader leaves a quiet stream', async () => {
    await withTail(60_000, async (tail) => {
      const pages = tail.follow({ after: 'now', filter: {} });
      const pending = pages.next();
      await new Promise((resolve) => setTimeout(resolve, 50));
      const started = performance.now();
      await pages.return();
      expect(await pending).toEqual({ done: true, value: undefined });
      expect(performance.now() - started).toBeLessThan(1000);
    });
  });

  it('is woken by the commit of another server long before it would look by itself', async () => {
    const other = await openTestLedger({ on: ledger });
    const { keyId } = await ledger.newKey();
    await withTail(60_000, async (tail) => {
      const listening = Promise.withResolvers<void>();
      const config = clientConfig({ connectionString: ledger.testDatabase.serverUrl, applicationName: 'keyledger test listener' });
      const wake = listenForAppends({
        config,
        onWake: () => {
          listening.resolve();
          tail.wake();
        },
        onError: () => undefined,
      });
      await listening.promise;
      for (const round of [1, 2]) {
        const following = take(tail.follow({ after: 'now', filter: { types: ['Updated'] } }), 1);
        await new Promise((resolve) => setTimeout(resolve, 100));
        done(await other.keys.update(ledger.owner, { id: keyId, metadata: { round } }));
        expect((await following)[0]?.data).toMatchObject({ metadata: { round } });
        // The listener's connection is cut: it comes back, and what was missed is looked for.
        await asAdmin((admin) =>
          admin.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger test listener'`),
        );
      }
      await wake.close();
    });
    await other.close();
  });
});
