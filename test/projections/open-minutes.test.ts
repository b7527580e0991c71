import { setTimeout as sleep } from 'node:timers/promises';

import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { check } from '../../src/audit/check.ts';
import type { Finding } from '../../src/audit/finding.ts';
import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { createFolder } from '../../src/projections/projection.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { usageSeries, usageTotals } from '../../src/projections/usage-queries.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { appendUsage, createTenant, type Tenant, type TestKey } from '../support/tenant.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** Half past the hour before this one. */
const BASE = Math.floor(Date.now() / HOUR) * HOUR - HOUR / 2;

let target: TestDatabase;
let database: Database;
let clock: TestClock;
let tenant: Tenant;
let key: TestKey;

beforeEach(async () => {
  target = await createTestDatabase();
  database = openDatabase({ connectionString: target.serverUrl, applicationName: 'minutes', maxConnections: 8, onError: () => undefined });
  tenant = await createTenant(database);
  key = await tenant.createKey();
  clock = await installTestClock(target);
  await clock.stopAt(new Date(BASE));
});

afterEach(async () => {
  await clock.close();
  await database.close();
  await target.drop();
});

const fold = async (): Promise<void> => void (await createFolder(USAGE_PROJECTION, 'live')(database.kysely));
const at = (ms: number): string => new Date(BASE + ms).toISOString();
const whole = { from: new Date(BASE - DAY), to: new Date(BASE + DAY) };
const findings = async (): Promise<readonly Finding[]> => {
  const found: Finding[] = [];
  await check(database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
  return found.filter(({ kind }) => kind === 'counter-differs' || kind === 'last-used-differs' || kind === 'event-parked');
};

async function rowsOf(table: 'usage_counters' | 'usage_open_minutes'): Promise<number> {
  const { rows } = await sql<{ rows: number }>`SELECT count(*)::integer AS rows FROM ${sql.table(table)} WHERE key > 0`.execute(
    database.kysely,
  );
  return rows[0]?.rows ?? 0;
}

async function read(): Promise<readonly bigint[]> {
  const subject = { organizationId: tenant.organizationId, keyNumber: key.number };
  const totals = await usageTotals(database.kysely, subject, whole);
  const series = await Promise.all(
    (['MINUTE', 'HOUR', 'DAY'] as const).map((granularity) => usageSeries(database.kysely, subject, whole, granularity)),
  );
  const organization = await usageTotals(database.kysely, { organizationId: tenant.organizationId }, whole);
  return [totals, organization]
    .map(({ requests }) => requests)
    .concat(series.map((points) => points.reduce((sum, { requests }) => sum + BigInt(requests), 0n)));
}

test('5.2 what happens in the minute that is not over is read at once, and is written to hours and days when it has closed', async () => {
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, occurred_at: at(0) },
    { key: key.number, occurred_at: at(10) },
  ]);
  await fold();
  expect(await read()).toEqual([2n, 2n, 2n, 2n, 2n]);
  expect([await rowsOf('usage_open_minutes'), await rowsOf('usage_counters')]).toEqual([1, 0]);
  expect(await findings()).toEqual([]);
  // What is told late belongs to a minute that is over, and what comes again to the open one.
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, occurred_at: at(-5 * MINUTE) },
    { key: key.number, occurred_at: at(20) },
  ]);
  await fold();
  expect(await read()).toEqual([4n, 4n, 4n, 4n, 4n]);
  expect([await rowsOf('usage_open_minutes'), await rowsOf('usage_counters')]).toEqual([1, 3]);
  expect(await findings()).toEqual([]);
  await clock.advance(MINUTE);
  await fold();
  expect(await read()).toEqual([4n, 4n, 4n, 4n, 4n]);
  expect([await rowsOf('usage_open_minutes'), await rowsOf('usage_counters')]).toEqual([0, 4]);
  expect(await findings()).toEqual([]);
});

test('a minute of many keys closes in the course of the next, faster the longer it has waited, and all of it is read meanwhile', async () => {
  const requests = 450;
  await appendUsage(
    database.kysely,
    tenant.organizationNumber,
    Array.from({ length: requests }, (_, index) => ({ key: key.number + index, occurred_at: at(0) })),
  );
  await fold();
  const total = async (): Promise<bigint> =>
    (await usageTotals(database.kysely, { organizationId: tenant.organizationId }, whole)).requests;
  const left: number[] = [];
  for (const laterMs of [MINUTE, 0, 20_000, 0, MINUTE]) {
    await clock.advance(laterMs);
    await fold();
    left.push(await rowsOf('usage_open_minutes'));
    expect(await total()).toBe(BigInt(requests));
  }
  // Twenty a fold, eighty after twenty seconds, and 320 after eighty; the organization's and the category's row are among them somewhere.
  const more = left.map((rows, turn) => rows - ([430, 410, 330, 250, 0][turn] ?? 0));
  expect(more.filter((rows) => rows < 0 || rows > 2)).toEqual([]);
  expect(await rowsOf('usage_counters')).toBe(3 * requests);
  expect(await findings()).toEqual([]);
});

test('the live fold keeps its plan, and makes another one where far more minutes are open', async () => {
  const single = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'plans',
    maxConnections: 1,
    onError: () => undefined,
  });
  try {
    const foldUsage = createFolder(USAGE_PROJECTION, 'live');
    const useAndFold = async (): Promise<void> => {
      await appendUsage(single.kysely, tenant.organizationNumber, [{ key: key.number, occurred_at: at(0) }]);
      await foldUsage(single.kysely);
    };
    const plans = async (): Promise<readonly { readonly kept: bigint; readonly thrown: bigint }[]> =>
      (
        await sql<{ kept: bigint; thrown: bigint }>`
          SELECT generic_plans AS kept, custom_plans AS thrown FROM pg_prepared_statements WHERE statement LIKE '%DELETE FROM usage_open_minutes%'
          ORDER BY prepare_time`.execute(single.kysely)
      ).rows;
    await useAndFold();
    const [few] = await plans();
    await useAndFold();
    await useAndFold();
    expect(few).toEqual({ kept: 1n, thrown: 0n });
    // The first row has made a page of the table; it stays at one.
    const before = await plans();
    expect(before.at(-1)?.thrown).toBe(0n);
    expect(before.reduce((sum, { kept }) => sum + kept, 0n)).toBe(3n);
    await sql`
      INSERT INTO usage_open_minutes
      SELECT o.slot, 1000 + n, o.organization, o.at, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM usage_open_minutes o, generate_series(1, 2000) AS n WHERE o.key = ${key.number}`.execute(
      single.kysely,
    );
    await useAndFold();
    const after = await plans();
    expect(after).toHaveLength(before.length + 1);
    expect(after.at(-1)).toEqual({ kept: 1n, thrown: 0n });
  } finally {
    await single.close();
  }
});

test('5.5 while minutes close under traffic and several projectors, each moment shows every request once', async () => {
  const { looked, wrong } = await watchTraffic('usage_sums');
  expect(looked).toBeGreaterThan(50);
  expect(wrong).toBe(0);
  await fold();
  expect(await findings()).toEqual([]);
});

test('control: who reads hours and days alone misses the open minute, and is caught', async () => {
  expect((await watchTraffic('usage_counters')).wrong).toBeGreaterThan(0);
});

/** Compares an organization's requests of a day with the checkpoint, in one snapshot, while minutes pass and requests come. */
async function watchTraffic(table: 'usage_sums' | 'usage_counters'): Promise<{ readonly looked: number; readonly wrong: number }> {
  const work = { on: true };
  const loops = [
    ...[1, 2, 3].map(async () => {
      while (work.on) await fold();
    }),
    (async () => {
      for (let turn = 0; work.on; turn++) {
        const now = (await clock.now()).getTime() - BASE;
        await appendUsage(
          database.kysely,
          tenant.organizationNumber,
          Array.from({ length: 5 }, (_, index) => ({ key: key.number, occurred_at: at(now - (index % 3) * MINUTE) })),
        );
        if (turn % 4 === 3) await clock.advance(MINUTE / 2);
      }
    })(),
  ];
  let looked = 0;
  let wrong = 0;
  for (const until = Date.now() + 4000; Date.now() < until; looked++) {
    const { rows } = await sql<{ counted: bigint; folded: bigint }>`
      SELECT coalesce(sum(c.requests), 0)::bigint AS counted,
             (SELECT count(*) FROM usage_events u WHERE u.position <= (SELECT position FROM projections WHERE name = 'usage' AND state = 'live')) AS folded
      FROM ${sql.table(table)} c WHERE c.grain = 3 AND c.key = 0 AND c.slot = (SELECT slot FROM projections WHERE name = 'usage' AND state = 'live')`.execute(
      database.kysely,
    );
    if (rows[0]?.counted !== rows[0]?.folded) wrong++;
    await sleep(5);
  }
  work.on = false;
  await Promise.all(loops);
  return { looked, wrong };
}

test('a day that is nearly full keeps its minutes open: nobody else is set aside for it, and all are read', async () => {
  const full = 9_223_372_036_854_775_000n;
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, kind: 2, occurred_at: at(0), tokens_in: String(full) },
  ]);
  await fold();
  await appendUsage(database.kysely, tenant.organizationNumber, [{ key: key.number, kind: 2, occurred_at: at(1), tokens_in: '500' }]);
  await fold();
  await clock.advance(MINUTE);
  const other = await createTenant(database, 'Somebody else');
  const bystander = await other.createKey();
  await appendUsage(database.kysely, other.organizationNumber, [{ key: bystander.number, occurred_at: at(MINUTE) }]);
  await fold();
  expect(await findings()).toEqual([]);
  const totals = await usageTotals(database.kysely, { organizationId: tenant.organizationId }, whole);
  expect(totals).toMatchObject({ requests: 2n, tokensIn: full + 500n });
  expect((await usageTotals(database.kysely, { organizationId: other.organizationId }, whole)).requests).toBe(1n);
});
