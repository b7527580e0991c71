import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { createRaiseAlerts } from '../../src/alerts/raise-alerts.ts';
import { check } from '../../src/audit/check.ts';
import { defaultRuleId } from '../../src/domain/alert-rule.ts';
import type { AlertFinding } from '../../src/domain/alert.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { asAdmin, backendPids } from '../support/database.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 30_000 });

const HOUR_MS = 60 * 60 * 1000;
const PROCESS = fileURLToPath(new URL('alerting-process.ts', import.meta.url));

describe('6.2 an alert is raised once per rule, key and window', () => {
  let ledger: TestLedger;
  const releases: (() => Promise<unknown>)[] = [];
  beforeEach(async () => {
    ledger = await openTestLedger();
    releases.push(() => ledger.close());
  });
  afterEach(async () => {
    for (const release of releases.splice(0).reverse()) await release();
  });

  /** What the log holds more than once, by series and ordinal. */
  async function raisedTwice(): Promise<readonly string[]> {
    const { rows } = await ledger.database.pool.query<{ series: string }>(
      "SELECT data ->> 'series' AS series FROM events WHERE type = 'AlertRaised' GROUP BY 1, data ->> 'ordinal' HAVING count(*) > 1",
    );
    return rows.map(({ series }) => series);
  }

  async function raised(): Promise<readonly string[]> {
    const { rows } = await ledger.database.pool.query<{ series: string }>('SELECT series FROM alerts ORDER BY position');
    return rows.map(({ series }) => series.split('/').slice(2).join('/'));
  }

  /** Takes away what makes it once, and leaves the look-up. */
  const allowTwice = () =>
    asAdmin(
      (admin) => admin.query('DROP INDEX keyledger.alerts_once; CREATE INDEX ON keyledger.alerts (series, ordinal)'),
      ledger.testDatabase.name,
    );

  const finding = (nth: number, windowMs: number | null = null): AlertFinding => ({
    organizationId: ledger.organization.id,
    ruleId: defaultRuleId(ledger.organization.id, 'QUOTA_THRESHOLD'),
    kind: 'QUOTA_THRESHOLD',
    keyId: null,
    severity: 'INFO',
    message: `finding ${nth}`,
    details: {},
    series: `test/${nth}`,
    windowMs,
  });

  /** Each server finds the same at the same moment, again and again, in an order of its own. */
  async function hammer(servers: number, findings: readonly AlertFinding[]): Promise<void> {
    await Promise.all(
      Array.from({ length: servers }, async (_, server) => {
        for (let round = 0; round < 5; round++) {
          const turned = [...findings.slice((server * 7) % findings.length), ...findings.slice(0, (server * 7) % findings.length)];
          await createRaiseAlerts(ledger.db)(turned);
        }
      }),
    );
  }

  it('6.2 however many servers raise it at the same moment; without the unique index that would be found', async () => {
    const findings = Array.from({ length: 40 }, (_, nth) => finding(nth));
    await hammer(8, findings);
    expect(await raisedTwice()).toEqual([]);
    expect(await raised()).toHaveLength(40);
    await check(ledger.database, { onFinding: (found) => expect.fail(JSON.stringify(found)), onProgress: () => undefined });
    await allowTwice();
    await hammer(
      8,
      Array.from({ length: 40 }, (_, nth) => finding(100 + nth)),
    );
    expect((await raisedTwice()).length).toBeGreaterThan(0);
  });

  it('6.2 and once more in the next window, in any span of its length', async () => {
    const clock = await installTestClock(ledger.testDatabase);
    releases.push(() => clock.close());
    await clock.stopAt(new Date());
    const raise = () => createRaiseAlerts(ledger.db)([finding(1, HOUR_MS)]);
    const told: number[] = [];
    for (const minutes of [0, 30, 29, 1, 59, 1]) {
      await clock.advance(minutes * 60_000);
      told.push(await raise());
    }
    expect(told).toEqual([1, 0, 0, 1, 0, 1]);
    const { rows } = await ledger.database.pool.query<{ ordinal: number }>('SELECT ordinal FROM alerts ORDER BY position');
    expect(rows.map(({ ordinal }) => ordinal)).toEqual([1, 2, 3]);
  });

  type Server = { readonly name: string; readonly child: ChildProcess };

  async function startServer(name: string): Promise<Server> {
    const child = spawn(process.execPath, [PROCESS], {
      env: { PATH: process.env['PATH'], DATABASE_URL: ledger.testDatabase.serverUrl.reveal(), APPLICATION_NAME: name },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const ended = once(child, 'exit');
    releases.push(async () => {
      child.stdin?.end();
      await ended;
    });
    await once(child.stdout ?? child, 'data');
    return { name, child };
  }

  /** Which servers wait for the table of alerts: they have evaluated and are about to raise. */
  async function raisingServers(): Promise<readonly string[]> {
    return asAdmin(async (admin) => {
      const { rows } = await admin.query<{ name: string }>(
        `SELECT a.application_name AS name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.relation = 'keyledger.alerts'::regclass AND NOT l.granted AND a.datname = current_database()`,
      );
      return rows.map(({ name }) => name);
    }, ledger.testDatabase.name);
  }

  /** Crosses every threshold of a new key while nobody can raise, kills the server that is about to, and lets both it and its successor go on. */
  async function killBetweenEvaluatingAndRaising(servers: readonly Server[]): Promise<Server> {
    const { secret } = await ledger.newKey({ quotas: { total: 1 } });
    const blocker = new pg.Client(clientConfig({ connectionString: ledger.testDatabase.ownerUrl, applicationName: 'blocker', role: null }));
    await blocker.connect();
    try {
      await blocker.query('BEGIN; LOCK TABLE alerts IN SHARE MODE');
      await ledger.verify(secret); // all at once, so that victim and successor find the same
      await eventually('a server is about to raise', async () => (await raisingServers()).length === 1);
      const [leader] = await raisingServers();
      const victim = servers.find(({ name }) => name === leader);
      const successor = servers.find(({ name }) => name !== leader);
      if (victim === undefined || successor === undefined) throw new Error(`nobody knows the server ${leader}`);
      victim.child.kill('SIGKILL');
      await once(victim.child, 'exit');
      // The statement of the dead server still waits, as Postgres does not look whether anybody does.
      await eventually('its successor is about to raise the same', async () => (await raisingServers()).includes(successor.name));
      expect((await raisingServers()).toSorted()).toEqual([victim.name, successor.name].toSorted());
      await blocker.query('COMMIT');
      await eventually(
        'the statement of the dead server has ended',
        async () => (await backendPids(ledger.testDatabase, victim.name)).length === 0,
      );
      await eventually('the log is evaluated', async () => {
        const { rows } = await ledger.database.pool.query<{ done: boolean }>(
          "SELECT position >= (SELECT max(position) FROM usage_events) AS done FROM alert_progress WHERE name = 'windows'",
        );
        return rows[0]?.done === true;
      });
      return successor;
    } finally {
      await blocker.end();
    }
  }

  it('6.2 and by the server that takes over from one that was killed between evaluating and raising; without the unique index it would be twice', async () => {
    const successor = await killBetweenEvaluatingAndRaising([await startServer('one'), await startServer('two')]);
    expect(await raised()).toEqual(['TOTAL/1/50', 'TOTAL/1/80', 'TOTAL/1/95', 'TOTAL/1/100']);
    expect(await raisedTwice()).toEqual([]);

    await allowTwice();
    await killBetweenEvaluatingAndRaising([successor, await startServer('three')]);
    expect(await raisedTwice()).toHaveLength(4);
  });
});
