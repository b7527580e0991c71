import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { clientConfig } from '../../src/postgres/client-config.ts';
import { GuardedClient, leavesConnectionUsable, TransactionStateError } from '../../src/postgres/guarded-client.ts';
import { inTransaction, openDatabase, type Database } from '../../src/postgres/pool.ts';
import type { Tables } from '../../src/postgres/tables.ts';
import { asAdmin, createTestDatabase, signalBackend, type TestDatabase, whyNoBackendSignals } from '../support/database.ts';

let target: TestDatabase;

beforeAll(async () => {
  target = await createTestDatabase({ empty: true });
  await asAdmin(async (admin) => {
    await admin.query('CREATE SCHEMA keyledger; CREATE TABLE keyledger.probe (label text PRIMARY KEY)');
    await admin.query('GRANT USAGE ON SCHEMA keyledger TO keyledger_server; GRANT SELECT, INSERT ON keyledger.probe TO keyledger_server');
  }, target.name);
});

afterAll(() => target.drop());

const settings = () => ({
  connectionString: target.serverUrl,
  applicationName: 'pool guard',
  statementTimeoutMs: 600,
  queryTimeoutMs: 900,
});

function open(maxConnections = 1): Database & { readonly errors: Error[] } {
  const errors: Error[] = [];
  return { ...openDatabase({ ...settings(), maxConnections, onError: (error) => errors.push(error) }), errors };
}

const insert = (label: string) => sql`INSERT INTO probe (label) VALUES (${label})`;
const stored = async (label: string) =>
  (await asAdmin((admin) => admin.query('SELECT FROM keyledger.probe WHERE label = $1', [label]), target.name)).rowCount === 1;
const pidOf = async (kysely: Kysely<Tables>) => {
  const { rows } = await sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`.execute(kysely);
  return rows[0]?.pid ?? 0;
};

const skipped = whyNoBackendSignals();
if (skipped !== undefined) console.log(`skipped: frozen backends (${skipped})`);

describe.skipIf(skipped !== undefined)('when BEGIN times out on this side because the backend is frozen', () => {
  /** The next borrower's insert, acknowledged after the backend woke up and ran the stray BEGIN. */
  async function insertAfterFrozenBegin(kysely: Kysely<Tables>, label: string): Promise<void> {
    const pid = await pidOf(kysely);
    signalBackend(pid, 'SIGSTOP');
    try {
      await expect(kysely.transaction().execute((tx) => insert(`${label}: never`).execute(tx))).rejects.toThrow('Query read timeout');
    } finally {
      signalBackend(pid, 'SIGCONT');
    }
    await insert(label).execute(kysely);
  }

  test("the next borrower's acknowledged insert stays", async () => {
    const database = open();
    await insertAfterFrozenBegin(database.kysely, 'guarded');
    await database.close();
    expect(await stored('guarded')).toBe(true);
    expect(await stored('guarded: never')).toBe(false);
  });

  test('control: with a plain pool that insert is lost', async () => {
    const pool = new pg.Pool({ ...clientConfig(settings()), max: 1 });
    pool.on('error', () => undefined);
    await insertAfterFrozenBegin(new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) }), 'unguarded');
    await pool.end();
    expect(await stored('unguarded')).toBe(false);
  });
});

test('a statement that the server refused leaves its connection in the pool', async () => {
  const database = open();
  const pid = await pidOf(database.kysely);
  await insert('twice').execute(database.kysely);
  await expect(insert('twice').execute(database.kysely)).rejects.toMatchObject({ code: '23505' });
  await expect(sql`SELECT pg_sleep(5)`.execute(database.kysely)).rejects.toMatchObject({ code: '57014' });
  await expect(inTransaction(database, (tx) => insert('twice').execute(tx))).rejects.toMatchObject({ code: '23505' });
  expect(await pidOf(database.kysely)).toBe(pid);
  await database.close();
});

test('a terminated backend costs its borrower an error, the pool a connection, and nobody else anything', async () => {
  const database = open(2);
  const work = inTransaction(database, async (tx) => {
    await insert('terminated').execute(tx);
    const pid = await pidOf(tx);
    await asAdmin((admin) => admin.query('SELECT pg_terminate_backend($1, 5000)', [pid]));
    await insert('terminated as well').execute(tx);
  });
  await expect(work).rejects.toThrow();
  expect(await stored('terminated')).toBe(false);

  const idle = await pidOf(database.kysely);
  await asAdmin((admin) => admin.query('SELECT pg_terminate_backend($1, 5000)', [idle]));
  await expect.poll(() => database.errors.length, { timeout: 10_000 }).toBeGreaterThan(0);
  expect(await pidOf(database.kysely)).not.toBe(idle);
  await database.close();
});

test('a transaction whose failed statement was swallowed is not acknowledged', async () => {
  const database = open();
  const work = inTransaction(database, async (tx) => {
    await insert('swallowed').execute(tx);
    await expect(insert('swallowed').execute(tx)).rejects.toMatchObject({ code: '23505' });
  });
  await expect(work).rejects.toThrow(/ROLLBACK/);
  expect(await stored('swallowed')).toBe(false);
  await database.close();
});

test('a connection that comes back inside a transaction is closed', async () => {
  const database = open();
  const client = await database.pool.connect();
  await client.query('BEGIN');
  await client.query("INSERT INTO probe VALUES ('left open')");
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  client.release();
  await insert('after left open').execute(database.kysely);
  expect(await pidOf(database.kysely)).not.toBe(rows[0]?.pid);
  await database.close();
  expect(await stored('left open')).toBe(false);
  expect(await stored('after left open')).toBe(true);
});

test('an answer from inside a transaction that nobody began here is refused, and so is everything after it', async () => {
  const client = new GuardedClient(clientConfig(settings()));
  await client.connect();
  // The comment hides the BEGIN from the client, as a stray one is hidden from it.
  await expect(client.query('/* stray */ BEGIN')).rejects.toThrow(TransactionStateError);
  await expect(client.query('SELECT 1')).rejects.toThrow(/closed/);
  expect(client.distrusted).toBeInstanceOf(TransactionStateError);
});

test('a COMMIT without a transaction is refused', async () => {
  const client = new GuardedClient(clientConfig(settings()));
  await client.connect();
  await expect(client.query('COMMIT')).rejects.toThrow(TransactionStateError);
  await client.end();
});

test.each([
  ['the server refused a statement', { code: '23505', severity: 'ERROR' }, true],
  ['the server cancelled a statement', { code: '57014', severity: 'ERROR' }, true],
  ['nothing was answered in time', {}, false],
  ['the socket broke', { code: 'EPIPE' }, false],
  ['the connection failed', { code: '08006', severity: 'ERROR' }, false],
  ['the server shut down', { code: '57P01', severity: 'FATAL' }, false],
  ['the session was ended for idling', { code: '25P03', severity: 'FATAL' }, false],
])('after "%s" a connection is usable or not', (_case, fields, usable) => {
  expect(leavesConnectionUsable(Object.assign(new Error('it failed'), fields))).toBe(usable);
});
