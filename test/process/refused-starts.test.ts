import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';
import { endProcess, postmasterOf, startProcess, type ServerProcess } from './server-process.ts';

const PEPPER = `p1:${randomBytes(32).toString('base64')}`;
const NOBODY = 65_534;
const running: ServerProcess[] = [];
let root: string;
let database: TestDatabase;
let empty: TestDatabase;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'keyledger-refused-'));
  await chmod(root, 0o755);
  database = await createTestDatabase();
  empty = await createTestDatabase({ empty: true });
});
afterEach(() => Promise.all(running.splice(0).map(endProcess)));
afterAll(async () => {
  await database.drop();
  await empty.drop();
  await rm(root, { recursive: true, force: true });
});

function start(env: NodeJS.ProcessEnv, command?: readonly string[]): ServerProcess {
  const server = startProcess(env, command);
  running.push(server);
  return server;
}

/** What a start says that must not come about: lines on stderr, each one a sentence, and nothing else of it. */
async function refusal(env: NodeJS.ProcessEnv, command?: readonly string[]): Promise<readonly string[]> {
  const server = start(env, command);
  expect(await server.ended).toBe(1);
  expect(server.stdout()).not.toMatch(/listens|klat_/);
  const lines = server.stderr().trimEnd().split('\n');
  for (const line of lines) expect(line).not.toMatch(/^\s+at |^\{|node:internal/);
  for (const name of ['DATABASE_URL', 'MIGRATION_DATABASE_URL']) {
    const password = env[name] === undefined || !URL.canParse(env[name]) ? '' : new URL(env[name]).password;
    if (password !== '') expect(server.stderr() + server.stdout()).not.toContain(password);
  }
  return lines;
}

function external(change: (url: URL) => void = () => undefined, of: TestDatabase = database): NodeJS.ProcessEnv {
  const url = new URL(of.serverUrl.reveal());
  change(url);
  return { DATABASE_URL: url.toString(), MIGRATION_DATABASE_URL: of.ownerUrl.reveal(), KEY_PEPPERS: PEPPER };
}

/** Both URLs the same, as where one login does all. */
function oneLogin(change: (url: URL) => void): NodeJS.ProcessEnv {
  const url = new URL(database.ownerUrl.reveal());
  change(url);
  return { DATABASE_URL: url.toString(), KEY_PEPPERS: PEPPER };
}

async function listening(): Promise<{ readonly port: number; close(): Promise<void> }> {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  return { port: (holder.address() as AddressInfo).port, close: () => new Promise((resolve) => holder.close(() => resolve())) };
}

test('the control: with nothing wrong it starts on an external database', async () => {
  const server = start(external());
  await server.listening();
  expect(server.stderr()).toBe('');
});

describe('settings', () => {
  test('all bad settings are told at once, a sentence each', async () => {
    const [head, ...faults] = await refusal({
      PORT: 'http',
      DATABASE_URL: 'mysql://root:hunter2@h/db',
      LOG_LEVEL: 'loud',
      BOOTSTRAP_TOKEN: 'short',
      SHUTDOWN_GRACE_SECONDS: '10s',
    });
    expect(head).toBe("6 settings can't be used:");
    expect(faults.map((fault) => /^- ([A-Z_]+) .+\.$/.exec(fault)?.[1])).toEqual([
      'DATABASE_URL',
      'BOOTSTRAP_TOKEN',
      'KEY_PEPPERS',
      'LOG_LEVEL',
      'PORT',
      'SHUTDOWN_GRACE_SECONDS',
    ]);
    expect(faults.join()).not.toContain('hunter2');
  });

  test('a database without peppers for it', async () => {
    expect(await refusal({ DATABASE_URL: database.serverUrl.reveal() })).toEqual([
      expect.stringMatching(/^KEY_PEPPERS is not set but DATABASE_URL is; all servers of one database share it: .+\.$/),
    ]);
  });

  test('a database URL that is none', async () => {
    expect(await refusal({ DATABASE_URL: 'localhost/keyledger', KEY_PEPPERS: PEPPER })).toEqual([
      expect.stringMatching(/^DATABASE_URL does not begin with postgres:\/\/; it takes postgres:.+\.$/),
    ]);
  });

  test('a port that is taken, and a host that is none of this machine', async () => {
    const taken = await listening();
    expect(await refusal({ ...external(), PORT: String(taken.port) })).toEqual([
      `Port ${taken.port} on 127.0.0.1 is in use; stop what listens there, or set PORT to another one.`,
    ]);
    await taken.close();
    expect(await refusal({ ...external(), HOST: '192.0.2.1' })).toEqual([
      'HOST 192.0.2.1 is no address of this machine; set HOST to one that is, such as 127.0.0.1.',
    ]);
    expect(await refusal({ ...external(), HOST: 'nowhere.invalid' })).toEqual([
      'HOST nowhere.invalid is no address of this machine; set HOST to one that is, such as 127.0.0.1.',
    ]);
  });
});

describe('the way to the database', () => {
  test('nobody listens there', async () => {
    const free = await listening();
    await free.close();
    const [line, ...more] = await refusal(oneLogin((url) => ((url.hostname = '127.0.0.1'), (url.port = String(free.port)))));
    expect(line).toBe(
      `Nothing answers as Postgres at 127.0.0.1:${free.port}: check host and port of the database URL, and that the server runs.`,
    );
    expect(more).toEqual([]);
  });

  test('a wrong password, or none, of either login', async () => {
    const { username: owner } = new URL(database.ownerUrl.reveal());
    const { username: app } = new URL(database.serverUrl.reveal());
    expect(await refusal(oneLogin((url) => (url.password = 'mistyped-secret')))).toEqual([
      expect.stringMatching(new RegExp(`refused the password of ${owner}: check user and password`)),
    ]);
    expect(await refusal(external((url) => (url.password = 'mistyped-secret')))).toEqual([
      expect.stringMatching(new RegExp(`refused the password of ${app}: check user and password`)),
    ]);
    expect(await refusal(oneLogin((url) => (url.password = '')))).toEqual([
      expect.stringMatching(/ asks \S+ for a password, and the database URL has none: add it\.$/),
    ]);
  });

  test('no such database', async () => {
    expect(await refusal(oneLogin((url) => (url.pathname = '/absent')))).toEqual([
      expect.stringMatching(/ has no database absent: create it \(CREATE DATABASE "absent";\) or correct the database URL\.$/),
    ]);
  });
});

describe('the state of the database', () => {
  test('one that is newer than the code is left as it is', async () => {
    const migrations = () =>
      asAdmin(
        async (admin) => (await admin.query<Record<string, unknown>>('SELECT * FROM keyledger.migrations ORDER BY name')).rows,
        database.name,
      );
    await asAdmin(
      (admin) => admin.query("INSERT INTO keyledger.migrations (name, sha256) VALUES ('9999_from_the_future.sql', 'x')"),
      database.name,
    );
    const before = await migrations();
    expect(await refusal(external())).toEqual([
      'The database is newer than this keyledger: it has 9999_from_the_future.sql, which this version does not know. Start the version that made it, or a later one.',
    ]);
    expect(await migrations()).toEqual(before);
    await asAdmin((admin) => admin.query("DELETE FROM keyledger.migrations WHERE name LIKE '9999%'"), database.name);
  });

  test('one that acknowledges before it has written gets no ledger', async () => {
    const schemas = () =>
      asAdmin(async (admin) => (await admin.query("SELECT FROM pg_namespace WHERE nspname = 'keyledger'")).rowCount, empty.name);
    await asAdmin((admin) => admin.query(`ALTER DATABASE ${empty.name} SET synchronous_commit = off`));
    expect(await refusal(external(undefined, empty))).toEqual([
      expect.stringMatching(/^synchronous_commit is off, so a crash loses events that were acknowledged\. Turn it on /),
    ]);
    expect(await schemas()).toBe(0);
    await asAdmin((admin) => admin.query(`ALTER DATABASE ${empty.name} RESET synchronous_commit`));

    // The login that serves may have its own setting.
    const { username: app } = new URL(database.serverUrl.reveal());
    await asAdmin((admin) => admin.query(`ALTER ROLE ${app} IN DATABASE ${database.name} SET synchronous_commit = off`));
    expect(await refusal(external())).toEqual([expect.stringMatching(/^synchronous_commit is off/)]);
    await asAdmin((admin) => admin.query(`ALTER ROLE ${app} IN DATABASE ${database.name} RESET synchronous_commit`));
  });
});

describe('the data directory', () => {
  test('one below a file, or that this user may not write to', async () => {
    await writeFile(join(root, 'file'), '');
    expect(await refusal({ DATA_DIR: join(root, 'file', 'data') })).toEqual([
      expect.stringMatching(
        /^The data directory \S+ can't be used \(ENOTDIR\)\. Set DATA_DIR to a directory that this user may write to, or DATABASE_URL to a Postgres of your own\.$/,
      ),
    ]);
    const closed = join(root, 'closed');
    await mkdir(closed, { mode: 0o500 });
    // Root may write everywhere: it looks on as an ordinary user.
    const asNobody = process.getuid?.() === 0 ? ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--'] : [];
    expect(await refusal({ DATA_DIR: join(closed, 'data') }, asNobody)).toEqual([expect.stringMatching(/can't be used \(EACCES\)\./)]);
    expect(await readdir(closed)).toEqual([]);
  });

  test('one that another keyledger uses; that one goes on', async () => {
    const dataDir = join(root, 'shared');
    const first = start({ DATA_DIR: dataDir });
    const url = await first.listening();
    const postmaster = await postmasterOf(dataDir);
    expect(await refusal({ DATA_DIR: dataDir })).toEqual([
      `The data directory ${dataDir} is in use by another keyledger (process ${first.pid}). Stop that one, or give this one a DATA_DIR of its own.`,
    ]);
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    expect(await postmasterOf(dataDir)).toBe(postmaster);
  });
});
