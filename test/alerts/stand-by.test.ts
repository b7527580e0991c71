import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { createAlerting, type Alerting } from '../../src/alerts/create-alerting.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 30_000 });

const SECOND_MS = 1000;

describe('6.2 servers that evaluate side by side', () => {
  let ledger: TestLedger;
  const running = new Set<Alerting>();
  beforeEach(async () => {
    ledger = await openTestLedger();
  });
  afterEach(async () => {
    await Promise.all([...running].map((alerting) => alerting.stop()));
    running.clear();
    await ledger.close();
    if (ledger.errors.length > 0) throw new AggregateError(ledger.errors, 'something went wrong in the background');
  });

  function start(): Alerting {
    const alerting = createAlerting({ database: ledger.database, pollMs: 20, onError: (error) => void ledger.errors.push(error) });
    running.add(alerting);
    return alerting;
  }
  async function stop(alerting: Alerting): Promise<void> {
    await alerting.stop();
    running.delete(alerting);
  }
  async function raised(): Promise<readonly string[]> {
    const { rows } = await ledger.database.pool.query<{ series: string }>(
      "SELECT data ->> 'series' AS series FROM events WHERE type = 'AlertRaised' ORDER BY position",
    );
    return rows.map(({ series }) => series.split('/').slice(2).join('/'));
  }

  it('6.2 raise each threshold once while they come and go in the middle of traffic, none left out', async () => {
    const keys = await Promise.all(Array.from({ length: 10 }, () => ledger.newKey({ quotas: { total: 100 } })));
    let alive = [start(), start(), start()];
    // By single uses, so that each threshold is crossed in the middle of what some server knows.
    for (let round = 0; round < 100; round++) {
      await Promise.all(keys.map(({ secret }) => ledger.verify(secret)));
      await sleep(25);
      if (round % 12 === 11) {
        const [oldest, ...others] = alive;
        if (oldest !== undefined) await stop(oldest);
        alive = [...others, start()];
      }
    }
    await eventually('all thresholds are raised', async () => (await raised()).length >= 40);
    await sleep(300);
    expect((await raised()).toSorted()).toEqual(
      ['TOTAL/100/100', 'TOTAL/100/50', 'TOTAL/100/80', 'TOTAL/100/95'].flatMap((series) => keys.map(() => series)),
    );
  });

  it('6.3 what is crossed just after the leading server has gone is raised within a second by another one', async () => {
    const { secret } = await ledger.newKey({ quotas: { total: 2 } });
    const leader = start();
    await ledger.verify(secret);
    await eventually('the first server leads', async () => (await raised()).length === 1);
    start();
    await sleep(600);
    await stop(leader);
    const crossedMs = performance.now();
    await ledger.verify(secret);
    await eventually('the other one raises', async () => (await raised()).length === 4);
    expect(performance.now() - crossedMs).toBeLessThan(SECOND_MS);
  });
});
