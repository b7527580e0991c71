import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { createFolder } from '../../src/projections/projection.ts';
import { createProjector, type Projector } from '../../src/projections/projector.ts';
import { rebuildProjection, type RebuildProgress } from '../../src/projections/rebuild.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { statisticsPosition, usageTotals } from '../../src/projections/usage-queries.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { appendUsage } from '../support/tenant.ts';

let ledger: TestLedger;
let projector: Projector | undefined;
let organization: number;
let keyNumber: number;

beforeEach(async () => {
  ledger = await openTestLedger();
  const { keyId } = await ledger.newKey();
  const row = await ledger.db
    .selectFrom('api_keys')
    .innerJoin('organizations', 'organizations.id', 'api_keys.organization_id')
    .select(['api_keys.number as key', 'organizations.number as organization'])
    .where('api_keys.id', '=', keyId)
    .executeTakeFirstOrThrow();
  organization = row.organization;
  keyNumber = row.key;
});

afterEach(async () => {
  await projector?.stop();
  projector = undefined;
  await ledger.close();
});

const record = (count: number) =>
  appendUsage(
    ledger.db,
    organization,
    Array.from({ length: count }, (_, index) => ({ key: keyNumber, tokens_in: String(index) })),
  );

async function counted(): Promise<bigint> {
  const period = { from: new Date(Date.now() - 3_600_000), to: new Date(Date.now() + 3_600_000) };
  return (await usageTotals(ledger.db, { organizationId: ledger.organization.id }, period)).requests;
}

async function recorded(): Promise<bigint> {
  const { rows } = await sql<{ n: bigint }>`SELECT count(*) AS n FROM usage_events WHERE kind IN (1, 2)`.execute(ledger.db);
  return rows[0]?.n ?? 0n;
}

const follow = (): Projector =>
  createProjector({
    database: ledger.database,
    projections: [USAGE_PROJECTION],
    pollMs: 5,
    pauseMs: 0,
    onError: () => undefined,
    onPoisoned: () => undefined,
  });

async function damageCounters(): Promise<void> {
  for (const table of ['usage_counters', 'usage_open_minutes'])
    await sql`UPDATE ${sql.table(table)} SET requests = requests + 7`.execute(ledger.db);
}

test('7.3 a rebuild while events come in ends with what the log says, and readers never see less than before', async () => {
  await record(5000);
  await createFolder(USAGE_PROJECTION, 'live')(ledger.db);
  await damageCounters();
  projector = follow();
  const traffic = { on: true };
  const writing = (async () => {
    while (traffic.on) await record(20);
  })();
  const positions: bigint[] = [];
  const watching = (async () => {
    while (traffic.on) positions.push(await statisticsPosition(ledger.db));
  })();
  const progress: RebuildProgress[] = [];
  const outcome = await rebuildProjection(ledger.database, USAGE_PROJECTION, { onProgress: (step) => progress.push(step) });
  traffic.on = false;
  await Promise.all([writing, watching]);
  expect(outcome).toMatchObject({ kind: 'rebuilt', name: 'usage', resumed: false, parked: [] });
  expect(positions).toEqual(positions.toSorted((a, b) => Number(a - b)));
  expect(progress.at(-1)?.eventsPerSecond).toBeGreaterThan(0);
  const deadline = Date.now() + 10_000;
  while ((await counted()) !== (await recorded()) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(await counted()).toBe(await recorded());
});

test('control: without the rebuild the damage stays', async () => {
  await record(10);
  await createFolder(USAGE_PROJECTION, 'live')(ledger.db);
  await damageCounters();
  expect(await counted()).not.toBe(await recorded());
});

test('an interrupted rebuild is taken up where it stopped, and until then the old counters are read', async () => {
  await record(50);
  await createFolder(USAGE_PROJECTION, 'live')(ledger.db);
  const stop = new AbortController();
  const small = {
    ...USAGE_PROJECTION,
    fold: (db: Parameters<typeof USAGE_PROJECTION.fold>[0], request: Parameters<typeof USAGE_PROJECTION.fold>[1]) =>
      USAGE_PROJECTION.fold(db, { ...request, limit: 10 }),
  };
  const first = await rebuildProjection(ledger.database, small, {
    signal: stop.signal,
    onProgress: ({ position }) => {
      if (position >= 20n) stop.abort();
    },
  });
  expect(first).toMatchObject({ kind: 'interrupted', resumed: false, position: 20n });
  expect(await counted()).toBe(50n);
  const from: bigint[] = [];
  const second = await rebuildProjection(ledger.database, small, { onProgress: ({ position }) => from.push(position) });
  expect(second).toMatchObject({ kind: 'rebuilt', resumed: true });
  expect(from[0]).toBe(30n);
  expect(await counted()).toBe(50n);
  const third = await rebuildProjection(ledger.database, USAGE_PROJECTION, { onProgress: () => undefined });
  expect(third).toMatchObject({ kind: 'rebuilt', resumed: false });
  expect(await counted()).toBe(50n);
});

test('two rebuilds at once share the work and end once', async () => {
  await record(200);
  const small = {
    ...USAGE_PROJECTION,
    fold: (db: Parameters<typeof USAGE_PROJECTION.fold>[0], request: Parameters<typeof USAGE_PROJECTION.fold>[1]) =>
      USAGE_PROJECTION.fold(db, { ...request, limit: 10 }),
  };
  const outcomes = await Promise.all([1, 2].map(() => rebuildProjection(ledger.database, small, { onProgress: () => undefined })));
  expect(outcomes.map(({ kind }) => kind)).toEqual(['rebuilt', 'rebuilt']);
  expect(await counted()).toBe(200n);
});

test('a rebuild tries parked events again, and parks those of its own', async () => {
  const first = await record(3);
  await sql`INSERT INTO parked_events (projection, slot, position, reason) VALUES ('usage', 0, ${first}, 'once upon a time')`.execute(
    ledger.db,
  );
  await sql`UPDATE projections SET position = ${first} WHERE name = 'usage' AND state = 'live'`.execute(ledger.db);
  await appendUsage(ledger.db, organization, [{ key: keyNumber, code: 99 }]);
  const outcome = await rebuildProjection(ledger.database, USAGE_PROJECTION, { onProgress: () => undefined });
  expect(outcome.parked).toEqual([{ position: first + 3n, reason: 'its outcome 99 is not known to this version' }]);
  expect(await counted()).toBe(3n);
});
