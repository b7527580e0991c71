import { afterAll, beforeAll, expect, test } from 'vitest';

import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let target: TestDatabase;
let database: Database;

beforeAll(async () => {
  target = await createTestDatabase({ empty: true });
  database = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'type parsers',
    maxConnections: 1,
    onError: () => undefined,
  });
});

afterAll(async () => {
  await database.close();
  await target.drop();
});

test('bigint and bigint[] come as bigint, and only on connections that ask for it', async () => {
  const { rows } = await database.pool.query(
    "SELECT 9223372036854775807::int8 AS n, '{1,NULL,-3}'::int8[] AS list, '{}'::int8[] AS none, NULL::int8 AS nothing, count(*) FROM (VALUES (1)) v",
  );
  expect(rows).toEqual([{ n: 9223372036854775807n, list: [1n, null, -3n], none: [], nothing: null, count: 1n }]);
});

test('a session works as the server role, in the schema, in UTC and with limits, and RESET changes nothing of it', async () => {
  const asked = `SELECT current_user, current_setting('search_path') AS path, current_setting('TimeZone') AS zone, current_setting('statement_timeout') AS statement,
    current_setting('lock_timeout') AS lock, current_setting('idle_in_transaction_session_timeout') AS idle`;
  const before = (await database.pool.query(asked)).rows;
  expect(before).toEqual([
    { current_user: 'keyledger_server', path: 'keyledger', zone: 'UTC', statement: '15s', lock: '10s', idle: '30s' },
  ]);
  await database.pool.query('DISCARD ALL');
  expect((await database.pool.query(asked)).rows).toEqual(before);
});

test('the URL is not shown by a printed pool', () => {
  const password = new URL(target.serverUrl.reveal()).password;
  expect(password.length).toBeGreaterThan(10);
  expect(JSON.stringify(database.pool.options)).not.toContain(password);
});
