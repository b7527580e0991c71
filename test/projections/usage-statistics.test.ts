import { afterAll, beforeAll, expect, test } from 'vitest';

import { codeNumber } from '../../src/domain/usage.ts';
import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { createFolder } from '../../src/projections/projection.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { requestLog, type RequestLogFilter } from '../../src/projections/request-log.ts';
import { lastUsed, statisticsPosition, usageSeries, usageTotals } from '../../src/projections/usage-queries.ts';
import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';
import { appendUsage, createTenant, type Tenant, type TestKey } from '../support/tenant.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const RATE_LIMITED = codeNumber('RATE_LIMITED');

let target: TestDatabase;
let database: Database;
let tenant: Tenant;
let one: TestKey;
let other: TestKey;
/** Midnight, three days ago: all of it lies within the minutes that are kept. */
const midnight = Math.floor(Date.now() / DAY) * DAY - 3 * DAY;
const moment = (offsetMs: number) => new Date(midnight + offsetMs).toISOString();
const period = (fromMs: number, toMs: number) => ({ from: new Date(midnight + fromMs), to: new Date(midnight + toMs) });

beforeAll(async () => {
  target = await createTestDatabase();
  database = openDatabase({ connectionString: target.serverUrl, applicationName: 'usage', maxConnections: 3, onError: () => undefined });
  tenant = await createTenant(database);
  one = await tenant.createKey();
  other = await tenant.createKey({ category: 'staging' });
});

afterAll(async () => {
  await database.close();
  await target.drop();
});

async function foldAll(): Promise<void> {
  const fold = createFolder(USAGE_PROJECTION, 'live');
  for (;;) {
    const folded = await fold(database.kysely);
    if (folded === null || folded.position >= folded.head) return;
  }
}

test('5.2 requests, refusals, cost, tokens and models are counted by key, category and organization', async () => {
  const first = await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: one.number, occurred_at: moment(10 * HOUR + 5 * MINUTE) },
    { key: one.number, occurred_at: moment(10 * HOUR + 6 * MINUTE), code: RATE_LIMITED, credits: 0 },
    {
      key: one.number,
      kind: 2,
      occurred_at: moment(11 * HOUR),
      status: 503,
      cost_micros: '9007199254740993',
      tokens_in: '7',
      tokens_out: '9',
      model: 'm-large',
      duration_ms: 40,
    },
    { key: other.number, kind: 2, occurred_at: moment(DAY + 5), status: 200, cost_micros: '2', model: 'm-small' },
  ]);
  await foldAll();
  const organizationId = tenant.organizationId;
  const whole = period(0, 3 * DAY);
  expect(await usageTotals(database.kysely, { organizationId, keyNumber: one.number }, whole)).toEqual({
    requests: 3n,
    succeeded: 1n,
    failed: 1n,
    refused: 1n,
    costMicros: 9_007_199_254_740_993n,
    tokensIn: 7n,
    tokensOut: 9n,
    models: ['m-large'],
    refusals: [{ code: 'RATE_LIMITED', count: 1n }],
  });
  expect(await usageTotals(database.kysely, { organizationId }, whole)).toMatchObject({
    requests: 4n,
    succeeded: 2n,
    models: ['m-large', 'm-small'],
  });
  expect(await usageTotals(database.kysely, { organizationId, category: 'staging' }, whole)).toMatchObject({
    requests: 1n,
    costMicros: 2n,
  });
  expect(await usageTotals(database.kysely, { organizationId, category: 'nothing' }, whole)).toMatchObject({
    requests: 0n,
    models: [],
    refusals: [],
  });
  // A settling report moves the request of 10:05 to the failed ones, in the bucket of 10:05.
  await appendUsage(database.kysely, tenant.organizationNumber, [
    {
      key: one.number,
      kind: 3,
      credits: 0,
      settles: String(first),
      status: 500,
      cost_micros: '5',
      tokens_in: '1',
      occurred_at: moment(12 * HOUR),
      model: 'm-tiny',
      duration_ms: 3,
    },
  ]);
  await foldAll();
  const minute = period(10 * HOUR + 5 * MINUTE, 10 * HOUR + 6 * MINUTE);
  expect(await usageTotals(database.kysely, { organizationId, keyNumber: one.number }, minute)).toMatchObject({
    requests: 1n,
    succeeded: 0n,
    failed: 1n,
    costMicros: 5n,
    tokensIn: 1n,
    models: ['m-tiny'],
  });
  expect(await usageTotals(database.kysely, { organizationId }, whole)).toMatchObject({
    requests: 4n,
    succeeded: 1n,
    failed: 2n,
    refused: 1n,
  });
  expect(await statisticsPosition(database.kysely)).toBe(first + 4n);
});

test('5.2 a series has a point for each step, zeros included, and sums up to the totals of the same period', async () => {
  const subject = { organizationId: tenant.organizationId };
  const asked = period(10 * HOUR + 5 * MINUTE + 30_000, 11 * HOUR + 30 * MINUTE);
  for (const [granularity, points] of [
    ['MINUTE', 85],
    ['HOUR', 2],
    ['DAY', 1],
  ] as const) {
    const series = await usageSeries(database.kysely, subject, asked, granularity);
    const totals = await usageTotals(database.kysely, subject, asked);
    expect(series).toHaveLength(points);
    expect(series.reduce((sum, point) => sum + BigInt(point.requests), 0n)).toBe(totals.requests);
    expect(series.reduce((sum, point) => sum + BigInt(point.costMicros), 0n)).toBe(totals.costMicros);
    expect(totals.requests).toBe(3n);
  }
  const byDay = await usageSeries(database.kysely, subject, period(-DAY, 2 * DAY), 'DAY');
  expect(byDay.map((point) => [point.at.getTime(), BigInt(point.requests)])).toEqual([
    [midnight - DAY, 0n],
    [midnight, 3n],
    [midnight + DAY, 1n],
  ]);
});

test("another organization's key has no usage here", async () => {
  const stranger = await createTenant(database, 'Strangers');
  expect(
    await usageTotals(database.kysely, { organizationId: stranger.organizationId, keyNumber: one.number }, period(0, 3 * DAY)),
  ).toMatchObject({ requests: 0n });
  expect(await requestLog(database.kysely, { organizationId: stranger.organizationId, keyNumber: one.number }, { limit: 10 })).toEqual({
    entries: [],
    before: null,
  });
});

test('last used is the newest admission or report, not a refusal', async () => {
  const never = await tenant.createKey();
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: one.number, occurred_at: moment(20 * HOUR), code: RATE_LIMITED },
    { key: one.number, kind: 2, occurred_at: moment(19 * HOUR) },
    { key: one.number, occurred_at: moment(2 * HOUR) },
    { key: never.number, code: RATE_LIMITED },
  ]);
  await foldAll();
  const used = await lastUsed(database.kysely, [one.number, other.number, never.number]);
  expect(used.get(one.number)?.toISOString()).toBe(moment(19 * HOUR));
  expect(used.get(other.number)?.toISOString()).toBe(moment(DAY + 5));
  expect(used.has(never.number)).toBe(false);
});

test('5.1, 5.4 the request log shows the newest first, in pages, with what was reported afterwards', async () => {
  const key = await tenant.createKey();
  const first = await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, endpoint: 'GET /a', ip: '192.0.2.1' },
    { key: key.number, endpoint: 'GET /b', request_id: 'mine' },
    { key: key.number, code: RATE_LIMITED, credits: 0 },
  ]);
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, kind: 3, credits: 0, settles: String(first), status: 201, duration_ms: 12 },
  ]);
  const subject = { organizationId: tenant.organizationId, keyNumber: key.number };
  const { entries: newest, before } = await requestLog(database.kysely, subject, { limit: 2 });
  expect(before).toBe(first + 1n);
  expect(newest.map((entry) => [entry.position, entry.requestId, entry.code, entry.status])).toEqual([
    [first + 2n, `req_${first + 2n}`, 'RATE_LIMITED', null],
    [first + 1n, 'mine', 'VALID', null],
  ]);
  const older = await requestLog(database.kysely, subject, { limit: 2, before: first + 1n });
  expect(older.before).toBeNull();
  expect(older.entries).toEqual([
    expect.objectContaining({
      position: first,
      keyId: key.id,
      endpoint: 'GET /a',
      ip: '192.0.2.1',
      status: 201,
      durationMs: 12,
      credits: 1,
    }),
  ]);
  expect((await requestLog(database.kysely, { organizationId: tenant.organizationId }, { limit: 100 })).entries).toHaveLength(11);
});

test('5.1 the request log is filtered by what was reported afterwards too, on pages that cost the same however rare a request is', async () => {
  const key = await tenant.createKey();
  const noise = Array.from({ length: 6000 }, () => ({ key: key.number, endpoint: 'GET /noise', ip: '192.0.2.9' }));
  const first = await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, endpoint: 'GET /a', ip: '192.0.2.1', occurred_at: moment(-HOUR) },
    { key: key.number, endpoint: 'POST /b', code: RATE_LIMITED, credits: 0 },
  ]);
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number, kind: 3, credits: 0, settles: String(first), status: 503 },
    ...noise,
  ]);
  const subject = { organizationId: tenant.organizationId, keyNumber: key.number };
  const found = async (filter: RequestLogFilter) => {
    const positions: bigint[] = [];
    let pages = 0;
    for (let before: bigint | undefined; ;) {
      const page = await requestLog(database.kysely, subject, { limit: 2, before, filter });
      positions.push(...page.entries.map((entry) => entry.position - first));
      pages++;
      if (page.before === null) return { positions, pages };
      before = page.before;
    }
  };
  // 6,002 requests are looked at 5,000 a page.
  expect(await found({ status: 503 })).toEqual({ positions: [0n], pages: 2 });
  expect(await found({ code: 'RATE_LIMITED' })).toEqual({ positions: [1n], pages: 2 });
  expect(await found({ ip: '192.0.2.1', endpoint: 'GET /a' })).toEqual({ positions: [0n], pages: 2 });
  expect(await found({ endpoint: 'GET /a', code: 'RATE_LIMITED' })).toEqual({ positions: [], pages: 2 });
  expect(await found({ from: new Date(midnight - 2 * HOUR), to: new Date(midnight) })).toEqual({ positions: [0n], pages: 2 });
});

test("5.1 an organization of very many keys reads its log page by page, its own and nobody else's", async () => {
  const many = await createTenant(database, 'Many keys');
  const stranger = await createTenant(database, 'Somebody else');
  const strange = await stranger.createKey();
  const one = await many.createKey();
  // Rows alone: what is read here is their number, owner and organization.
  await asAdmin(
    (admin) =>
      admin.query(
        `INSERT INTO keyledger.api_keys SELECT (json_populate_record(k, json_build_object('id', uuidv7(), 'number', 1000000 + i, 'name', 'copy ' || i, 'name_folded', 'copy ' || i))).*
         FROM keyledger.api_keys k, generate_series(1, 600) AS i WHERE k.number = ${one.number}`,
      ),
    target.name,
  );
  const old = await appendUsage(database.kysely, many.organizationNumber, [{ key: one.number }, { key: 1_000_001 }]);
  const own = Array.from({ length: 30 }, (_, index) => ({ key: 1_000_001 + index }));
  await appendUsage(database.kysely, stranger.organizationNumber, [{ key: strange.number }]);
  await appendUsage(database.kysely, many.organizationNumber, own);
  await appendUsage(database.kysely, stranger.organizationNumber, [{ key: strange.number }]);
  const seen: bigint[] = [];
  for (let before: bigint | undefined; ;) {
    const page = await requestLog(database.kysely, { organizationId: many.organizationId }, { limit: 7, before });
    seen.push(...page.entries.map((entry) => entry.position));
    if (page.before === null) break;
    before = page.before;
  }
  const expected = [old, old + 1n, ...own.map((_, index) => old + 3n + BigInt(index))];
  expect(seen).toEqual(expected.toReversed());
});

test('an event that can not be counted is parked with its reason, and the rest goes on', async () => {
  const key = await tenant.createKey();
  const first = await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: key.number },
    { key: key.number, code: 99 },
    { key: key.number, kind: 3, settles: '1' },
    { key: key.number, kind: 2, tokens_in: '9223372036854775807' },
    // With this one the sum of the bucket is beyond what a bigint holds.
    { key: key.number, kind: 2, tokens_in: '9223372036854775807' },
    { key: key.number },
  ]);
  await foldAll();
  const parked = await database.kysely.selectFrom('parked_events').select(['position', 'reason']).orderBy('position').execute();
  expect(parked).toEqual([
    { position: first + 1n, reason: 'its outcome 99 is not known to this version' },
    { position: first + 2n, reason: 'it settles position 1, which is no verified request of its key' },
    { position: first + 4n, reason: expect.stringMatching(/out of range/) as string },
  ]);
  const now = Date.now();
  const totals = await usageTotals(
    database.kysely,
    { organizationId: tenant.organizationId, keyNumber: key.number },
    { from: new Date(now - HOUR), to: new Date(now + HOUR) },
  );
  expect(totals).toMatchObject({ requests: 3n, tokensIn: 9_223_372_036_854_775_807n });
});
