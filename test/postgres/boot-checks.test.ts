import { createServer } from 'node:net';

import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { Secret } from '../../src/lib/secret.ts';
import { assertDurableSettings, durabilityFaults } from '../../src/postgres/boot-checks.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { explainConnectionFailure } from '../../src/postgres/connection-failure.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';

let target: TestDatabase;

beforeAll(async () => {
  target = await createTestDatabase({ empty: true });
});

afterAll(() => target.drop());

async function check(): Promise<void> {
  const database = openDatabase({
    connectionString: target.serverUrl,
    applicationName: 'boot checks',
    maxConnections: 1,
    onError: () => undefined,
  });
  try {
    await assertDurableSettings(database.pool);
  } finally {
    await database.close();
  }
}

test('a database that waits for its disk is accepted, whatever standbys it waits for', async () => {
  await check();
  for (const value of ['local', 'remote_write', 'on', 'remote_apply']) {
    await asAdmin((admin) => admin.query(`ALTER DATABASE ${target.name} SET synchronous_commit = ${value}`));
    await check();
  }
});

test('synchronous_commit off is refused also where only this database has it', async () => {
  await asAdmin((admin) => admin.query(`ALTER DATABASE ${target.name} SET synchronous_commit = off`));
  await expect(check()).rejects.toThrow(/synchronous_commit is off, so a crash loses events/);
  await asAdmin((admin) => admin.query(`ALTER DATABASE ${target.name} RESET synchronous_commit`));
});

const durable = { version: '180004', fsync: 'on', full_page_writes: 'on', synchronous_commit: 'on' };

// Decided on values: turned off for real, these would be off for every test on this server.
test.each<[string, Partial<typeof durable>, RegExp[]]>([
  ['nothing', {}, []],
  ['fsync', { fsync: 'off' }, [/^fsync is off.*ALTER SYSTEM SET fsync/]],
  ['full_page_writes', { full_page_writes: 'off' }, [/^full_page_writes is off.*ALTER SYSTEM SET full_page_writes/]],
  ['an older version', { version: '170004' }, [/^Postgres 17 is too old: keyledger needs Postgres 18/]],
  ['a version that is no number', { version: '' }, [/too old/]],
  [
    'all of them',
    { version: '160001', fsync: 'off', full_page_writes: 'off', synchronous_commit: 'off' },
    [/16/, /fsync/, /full_page/, /synchronous/],
  ],
])('what is refused of a server with %s wrong is said in one sentence each', (_name, wrong, messages) => {
  const faults = durabilityFaults({ ...durable, ...wrong });
  expect(faults).toHaveLength(messages.length);
  for (const [index, message] of messages.entries()) expect(faults[index]).toMatch(message);
});

async function failure(change: (url: URL) => void): Promise<string> {
  const url = new URL(target.serverUrl.reveal());
  change(url);
  const connectionString = new Secret(url.toString());
  const client = new pg.Client({ ...clientConfig({ connectionString, applicationName: 'boot checks' }), connectionTimeoutMillis: 700 });
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (error) {
    const sentence = explainConnectionFailure(error, connectionString);
    if (url.password !== '') expect(sentence).not.toContain(url.password);
    expect(sentence).not.toContain('\n');
    return sentence;
  }
  await client.end();
  throw new Error('it connected');
}

test('a refused password, a missing database, an unknown user, a closed port, an unknown host and a silent one have a sentence each, without the password', async () => {
  expect(await failure((url) => (url.password = 'mistyped-secret'))).toMatch(/refused the password of .*_app: check user and password/);
  expect(await failure((url) => (url.pathname = '/absent'))).toMatch(/has no database absent: create it \(CREATE DATABASE "absent";\)/);
  expect(await failure((url) => (url.username = 'nobody_here'))).toMatch(/refused the password of nobody_here/);
  expect(await failure((url) => (url.port = '1'))).toMatch(/Nothing answers as Postgres at .*:1:/);
  expect(await failure((url) => ((url.port = '7'), url.searchParams.set('host', '/nowhere')))).toMatch(
    /Nothing answers as Postgres at \/nowhere\/\.s\.PGSQL\.7:/,
  );
  expect(await failure((url) => (url.hostname = 'nowhere.invalid'))).toMatch(
    /The host nowhere\.invalid of the database URL has no address/,
  );

  const silent = createServer((socket) => void socket.resume());
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const address = silent.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  expect(await failure((url) => ((url.hostname = '127.0.0.1'), (url.port = String(port))))).toMatch(/did not answer in time/);
  await new Promise((resolve) => silent.close(resolve));
});

test('a login that is no member of the server role is told what to grant', async () => {
  const login = `${target.name}_stranger`;
  await asAdmin((admin) => admin.query(`CREATE ROLE ${login} LOGIN PASSWORD 'stranger-secret'; GRANT ${login} TO CURRENT_USER`));
  const asStranger = (url: URL) => {
    url.username = login;
    url.password = 'stranger-secret';
  };
  try {
    expect(await failure(asStranger)).toMatch(/GRANT CONNECT ON DATABASE/);
    await asAdmin((admin) => admin.query(`GRANT CONNECT ON DATABASE ${target.name} TO ${login}`));
    expect(await failure(asStranger)).toContain(`GRANT keyledger_server TO "${login}";`);
  } finally {
    await asAdmin((admin) => admin.query(`DROP OWNED BY ${login}; DROP ROLE ${login}`));
  }
});

test('something that is no URL is named as that', () => {
  expect(explainConnectionFailure(new Error('x'), new Secret('localhost/keyledger'))).toMatch(/^The database URL is no URL/);
});
