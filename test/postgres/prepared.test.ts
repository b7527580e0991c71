import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { PREPARED } from '../../src/postgres/prepared.ts';
import type { Tables } from '../../src/postgres/tables.ts';
import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';

let target: TestDatabase;
let database: Database;

beforeAll(async () => {
  target = await createTestDatabase({ empty: true });
  await asAdmin(async (admin) => {
    await admin.query(
      'CREATE SCHEMA keyledger; CREATE TABLE keyledger.probe AS SELECT n::integer AS label FROM generate_series(1, 10) AS n',
    );
    await admin.query('GRANT USAGE ON SCHEMA keyledger TO keyledger_server; GRANT SELECT ON keyledger.probe TO keyledger_server');
  }, target.name);
  database = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'prepared',
    statementTimeoutMs: 5000,
    queryTimeoutMs: 9000,
    maxConnections: 1,
    onError: () => undefined,
  });
});

afterAll(async () => {
  await database.close();
  await target.drop();
});

const above = async (db: Kysely<Tables>, bound: number): Promise<number> => {
  const { rows } = await sql<{ count: bigint }>`${PREPARED} SELECT count(*) AS count FROM probe WHERE label > ${bound}::integer`.execute(
    db,
  );
  return Number(rows[0]?.count);
};

const prepared = async (): Promise<readonly { readonly statement: string; readonly plans: bigint }[]> => {
  const { rows } = await sql<{ statement: string; plans: bigint }>`
    SELECT statement, generic_plans + custom_plans AS plans FROM pg_prepared_statements ORDER BY prepare_time`.execute(database.kysely);
  return rows;
};

test('a marked statement is parsed once on a connection, whatever its parameters, and inside of a transaction too', async () => {
  expect(await above(database.kysely, 3)).toBe(7);
  expect(await above(database.kysely, 9)).toBe(1);
  expect(await database.kysely.transaction().execute((tx) => above(tx, 0))).toBe(10);
  const [only, ...others] = await prepared();
  expect(only?.statement).toContain('FROM probe WHERE label >');
  expect(only?.plans).toBe(3n);
  expect(others).toEqual([]);
});

test('another text has a name of its own, and an unmarked one none', async () => {
  const { rows } = await sql<{ label: number }>`${PREPARED} SELECT max(label) AS label FROM probe`.execute(database.kysely);
  expect(rows).toEqual([{ label: 10 }]);
  await sql`SELECT min(label) FROM probe`.execute(database.kysely);
  expect((await prepared()).map(({ statement }) => statement.replace(/\s+/g, ' '))).toEqual([
    expect.stringContaining('WHERE label >'),
    '/* prepared */ SELECT max(label) AS label FROM probe',
  ]);
});

test('it says what is wrong as others do, and works again when that is gone', async () => {
  const broken = sql<{ label: number }>`${PREPARED} SELECT label / ${0}::integer AS label FROM probe WHERE label = 1`;
  await expect(broken.execute(database.kysely)).rejects.toMatchObject({ code: '22012' });
  const missing = sql<{ label: number }>`${PREPARED} SELECT label FROM not_yet`;
  await expect(missing.execute(database.kysely)).rejects.toMatchObject({ code: '42P01' });
  await asAdmin(async (admin) => {
    await admin.query('CREATE TABLE keyledger.not_yet AS SELECT 1 AS label; GRANT SELECT ON keyledger.not_yet TO keyledger_server');
  }, target.name);
  expect((await missing.execute(database.kysely)).rows).toEqual([{ label: 1 }]);
});

test('it follows a change of the table', async () => {
  await asAdmin((admin) => admin.query('INSERT INTO keyledger.probe VALUES (11); CREATE INDEX ON keyledger.probe (label)'), target.name);
  expect(await above(database.kysely, 9)).toBe(2);
});
