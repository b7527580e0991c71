import { afterAll, beforeAll, expect, test } from 'vitest';

import { check } from '../../src/audit/check.ts';
import type { Finding } from '../../src/audit/finding.ts';
import { isRefusal } from '../../src/domain/refusals.ts';
import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { createFolder } from '../../src/projections/projection.ts';
import { rebuildProjection } from '../../src/projections/rebuild.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { subjectLastUsed, usageTotals } from '../../src/projections/usage-queries.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { appendUsage, createTenant, type Tenant, type TestKey } from '../support/tenant.ts';

const DAY = 86_400_000;

let target: TestDatabase;
let database: Database;
let tenant: Tenant;
let moving: TestKey;
let staying: TestKey;

beforeAll(async () => {
  target = await createTestDatabase();
  database = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'categories',
    maxConnections: 3,
    onError: () => undefined,
  });
  tenant = await createTenant(database);
  moving = await tenant.createKey({ category: 'staging' });
  staying = await tenant.createKey({ category: 'staging' });
});

afterAll(async () => {
  await database.close();
  await target.drop();
});

const foldAll = async (): Promise<void> => {
  const fold = createFolder(USAGE_PROJECTION, 'live');
  for (;;) {
    const folded = await fold(database.kysely);
    if (folded === null || folded.position >= folded.head) return;
  }
};

const moveTo = async (category: string): Promise<void> => {
  const outcome = await tenant.keys.update(tenant.owner, { id: moving.id, category });
  if (isRefusal(outcome)) throw new Error(outcome.message);
};

const totalsOf = async (category: string) => {
  const now = Date.now();
  const period = { from: new Date(now - 2 * DAY), to: new Date(now + DAY) };
  const { requests, failed, costMicros, models } = await usageTotals(
    database.kysely,
    { organizationId: tenant.organizationId, category },
    period,
  );
  return { requests, failed, costMicros, models };
};

test('5.2 a request counts to the category that its key had when it was recorded, and what settles it follows', async () => {
  const first = await appendUsage(database.kysely, tenant.organizationNumber, [{ key: moving.number }, { key: staying.number }]);
  await moveTo('production');
  await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: moving.number },
    { key: moving.number, kind: 3, credits: 0, settles: String(first), status: 500, cost_micros: '7', model: 'm-late' },
  ]);
  await moveTo('archive of 2025');
  await foldAll();
  const expected = {
    staging: { requests: 2n, failed: 1n, costMicros: 7n, models: ['m-late'] },
    production: { requests: 1n, failed: 0n, costMicros: 0n, models: [] },
    'archive of 2025': { requests: 0n, failed: 0n, costMicros: 0n, models: [] },
  };
  for (const [category, totals] of Object.entries(expected)) expect(await totalsOf(category)).toEqual(totals);

  // The same whenever it is folded: from the log's beginning, when the key has long moved on.
  await rebuildProjection(database, USAGE_PROJECTION, { onProgress: () => undefined });
  for (const [category, totals] of Object.entries(expected)) expect(await totalsOf(category)).toEqual(totals);
  const found: Finding[] = [];
  await check(database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
  // The events were appended past admission, so that its windows and settlements know nothing of them.
  expect(found.filter(({ kind }) => kind === 'counter-differs' || kind === 'last-used-differs')).toEqual([]);
});

test('5.2 last used is told of a key, a category and the organization', async () => {
  const { organizationId } = tenant;
  const late = new Date(Date.now() + 1000).toISOString();
  await moveTo('production');
  await appendUsage(database.kysely, tenant.organizationNumber, [{ key: moving.number, occurred_at: late }]);
  await foldAll();
  const told = async (subject: Parameters<typeof subjectLastUsed>[1]) => (await subjectLastUsed(database.kysely, subject))?.toISOString();
  expect(await told({ organizationId, keyNumber: moving.number })).toBe(late);
  expect(await told({ organizationId, category: 'production' })).toBe(late);
  expect(await told({ organizationId })).toBe(late);
  expect(await told({ organizationId, category: 'staging' })).not.toBe(late);
  expect(await told({ organizationId, category: 'nothing' })).toBeUndefined();
});

test('5.2 the same category of two organizations is two', async () => {
  const other = await createTenant(database, 'Others');
  const key = await other.createKey({ category: 'staging' });
  await appendUsage(database.kysely, other.organizationNumber, [{ key: key.number }]);
  await foldAll();
  const now = Date.now();
  const period = { from: new Date(now - DAY), to: new Date(now + DAY) };
  expect(await usageTotals(database.kysely, { organizationId: other.organizationId, category: 'staging' }, period)).toMatchObject({
    requests: 1n,
  });
});
