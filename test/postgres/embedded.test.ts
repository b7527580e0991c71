import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import type { Secret } from '../../src/lib/secret.ts';
import { embeddedAccount } from '../../src/postgres/embedded-account.ts';
import { embeddedBinaries } from '../../src/postgres/embedded-binaries.ts';
import { startPatiently } from '../../src/postgres/embedded-process.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { isAlive } from '../../src/postgres/process-identity.ts';

const HOLDER = fileURLToPath(new URL('../support/hold-embedded-postgres.ts', import.meta.url));
const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;
const parent = () => (existsSync('/dev/shm') ? '/dev/shm' : tmpdir());

let root: string;
let dataDir: string;
const holders: ChildProcess[] = [];

/** A data directory with a cluster in it, stopped: copied where a test is not about the first start, which takes a second. */
let madeOnce: string;

beforeAll(async () => {
  madeOnce = await mkdtemp(join(parent(), 'keyledger-embedded-'));
  await chmod(madeOnce, 0o755);
  await (await startEmbeddedPostgres({ dataDir: join(madeOnce, 'data'), onLog: () => undefined })).stop();
});

afterAll(() => rm(madeOnce, { recursive: true, force: true }));

beforeEach(async () => {
  root = await mkdtemp(join(parent(), 'keyledger-embedded-'));
  await chmod(root, 0o755);
  dataDir = join(root, 'data');
});

const copyMadeOnce = () => execFileSync('cp', ['-a', join(madeOnce, 'data'), dataDir]);

afterEach(async () => {
  for (const holder of holders.splice(0)) {
    if (holder.exitCode === null && holder.signalCode === null) {
      holder.kill('SIGTERM');
      await once(holder, 'exit');
    }
  }
  // Whatever a killed holder left is ended by the next start; a test that failed in between must leave nothing either.
  const left = await postmasterPid();
  if (left !== undefined && (await isAlive(left))) {
    process.kill(left, 'SIGINT');
    while (await isAlive(left)) await sleep(20);
  }
  await rm(root, { recursive: true, force: true });
});

async function postmasterPid(): Promise<number | undefined> {
  const text = await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').catch(() => undefined);
  return text === undefined ? undefined : Number(text.split('\n')[0]);
}

const start = (options: { onUnexpectedExit?: (reason: string) => void } = {}) =>
  startEmbeddedPostgres({ dataDir, onLog: () => undefined, ...options });

async function ask<T extends pg.QueryResultRow>(url: Secret | string, text: string): Promise<T[]> {
  const client = new pg.Client({ connectionString: typeof url === 'string' ? url : url.reveal() });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<T>(text)).rows;
  } finally {
    await client.end();
  }
}

type Held = { readonly process: ChildProcess; readonly pid: number; readonly ownerUrl: string; readonly error?: string };

/** Another process with the server of `dataDir`; `command` stands before node's. */
async function hold(command: readonly string[] = []): Promise<Held> {
  const [program, ...args] = [...command, process.execPath, HOLDER, dataDir];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' });
  holders.push(child);
  for await (const line of createInterface({ input: child.stdout }))
    return { process: child, ...(JSON.parse(line) as Omit<Held, 'process'>) };
  throw new Error('the holder said nothing');
}

async function killHard(held: Held): Promise<void> {
  held.process.kill('SIGKILL');
  await once(held.process, 'exit');
}

test('the first start makes a cluster, the second finds its data, and a stop leaves no process', async () => {
  const first = await start();
  await ask(first.ownerUrl, 'CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)');
  const [settings] = await ask<Record<string, unknown>>(
    first.serverUrl,
    `SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages, current_setting('synchronous_commit') AS commit,
       current_setting('listen_addresses') AS listens, current_setting('server_encoding') AS encoding, current_setting('server_version_num')::int / 10000 AS version,
       (SELECT format('%s %s', datlocprovider, datlocale) FROM pg_database WHERE datname = current_database()) AS locale`,
  );
  expect(settings).toEqual({
    fsync: 'on',
    pages: 'on',
    commit: 'on',
    listens: '127.0.0.1',
    encoding: 'UTF8',
    version: 18,
    locale: 'b C.UTF-8',
  });
  await first.stop();
  expect(await isAlive(first.pid)).toBe(false);
  expect(await readdir(dataDir)).toEqual(['postgres', 'postgres-passwords.json']);

  const second = await start();
  expect(await ask(second.ownerUrl, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  await second.stop();
});

test('only its owner gets at the data, no login is trusted, and neither login is a superuser', async () => {
  copyMadeOnce();
  const server = await start();
  expect((await stat(join(dataDir, 'postgres'))).mode & 0o777).toBe(0o700);
  expect((await stat(join(dataDir, 'postgres-passwords.json'))).mode & 0o777).toBe(0o600);
  // Others may pass through it at most, which the account that runs Postgres for root has to.
  expect((await stat(dataDir)).mode & 0o777 & ~0o011).toBe(0o700);
  const wrong = new URL(server.ownerUrl.reveal());
  wrong.password = 'wrong';
  await expect(ask(wrong.toString(), 'SELECT 1')).rejects.toMatchObject({ code: '28P01' });
  expect(
    await ask(server.ownerUrl, "SELECT rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname LIKE 'keyledger%' ORDER BY 1"),
  ).toEqual([
    { rolname: 'keyledger_app', rolsuper: false, rolcreaterole: false },
    { rolname: 'keyledger_owner', rolsuper: false, rolcreaterole: true },
    { rolname: 'keyledger_server', rolsuper: false, rolcreaterole: false },
  ]);
  await migrate({ ownerUrl: server.ownerUrl });
  await expect(ask(server.serverUrl, 'CREATE TABLE keyledger.mine ()')).rejects.toMatchObject({ code: '42501' });
  await server.stop();
});

test('is reached by a socket in its own directory, and over loopback where the path of one would be too long', async () => {
  copyMadeOnce();
  const from = async (url: Secret): Promise<unknown> => (await ask(url, 'SELECT inet_server_addr()::text AS address'))[0];
  const near = await start();
  expect(await from(near.serverUrl)).toEqual({ address: null });
  expect(await from(near.ownerUrl)).toEqual({ address: null });
  expect(await from(near.adminUrl)).toEqual({ address: '127.0.0.1/32' });
  const wrong = new URL(near.serverUrl.reveal());
  wrong.password = 'wrong';
  await expect(ask(wrong.toString(), 'SELECT 1')).rejects.toMatchObject({ code: '28P01' });
  await near.stop();

  const deep = join(root, 'x'.repeat(80), 'data');
  await mkdir(dirname(deep), { mode: 0o755 });
  await rename(dataDir, deep);
  dataDir = deep;
  const far = await start();
  expect(await from(far.serverUrl)).toEqual({ address: '127.0.0.1/32' });
  await far.stop();
});

test('where Postgres can make no socket, it is started without', async () => {
  copyMadeOnce();
  const clusterDir = join(dataDir, 'postgres');
  const said: string[] = [];
  const server = await startPatiently({
    postgres: (await embeddedBinaries()).postgres,
    clusterDir,
    socketDir: '/proc',
    account: await embeddedAccount(dataDir, clusterDir, await embeddedBinaries()),
    onLog: (line) => said.push(line),
    onUnexpectedExit: () => undefined,
  });
  expect(server.socketDir).toBeNull();
  expect(said).toContain('the embedded Postgres gets no Unix socket in /proc and is reached over loopback');
  await server.stop();
});

test('sockets of a Postgres that was killed are gone after the next start', async () => {
  copyMadeOnce();
  const sockets = async (): Promise<readonly string[]> =>
    (await readdir(join(dataDir, 'postgres'))).filter((name) => name.startsWith('.s.PGSQL.') && !name.endsWith('.lock'));
  const first = await start();
  const [left] = await sockets();
  process.kill(first.pid, 'SIGKILL');
  while (await isAlive(first.pid)) await sleep(20);
  await first.stop();
  expect(await sockets()).toEqual([left]);
  const second = await start();
  const found = await sockets();
  expect(found).toHaveLength(1);
  expect(found).not.toEqual([left]);
  await second.stop();
  expect(await sockets()).toEqual([]);
});

test('a start after kill -9 of keyledger ends the Postgres left behind and finds what was committed', async () => {
  copyMadeOnce();
  const held = await hold();
  await ask(held.ownerUrl, 'CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)');
  await killHard(held);
  expect(await isAlive(held.pid)).toBe(true);

  const server = await start();
  expect(await isAlive(held.pid)).toBe(false);
  expect(server.pid).not.toBe(held.pid);
  expect(await ask(server.ownerUrl, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  await server.stop();
});

test('of several starts after kill -9 one takes over, the others are told who has the directory', async () => {
  copyMadeOnce();
  await killHard(await hold());
  const starts = await Promise.all([hold(), hold(), hold()]);
  const refused = starts.filter(({ error }) => error !== undefined);
  expect(refused).toHaveLength(2);
  for (const { error } of refused) expect(error).toMatch(/is in use by another keyledger \(process \d+\)|is being taken by several/);
});

test('a second keyledger on the same directory gets one clear sentence and does no harm', async () => {
  copyMadeOnce();
  const held = await hold();
  await expect(start()).rejects.toThrow(
    `The data directory ${dataDir} is in use by another keyledger (process ${held.process.pid}). Stop that one, or give this one a DATA_DIR of its own.`,
  );
  expect(await ask(held.ownerUrl, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
});

test('a Postgres that dies is reported, and the next start recovers', async () => {
  copyMadeOnce();
  let reason: string | undefined;
  const first = await start({ onUnexpectedExit: (text) => (reason = text) });
  await ask(first.ownerUrl, 'CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)');
  process.kill(first.pid, 'SIGKILL');
  await expect.poll(() => reason, { timeout: 10_000 }).toBe('signal SIGKILL');
  await first.stop();

  const second = await start();
  expect(await ask(second.ownerUrl, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  await second.stop();
});

test('a postmaster.pid that names a process of somebody else does not block the start, nor is that process touched', async () => {
  copyMadeOnce();
  const stranger = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  await once(stranger, 'spawn');
  await writeFile(join(dataDir, 'postgres', 'postmaster.pid'), `${stranger.pid}\n${dataDir}/postgres\n1700000000\n5432\n\n127.0.0.1\n`);
  const server = await start();
  await server.stop();
  expect(stranger.exitCode).toBe(null);
  stranger.kill('SIGKILL');
  await once(stranger, 'exit');
});

test('a start that was interrupted while it made the cluster is begun anew', async () => {
  await mkdir(join(dataDir, 'postgres.new'), { recursive: true });
  await writeFile(join(dataDir, 'postgres.new', 'PG_VERSION'), '18\n');
  await (await start()).stop();
  expect(await readdir(dataDir)).toEqual(['postgres', 'postgres-passwords.json']);
});

test('an interrupt of the terminal reaches keyledger only, which stops its Postgres itself', async () => {
  copyMadeOnce();
  const held = await hold();
  const group = (pid: number) => Number(execFileSync('ps', ['-o', 'pgid=', '-p', String(pid)]).toString());
  expect(group(held.pid)).not.toBe(group(held.process.pid ?? 0));
  held.process.kill('SIGTERM');
  const [code] = (await once(held.process, 'exit')) as [number | null];
  expect(code).toBe(0);
  expect(await isAlive(held.pid)).toBe(false);
});

test('a start that is called off while the cluster is made leaves nothing of it', async () => {
  await expect(startEmbeddedPostgres({ dataDir, onLog: () => undefined, signal: AbortSignal.timeout(60) })).rejects.toMatchObject({
    name: 'TimeoutError',
  });
  expect((await readdir(dataDir)).filter((name) => name !== 'postgres-passwords.json')).toEqual([]);
});

test('a start that is called off while the server starts leaves no process and no lock', async () => {
  copyMadeOnce();
  const calledOff = new AbortController();
  const started = startEmbeddedPostgres({ dataDir, onLog: () => calledOff.abort(), signal: calledOff.signal });
  await expect(started).rejects.toMatchObject({ name: 'AbortError' });
  expect(await postmasterPid()).toBe(undefined);
  await (await start()).stop();
});

test('a data directory that can not be used is named, with what to do', async () => {
  await writeFile(join(root, 'file'), '');
  dataDir = join(root, 'file', 'data');
  await expect(start()).rejects.toThrow(
    /^The data directory .* can't be used \(ENOTDIR\)\. Set DATA_DIR to a directory that this user may write to/,
  );
});

test('lost or damaged passwords of an existing cluster are named, and not replaced', async () => {
  copyMadeOnce();
  const path = join(dataDir, 'postgres-passwords.json');
  await writeFile(path, '{}');
  await expect(start()).rejects.toThrow(/postgres-passwords\.json is damaged/);
  await rm(path);
  await expect(start()).rejects.toThrow(/postgres-passwords\.json is missing/);
});

const whyNotRoot = isRoot ? undefined : 'this is no root';
if (whyNotRoot !== undefined) console.log(`skipped: starts as root and as another user (${whyNotRoot})`);

describe.skipIf(whyNotRoot !== undefined)('as root', () => {
  test('Postgres runs under an account without rights, on a cluster that it owns', async () => {
    const server = await start();
    const { uid } = await stat(join(dataDir, 'postgres'));
    expect(uid).not.toBe(0);
    expect((await stat(`/proc/${server.pid}`)).uid).toBe(uid);
    await server.stop();
  });

  test('below a directory that only root may enter it starts as well, again and after kill -9', async () => {
    await chmod(root, 0o700);
    const first = await start();
    await ask(first.ownerUrl, 'CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)');
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    await first.stop();
    const held = await hold();
    await killHard(held);
    const second = await start();
    expect(await isAlive(held.pid)).toBe(false);
    expect(await ask(second.ownerUrl, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
    await second.stop();
  });

  test('an ordinary user starts it as itself, and root goes on with that cluster under that user', async () => {
    const asNobody = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--'];
    try {
      execFileSync(asNobody[0] ?? '', [...asNobody.slice(1), process.execPath, '--version'], { stdio: 'ignore' });
    } catch {
      return console.log(`skipped: an ordinary user can't reach ${dirname(process.execPath)} here`);
    }
    await chown(root, NOBODY, NOBODY);
    const held = await hold(asNobody);
    expect(held.error).toBe(undefined);
    expect((await stat(`/proc/${held.pid}`)).uid).toBe(NOBODY);
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    held.process.kill('SIGTERM');
    await once(held.process, 'exit');
    const server = await start();
    expect((await stat(`/proc/${server.pid}`)).uid).toBe(NOBODY);
    await server.stop();
  });

  test('an ordinary user on a directory of root gets one clear sentence', async () => {
    copyMadeOnce();
    const held = await hold(['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--']);
    expect(held.error).toMatch(/^The data directory .* can't be used \(EACCES\)\./);
  });
});
