import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { sql } from 'kysely';
import pg from 'pg';
import { afterEach, expect, it, vi } from 'vitest';

import type { Secret } from '../../src/lib/secret.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { endProcess, postmasterOf, processTree, startProcess, survivors, type ServerProcess } from '../process/server-process.ts';
import { createTestDatabase } from '../support/database.ts';
import { numberingFaults, totalFaults } from '../support/log-invariants.ts';
import { windowFaults } from '../support/window-faults.ts';
import { startVerifyLoad, type Passed, type VerifyLoad } from './verify-load.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const CALLERS = 32;
const KEYS = 12;
const ENOUGH = 600;
const TOKEN = randomBytes(32).toString('hex');
const SETTINGS = {
  BOOTSTRAP_TOKEN: TOKEN,
  KEY_PEPPERS: `p1:${randomBytes(32).toString('base64')}`,
  KEY_OPERATIONS_PER_HOUR: '0',
  LOG_LEVEL: 'silent',
};

const releases: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const release of releases.splice(0).reverse()) await release();
});

function start(env: NodeJS.ProcessEnv): ServerProcess {
  const server = startProcess({ ...SETTINGS, ...env });
  releases.push(() => endProcess(server));
  return server;
}

/** Keys with every window in use, made over GraphQL. */
async function makeKeys(url: string): Promise<readonly string[]> {
  const { viewer } = (await graphql(url, '{ viewer { organization { id } } }')) as {
    readonly viewer: { readonly organization: { readonly id: string } };
  };
  const document = `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on CreateApiKeyPayload { secret } ... on UserError { message } } }`;
  const settings = {
    type: 'SECRET',
    quotas: { total: 1_000_000, daily: 1_000_000, weekly: 1_000_000, monthly: 1_000_000 },
    limits: { requestsPerMinute: 1_000_000 },
  };
  return Promise.all(
    Array.from({ length: KEYS }, async (_, index) => {
      const { createApiKey } = (await graphql(url, document, {
        input: { organizationId: viewer.organization.id, name: `Key ${index}`, ...settings },
      })) as {
        readonly createApiKey: { readonly secret?: string };
      };
      if (createApiKey.secret === undefined) throw new Error(`no key was made: ${JSON.stringify(createApiKey)}`);
      return createApiKey.secret;
    }),
  );
}

async function graphql(url: string, query: string, variables: object = {}): Promise<unknown> {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${TOKEN}` };
  const answer = (await (
    await fetch(`${url}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query, variables }) })
  ).json()) as { readonly data?: unknown };
  if (answer.data === undefined || answer.data === null) throw new Error(JSON.stringify(answer));
  return answer.data;
}

function load(url: string, secrets: readonly string[], name: string): VerifyLoad {
  const running = startVerifyLoad({ url, token: TOKEN, secrets, callers: CALLERS, name });
  running.ended.catch(() => undefined); // awaited by the test
  releases.push(async () => running.stop());
  return running;
}

/** What is wrong between the answers that were given and the log, and within the log and its counters. */
async function faults(serverUrl: Secret, passed: readonly Passed[]): Promise<readonly string[]> {
  const database = openDatabase({
    connectionString: serverUrl,
    applicationName: 'keyledger test',
    maxConnections: 2,
    onError: () => undefined,
  });
  try {
    const { rows } = await sql<{
      position: bigint;
      endpoint: string;
    }>`SELECT position, endpoint FROM usage_events WHERE code = 0 AND credits = 1`.execute(database.kysely);
    const positions = Map.groupBy(rows, (row) => row.endpoint);
    const lost = passed.filter(({ endpoint, position }) => {
      const logged = positions.get(endpoint) ?? [];
      return logged.length !== 1 || logged[0]?.position !== position;
    });
    return [
      ...lost.map(
        ({ endpoint, position }) =>
          `${endpoint} was answered VALID at ${position}, the log has it at ${(positions.get(endpoint) ?? []).map((row) => row.position).join(', ') || 'none'}`,
      ),
      ...(await numberingFaults(database.kysely)),
      ...(await totalFaults(database.kysely)),
      ...(await windowFaults(database.kysely)),
    ];
  } finally {
    await database.close();
  }
}

it('after kill -9 of a server under load everything it answered is in the log once, its neighbour goes on, and so does the next one', async () => {
  const database = await createTestDatabase();
  releases.push(() => database.drop());
  const env = { DATABASE_URL: database.serverUrl.reveal(), MIGRATION_DATABASE_URL: database.ownerUrl.reveal() };
  const victim = start(env);
  const url = await victim.listening();
  const neighbour = start(env);
  const secrets = await makeKeys(url);
  const loads = [load(url, secrets, 'victim'), load(await neighbour.listening(), secrets, 'neighbour')] as const;
  await expect.poll(() => Math.min(...loads.map(({ passed }) => passed.length)), { timeout: 15_000, interval: 5 }).toBeGreaterThan(ENOUGH);
  victim.signal('SIGKILL');
  await loads[0].ended;
  expect(await victim.ended).toBe('SIGKILL');

  const next = start(env);
  loads[1].stop();
  await loads[1].ended;
  const after = load(await next.listening(), secrets, 'next');
  await expect.poll(() => after.passed.length, { timeout: 15_000, interval: 5 }).toBeGreaterThan(50);
  after.stop();
  await after.ended;
  const passed = [...loads, after].flatMap((each) => each.passed);
  expect(await faults(database.serverUrl, passed)).toEqual([]);
  expect(await faults(database.serverUrl, [...passed, { endpoint: 'GET /never', position: 1n }])).toHaveLength(1);
});

/** A server on a Postgres of its own, under load, whose Postgres is then killed with all its processes. Answers what is wrong when it has recovered. */
async function killPostgres(
  dataDir: string,
  before: (admin: pg.Client) => Promise<void>,
): Promise<{ readonly passed: number; readonly faults: readonly string[] }> {
  const server = start({ DATA_DIR: dataDir });
  const url = await server.listening();
  const secrets = await makeKeys(url);
  const admin = await connectAdmin(dataDir);
  await before(admin);
  await admin.end();
  await expect.poll(() => fetch(`${url}/readyz`).then((answer) => answer.status), { timeout: 10_000 }).toBe(200);
  const running = load(url, secrets, 'embedded');
  await expect.poll(() => running.passed.length, { timeout: 15_000, interval: 5 }).toBeGreaterThan(ENOUGH);
  const postmaster = await postmasterOf(dataDir);
  if (postmaster === undefined) throw new Error('there is no Postgres');
  const tree = await processTree(postmaster);
  for (const pid of tree) process.kill(pid, 'SIGKILL');
  await running.ended;
  await server.ended; // it can't do without its own Postgres, and says so
  await expect.poll(() => survivors(tree), { timeout: 10_000 }).toEqual([]);

  const postgres = await startEmbeddedPostgres({ dataDir, onLog: () => undefined });
  try {
    return { passed: running.passed.length, faults: await faults(postgres.serverUrl, running.passed) };
  } finally {
    await postgres.stop();
  }
}

async function connectAdmin(dataDir: string): Promise<pg.Client> {
  const passwords = JSON.parse(await readFile(join(dataDir, 'postgres-passwords.json'), 'utf8')) as { readonly superuser: string };
  const port = Number((await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[3]);
  const admin = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', password: passwords.superuser, database: 'keyledger' });
  admin.on('error', () => undefined);
  await admin.connect();
  return admin;
}

async function newDataDir(): Promise<string> {
  const root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'keyledger-kill-'));
  await chmod(root, 0o755);
  releases.push(() => rm(root, { recursive: true, force: true }));
  return join(root, 'data');
}

it('after kill -9 of Postgres under load everything that was answered VALID is in the log once, and the counters equal it', async () => {
  const dataDir = await newDataDir();
  const { passed, faults: found } = await killPostgres(dataDir, async () => undefined);
  expect(passed).toBeGreaterThan(ENOUGH);
  expect(found).toEqual([]);
  const url = await start({ DATA_DIR: dataDir }).listening();
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
});

it('kill -9 of a Postgres that answers before it has written loses answers, which is found', async () => {
  const { faults: found } = await killPostgres(await newDataDir(), async (admin) => {
    await admin.query("ALTER SYSTEM SET wal_writer_delay = '10s'");
    await admin.query("ALTER SYSTEM SET wal_writer_flush_after = '1GB'");
    await admin.query('ALTER DATABASE keyledger SET synchronous_commit = off');
    await admin.query('SELECT pg_reload_conf()');
    // New sessions have the setting.
    await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'keyledger' AND pid <> pg_backend_pid()");
    await sleep(300);
  });
  expect(found.filter((fault) => fault.includes('the log has it at none')).length).toBeGreaterThan(0);
});
