import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { GuardedClient } from '../../src/postgres/guarded-client.ts';
import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';

let target: TestDatabase;
beforeAll(async () => {
  target = await createTestDatabase({ empty: true });
});
afterAll(() => target.drop());

/** A client, and how often the columns of a result were described to it. */
async function connect(): Promise<{ readonly client: GuardedClient; described(): number }> {
  const client = new GuardedClient({ connectionString: target.ownerUrl.reveal(), pipeline: true });
  await client.connect();
  let count = 0;
  (client as unknown as { readonly connection: pg.Connection }).connection.on('rowDescription', () => count++);
  return { client, described: () => count };
}

const STATEMENT = {
  name: 'three',
  text: `SELECT n AS number, n::text AS text, CASE WHEN n > 1 THEN now() - now() + '2026-06-15 12:00Z'::timestamptz END AS "at"
         FROM generate_series(1, $1::integer) AS n`,
};
const rowsOf = (count: number) =>
  Array.from({ length: count }, (_, index) => ({
    number: index + 1,
    text: String(index + 1),
    at: index === 0 ? null : new Date('2026-06-15T12:00:00Z'),
  }));

test('a prepared statement is described once a connection, and its rows are the same each time', async () => {
  for (const { client, described } of [await connect(), await connect()]) {
    const ask = async (count: number): Promise<readonly unknown[]> =>
      (await client.query<Record<string, unknown>>({ ...STATEMENT, values: [count] })).rows;
    for (const count of [2, 0, 3, 1]) expect(await ask(count)).toEqual(rowsOf(count));
    expect(await Promise.all([ask(1), ask(4), ask(2)])).toEqual([rowsOf(1), rowsOf(4), rowsOf(2)]);
    expect(described()).toBe(1);
    await client.query('SELECT 1 AS one');
    await client.query({ name: 'other', text: 'SELECT 2 AS two' });
    expect(described()).toBe(3);
    expect((await client.query<Record<string, unknown>>({ name: 'other', text: 'SELECT 2 AS two' })).rows).toEqual([{ two: 2 }]);
    await client.end();
  }
});

test('statements that go out together before the first is answered are each described', async () => {
  const { client, described } = await connect();
  const asked = [3, 1, 2].map(async (count) => (await client.query<Record<string, unknown>>({ ...STATEMENT, values: [count] })).rows);
  expect(await Promise.all(asked)).toEqual([rowsOf(3), rowsOf(1), rowsOf(2)]);
  expect(described()).toBe(3);
  await client.end();
});

test('a parser of its own reads a statement’s columns, and one that fails harms nobody after it', async () => {
  const { client } = await connect();
  const types = { getTypeParser: () => (value: string) => `<${value}>` } as unknown as pg.CustomTypesConfig;
  const ask = async (values: readonly unknown[]): Promise<readonly unknown[]> =>
    (await client.query<Record<string, unknown>>({ name: 'typed', text: 'SELECT 6 / $1::integer AS quotient', types, values: [...values] }))
      .rows;
  expect(await ask([2])).toEqual([{ quotient: '<3>' }]);
  await expect(ask([0])).rejects.toThrow('division by zero');
  expect(await ask([3])).toEqual([{ quotient: '<2>' }]);
  await client.end();
});

test('where the columns have changed since, Postgres refuses, and nothing is read by the old description', async () => {
  await asAdmin(
    (admin) => admin.query('CREATE TABLE public.changing AS SELECT 1 AS value; GRANT SELECT ON public.changing TO PUBLIC'),
    target.name,
  );
  const { client } = await connect();
  const ask = async (): Promise<readonly unknown[]> =>
    (await client.query<Record<string, unknown>>({ name: 'changing', text: 'SELECT * FROM public.changing' })).rows;
  expect(await ask()).toEqual([{ value: 1 }]);
  expect(await ask()).toEqual([{ value: 1 }]);
  await asAdmin((admin) => admin.query('ALTER TABLE public.changing ALTER value TYPE text, ADD more integer'), target.name);
  await expect(ask()).rejects.toThrow('cached plan must not change result type');
  await client.end();
});
