import { setTimeout as sleep } from 'node:timers/promises';

import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { codeNumber } from '../../src/domain/usage.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import type { Tables } from '../../src/postgres/tables.ts';
import { createFolder, type ParkedEvent, type Projection } from '../../src/projections/projection.ts';
import { createProjector, type Projector } from '../../src/projections/projector.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { statisticsPosition } from '../../src/projections/usage-queries.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { appendUsage, createTenant, type Tenant, type TestKey, type UsageRow } from '../support/tenant.ts';

let target: TestDatabase;
let database: Database;
let tenant: Tenant;
let keys: readonly TestKey[];
let projectors: Projector[];

beforeEach(async () => {
  target = await createTestDatabase();
  database = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'projector',
    maxConnections: 12,
    onError: () => undefined,
  });
  tenant = await createTenant(database);
  keys = [await tenant.createKey(), await tenant.createKey(), await tenant.createKey()];
  projectors = [];
});

afterEach(async () => {
  await Promise.all(projectors.map((projector) => projector.stop()));
  await database.close();
  await target.drop();
});

function start(parked: ParkedEvent[] = []): Projector {
  const projector = createProjector({
    database,
    projections: [USAGE_PROJECTION],
    pollMs: 20,
    pauseMs: 0,
    onError: (error) => {
      throw error;
    },
    onPoisoned: (event) => parked.push(event),
  });
  projectors.push(projector);
  return projector;
}

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error('it did not come to pass in 20 seconds');
    await sleep(10);
  }
}

async function head(): Promise<bigint> {
  const { rows } = await sql<{ head: bigint }>`SELECT head_position() AS head`.execute(database.kysely);
  return rows[0]?.head ?? 0n;
}

/** Random usage of four writers at once, some of it settling requests of the same writer. */
async function writeAtOnce(batches: number): Promise<void> {
  await Promise.all(
    [1, 2, 3, 4].map(async (writer) => {
      let settle: bigint | null = null;
      for (let batch = 0; batch < batches; batch++) {
        const pick = (index: number): number => keys[(writer + batch + index) % keys.length]?.number ?? 0;
        const rows: UsageRow[] = Array.from({ length: 1 + ((writer * 7 + batch * 3) % 20) }, (_, index) => ({
          key: index === 0 ? (keys[writer % keys.length]?.number ?? 0) : pick(index),
          code: index % 5 === 4 ? codeNumber('RATE_LIMITED') : 0,
          tokens_in: String(index),
          occurred_at: index % 3 === 2 ? new Date(Date.now() - index * 86_000_000).toISOString() : null,
        }));
        if (settle !== null)
          rows.push({
            key: keys[writer % keys.length]?.number ?? 0,
            kind: 3,
            credits: 0,
            settles: String(settle),
            status: batch % 2 === 0 ? 500 : 200,
            cost_micros: '3',
          });
        settle = await appendUsage(database.kysely, tenant.organizationNumber, rows);
      }
    }),
  );
}

/** The day counters as the log has them, counted event by event without any of the product's SQL. */
async function countedByHand(): Promise<readonly string[]> {
  const rows = await database.kysely.selectFrom('usage_events').selectAll().orderBy('position').execute();
  const byPosition = new Map(rows.map((row) => [row.position, row]));
  const sums = new Map<string, { requests: number; succeeded: number; failed: number; refused: number; cost: bigint; tokens: bigint }>();
  for (const row of rows) {
    const request = row.settles === null ? row : (byPosition.get(row.settles) ?? row);
    const day = (request.occurred_at ?? request.recorded_at).toISOString().slice(0, 10);
    for (const key of [row.key, 0]) {
      const sum = sums.get(`${key} ${day}`) ?? { requests: 0, succeeded: 0, failed: 0, refused: 0, cost: 0n, tokens: 0n };
      if (row.kind !== 3) {
        sum.requests++;
        if (row.code !== 0) sum.refused++;
        else sum.succeeded++;
      } else if (request.code === 0 && (row.status ?? 0) >= 400) {
        sum.succeeded--;
        sum.failed++;
      }
      sum.cost += row.cost_micros ?? 0n;
      sum.tokens += row.tokens_in ?? 0n;
      sums.set(`${key} ${day}`, sum);
    }
  }
  return [...sums].map(([id, sum]) => `${id}: ${Object.values(sum).join(' ')}`).toSorted();
}

async function countedByProjector(): Promise<readonly string[]> {
  const rows = await database.kysely
    .selectFrom('usage_sums')
    .select(['key', 'at'])
    .select(({ fn }) =>
      (['requests', 'succeeded', 'failed', 'refused', 'cost_micros', 'tokens_in'] as const).map((name) => fn.sum<bigint>(name).as(name)),
    )
    .where('grain', '=', 3)
    .where('key', '>=', 0)
    .groupBy(['key', 'at'])
    .where('slot', '=', (query) => query.selectFrom('projections').select('slot').where('name', '=', 'usage').where('state', '=', 'live'))
    .execute();
  return rows
    .map(
      (row) =>
        `${row.key} ${row.at.toISOString().slice(0, 10)}: ${[row.requests, row.succeeded, row.failed, row.refused, row.cost_micros, row.tokens_in].join(' ')}`,
    )
    .toSorted();
}

test('5.5 with concurrent writers and several projectors the counters equal the log', async () => {
  const several = [start(), start(), start()];
  await writeAtOnce(40);
  const end = await head();
  await until(async () => (await statisticsPosition(database.kysely)) === end);
  expect(await countedByProjector()).toEqual(await countedByHand());
  await until(() => several.every((projector) => projector.progress()[0]?.position === end));
});

test('control: without the lock on the checkpoint the same folds count events twice', async () => {
  await writeAtOnce(10);
  const unguarded = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: poolWithout('FOR UPDATE OF p SKIP LOCKED') }) });
  const folders = Array.from({ length: 4 }, () => createFolder(USAGE_PROJECTION, 'live'));
  try {
    const byHand = await countedByHand();
    let wrong = false;
    for (let attempt = 0; attempt < 20 && !wrong; attempt++) {
      await sql`UPDATE projections SET position = 0 WHERE name = 'usage' AND state = 'live'`.execute(database.kysely);
      await sql`TRUNCATE usage_counters, usage_open_minutes`.execute(database.kysely);
      await Promise.all(folders.map((fold) => fold(unguarded).catch(() => null)));
      wrong = JSON.stringify(await countedByProjector()) !== JSON.stringify(byHand);
    }
    expect(wrong).toBe(true);
  } finally {
    await unguarded.destroy();
  }
});

function poolWithout(clause: string): pg.Pool {
  class Careless extends pg.Client {
    constructor(config?: string | pg.ClientConfig) {
      super(config);
      const query = this.query.bind(this) as (...given: readonly unknown[]) => unknown;
      this.query = ((text: unknown, ...rest: readonly unknown[]) =>
        query(typeof text === 'string' ? text.replaceAll(clause, '') : text, ...rest)) as typeof this.query;
    }
  }
  return new pg.Pool({ ...clientConfig({ connectionString: target.serverUrl, applicationName: 'careless' }), max: 4, Client: Careless });
}

test('a projector that is woken folds at once, and one that is not looks by itself', async () => {
  const projector = createProjector({
    database,
    projections: [USAGE_PROJECTION],
    pollMs: 60_000,
    pauseMs: 0,
    onError: () => undefined,
    onPoisoned: () => undefined,
  });
  projectors.push(projector);
  await until(() => projector.progress()[0]?.position !== null);
  await appendUsage(database.kysely, tenant.organizationNumber, [{ key: keys[0]?.number ?? 0 }]);
  const end = await head();
  expect(await statisticsPosition(database.kysely)).toBeLessThan(end);
  projector.wake();
  await until(() => projector.progress()[0]?.position === end);
  start();
  await appendUsage(database.kysely, tenant.organizationNumber, [{ key: keys[0]?.number ?? 0 }]);
  await until(async () => (await statisticsPosition(database.kysely)) === end + 1n);
});

test('where nobody reads, a projector under load folds seldom; who reads or waits has it fold soon, and for a while often', async () => {
  const folds: number[] = [];
  // As under load: each fold takes its time, and the log grows on.
  const busy: Projection = {
    name: 'usage',
    tables: [],
    restsInProportion: true,
    fold: async () => {
      await sleep(50);
      folds.push(performance.now());
      return { position: 1n, head: 1n, parked: [] };
    },
  };
  const projector = createProjector({
    database,
    projections: [busy],
    pollMs: 5,
    pauseMs: 0,
    onError: () => undefined,
    onPoisoned: () => undefined,
  });
  projectors.push(projector);
  const gaps = () => folds.slice(1).map((at, index) => at - (folds[index] ?? at));
  await until(() => folds.length === 2);
  // Sixty times 50 ms, and three seconds at most.
  expect(gaps()[0]).toBeGreaterThan(2500);
  expect(gaps()[0]).toBeLessThan(5000);
  await sleep(700);
  const asked = performance.now();
  projector.hurry();
  await until(() => folds.length === 5);
  expect((folds[2] ?? Infinity) - asked).toBeLessThan(600);
  expect(Math.max(...gaps().slice(2))).toBeLessThan(1500);
});

test('a projector folds often where each event falls into another row, and seldom again where they share them', async () => {
  const folds: number[] = [];
  let eventsPerRow = 1;
  const busy: Projection = {
    name: 'usage',
    tables: [],
    restsInProportion: true,
    fold: async () => {
      await sleep(20);
      folds.push(performance.now());
      return { position: 1n, head: 1n, parked: [], eventsPerRow };
    },
  };
  const projector = createProjector({
    database,
    projections: [busy],
    pollMs: 5,
    pauseMs: 0,
    onError: () => undefined,
    onPoisoned: () => undefined,
  });
  projectors.push(projector);
  const gap = (index: number) => (folds[index + 1] ?? Infinity) - (folds[index] ?? 0);
  // Fifteen times 20 ms.
  await until(() => folds.length === 3);
  expect(Math.min(gap(0), gap(1))).toBeLessThan(1000);
  eventsPerRow = 2;
  await until(() => folds.length === 5);
  // Sixty times.
  expect(gap(3)).toBeGreaterThan(1150);
});

test('a fold says how many events fell into a row: of one key, or each of another', async () => {
  const number = (index: number) => keys[index % keys.length]?.number ?? 0;
  const perRow = async (of: readonly number[]): Promise<number | undefined> => {
    while ((await USAGE_PROJECTION.fold(database.kysely, { state: 'live', limit: 10_000 }))?.position !== (await head()));
    await appendUsage(
      database.kysely,
      tenant.organizationNumber,
      of.map((key) => ({ key })),
    );
    return (await USAGE_PROJECTION.fold(database.kysely, { state: 'live', limit: 10_000 }))?.eventsPerRow;
  };
  // Beside the key's row the category's and the organization's; and two of each where a minute passes meanwhile.
  expect(await perRow(Array.from({ length: 60 }, () => number(0)))).toBeGreaterThanOrEqual(10);
  expect(await perRow([number(0), number(1)])).toBeLessThan(1);
  expect((await USAGE_PROJECTION.fold(database.kysely, { state: 'live', limit: 10_000 }))?.eventsPerRow).toBeUndefined();
});

test('a parked event is reported once, by whoever parked it', async () => {
  const parked: ParkedEvent[] = [];
  start(parked);
  start(parked);
  const first = await appendUsage(database.kysely, tenant.organizationNumber, [
    { key: keys[0]?.number ?? 0, code: 99 },
    { key: keys[0]?.number ?? 0, kind: 2, tokens_in: '9223372036854775807' },
    { key: keys[0]?.number ?? 0, kind: 2, tokens_in: '9223372036854775807' },
  ]);
  await until(async () => (await statisticsPosition(database.kysely)) === first + 2n);
  await until(() => parked.length >= 2);
  expect(parked.map((event) => event.position).toSorted((a, b) => Number(a - b))).toEqual([first, first + 2n]);
});

test('a fault of the database stops nothing: it is reported, and folding goes on when it has passed', async () => {
  const errors: Error[] = [];
  await sql`TRUNCATE usage_counters`.execute(database.kysely);
  const broken = {
    ...USAGE_PROJECTION,
    fold: async (...given: Parameters<typeof USAGE_PROJECTION.fold>) =>
      errors.length < 2 ? Promise.reject(new Error('out of reach')) : USAGE_PROJECTION.fold(...given),
  };
  const projector = createProjector({
    database,
    projections: [broken],
    pollMs: 20,
    onError: (error) => errors.push(error),
    onPoisoned: () => undefined,
  });
  projectors.push(projector);
  const end = await head();
  await until(() => projector.progress()[0]?.position === end);
  expect(errors).toHaveLength(2);
});

test('a page holds more where many events share a row, and as many as before where they do not', async () => {
  const asked: number[] = [];
  const perRow = [60, 4, undefined, 5, 1];
  const fold: Projection['fold'] = async (_db, { limit }) => {
    const eventsPerRow = perRow[asked.push(limit) - 1];
    return { position: 1n, head: 1n, parked: [], ...(eventsPerRow !== undefined && { eventsPerRow }) };
  };
  const foldNext = createFolder({ name: 'pages', tables: [], fold }, 'live');
  for (let page = 0; page < 6; page++) await foldNext(database.kysely);
  expect(asked).toEqual([20_000, 40_000, 20_000, 20_000, 40_000, 20_000]);
});
