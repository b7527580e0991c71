import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { Secret } from '../../src/lib/secret.ts';
import { migrate, migrationState } from '../../src/postgres/migrate.ts';
import { MIGRATIONS_DIRECTORY } from '../../src/postgres/migration-files.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';

let target: TestDatabase;
let directory: string;

beforeEach(async () => {
  target = await createTestDatabase({ empty: true });
  directory = await mkdtemp(join(tmpdir(), 'keyledger-migrations-'));
  await write('0001_first.sql', 'CREATE TABLE keyledger.first (n int);\nGRANT SELECT ON keyledger.first TO keyledger_server;\n');
  await write('0002_second.sql', 'INSERT INTO keyledger.first VALUES (1);\n');
});

afterEach(async () => {
  await rm(directory, { recursive: true });
  await target.drop();
});

const write = (name: string, sql: string) => writeFile(join(directory, name), sql);
const run = (onProgress?: (line: string) => void) => migrate({ ownerUrl: target.ownerUrl, directory, ...(onProgress && { onProgress }) });
const rows = async (query: string) => (await asAdmin((admin) => admin.query<Record<string, unknown>>(query), target.name)).rows;

test('files are applied in order, once, and told one by one', async () => {
  const lines: string[] = [];
  expect(await run((line) => lines.push(line))).toEqual({ applied: ['0001_first.sql', '0002_second.sql'] });
  expect(lines).toEqual(['applied 0001_first.sql', 'applied 0002_second.sql']);
  expect(await run()).toEqual({ applied: [] });
  await write('0003_third.sql', 'INSERT INTO keyledger.first VALUES (3);');
  expect(await run()).toEqual({ applied: ['0003_third.sql'] });
  expect(await rows('SELECT n FROM keyledger.first ORDER BY n')).toEqual([{ n: 1 }, { n: 3 }]);
});

test('servers that start at once apply each file once', async () => {
  await write('0003_slow.sql', 'SELECT pg_sleep(0.2); INSERT INTO keyledger.first VALUES (3);');
  const results = await Promise.all(Array.from({ length: 6 }, () => run()));
  expect(results.flatMap(({ applied }) => applied).toSorted()).toEqual(['0001_first.sql', '0002_second.sql', '0003_slow.sql']);
  expect(await rows('SELECT count(*)::int AS n FROM keyledger.first')).toEqual([{ n: 2 }]);
});

test('the server, logged in without any right of its own, sees how the database stands', async () => {
  const database = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'migrate',
    maxConnections: 1,
    onError: () => undefined,
  });
  expect(await migrationState(database, directory)).toMatchObject({ kind: 'behind' });
  await run();
  expect(await migrationState(database, directory)).toEqual({ kind: 'current' });
  await write('0003_third.sql', 'SELECT 1;');
  expect(await migrationState(database, directory)).toMatchObject({ kind: 'behind', pending: [{ name: '0003_third.sql' }] });
  await expect(database.pool.query('DELETE FROM keyledger.migrations')).rejects.toMatchObject({ code: '42501' });
  await database.close();
});

test('a database newer than the code is refused by the name of what is unknown', async () => {
  await run();
  await rm(join(directory, '0002_second.sql'));
  await expect(run()).rejects.toThrow(/newer than this keyledger: it has 0002_second\.sql/);
});

test('a file changed after it was applied is refused, but not for its line ends', async () => {
  await run();
  await write('0002_second.sql', 'INSERT INTO keyledger.first VALUES (1);\r\n');
  expect(await run()).toEqual({ applied: [] });
  await write('0002_second.sql', 'INSERT INTO keyledger.first VALUES (2);\n');
  await expect(run()).rejects.toThrow(/0002_second\.sql was changed after it had been applied/);
});

test('a file that slips in below an applied one, a second one of a number, and a wrong name are refused', async () => {
  await write('0004_fourth.sql', 'SELECT 1;');
  await run();
  await write('0003_late.sql', 'SELECT 1;');
  await expect(run()).rejects.toThrow(/0003_late\.sql has a lower number/);
  await write('0004_again.sql', 'SELECT 1;');
  await expect(run()).rejects.toThrow(/0004_again\.sql and 0004_fourth\.sql have the same number/);
  await rm(join(directory, '0004_again.sql'));
  await write('5_short.sql', 'SELECT 1;');
  await expect(run()).rejects.toThrow(/5_short\.sql is not named/);
});

test('a file that fails leaves nothing of itself, and its line is named', async () => {
  await write('0003_broken.sql', 'INSERT INTO keyledger.first VALUES (3);\n\nINSERT INTO keyledger.nothing VALUES (1);\n');
  await expect(run()).rejects.toThrow(/0003_broken\.sql \(line 3\) failed, nothing of it was kept: .*nothing/);
  expect(await rows('SELECT name FROM keyledger.migrations ORDER BY name')).toEqual([
    { name: '0001_first.sql' },
    { name: '0002_second.sql' },
  ]);
  expect(await rows('SELECT n FROM keyledger.first')).toEqual([{ n: 1 }]);
});

test('a file that ends its own transaction is refused', async () => {
  await write('0003_commits.sql', 'SELECT 1; COMMIT;');
  await expect(run()).rejects.toThrow(/no COMMIT or ROLLBACK of its own/);
});

test('this repository has migrations where the code looks for them', async () => {
  expect(await readdir(MIGRATIONS_DIRECTORY)).toContain('0001_ledger.sql');
});

test('a login that may not work as the server role is told the SQL for an administrator', async () => {
  const login = `${target.name}_poor`;
  await asAdmin((admin) =>
    admin.query(
      `CREATE ROLE ${login} LOGIN PASSWORD 'poor'; GRANT ${login} TO CURRENT_USER; GRANT ALL ON DATABASE ${target.name} TO ${login}`,
    ),
  );
  const url = new URL(target.ownerUrl.reveal());
  url.username = login;
  url.password = 'poor';
  try {
    await expect(migrate({ ownerUrl: new Secret(url.toString()), directory })).rejects.toThrow(`GRANT keyledger_server TO "${login}";`);
    await asAdmin((admin) => admin.query(`GRANT keyledger_server TO "${login}"`));
    expect((await migrate({ ownerUrl: new Secret(url.toString()), directory })).applied).toHaveLength(2);
  } finally {
    await asAdmin((admin) => admin.query(`DROP OWNED BY ${login} CASCADE`), target.name);
    await asAdmin((admin) => admin.query(`DROP OWNED BY ${login}; DROP ROLE ${login}`));
  }
});
