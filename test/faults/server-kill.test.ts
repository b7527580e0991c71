import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { sql } from 'kysely';
import pg from 'pg';
import { afterEach, expect, it } from 'vitest';

import { Secret } from '../../src/lib/secret.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { endProcess, killAll, postmasterOf, processTree, startProcess, survivors, type ServerProcess } from '../process/server-process.ts';
import { createTestDatabase } from '../support/database.ts';
import { numberingFaults, totalFaults } from '../support/log-invariants.ts';
import { windowFaults } from '../support/window-faults.ts';
import { startVerifyLoad, type Passed, type VerifyLoad } from './verify-load.ts';

const CALLERS = 32;
const KEYS = 12;
const ENOUGH = 300;
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

it('after kill -9 of a server under load everything it answered is in the log once, and its neighbour goes on', async () => {
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

  // The neighbour is not kept waiting by what the victim had begun.
  const before = loads[1].passed.length;
  await expect.poll(() => loads[1].passed.length, { timeout: 15_000, interval: 5 }).toBeGreaterThan(before + ENOUGH);
  loads[1].stop();
  await loads[1].ended;
  const passed = loads.flatMap((each) => each.passed);
  expect(await faults(database.serverUrl, passed)).toEqual([]);
  expect(await faults(database.serverUrl, [...passed, { endpoint: 'GET /never', position: 1n }])).toHaveLength(1);
});

/** Loads a server and kills its Postgres with all its processes. Answers what was answered VALID before. */
async function killPostgresUnderLoad(
  dataDir: string,
  server: ServerProcess,
  secrets: readonly string[],
  name: string,
): Promise<readonly Passed[]> {
  const url = await server.listening();
  await expect.poll(() => fetch(`${url}/readyz`).then((answer) => answer.status), { timeout: 10_000 }).toBe(200);
  const running = load(url, secrets, name);
  await expect.poll(() => running.passed.length, { timeout: 15_000, interval: 5 }).toBeGreaterThan(ENOUGH);
  const postmaster = await postmasterOf(dataDir);
  if (postmaster === undefined) throw new Error('there is no Postgres');
  const tree = await processTree(postmaster);
  killAll(tree);
  await running.ended;
  await server.ended; // it can't do without its own Postgres, and ends
  await expect.poll(() => survivors(tree), { timeout: 10_000 }).toEqual([]);
  return running.passed;
}

/** The embedded Postgres of a data directory, as its superuser. */
async function adminUrlOf(dataDir: string): Promise<Secret> {
  const { superuser } = JSON.parse(await readFile(join(dataDir, 'postgres-passwords.json'), 'utf8')) as { readonly superuser: string };
  const port = (await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[3];
  return new Secret(`postgres://postgres:${superuser}@127.0.0.1:${port}/keyledger`);
}

it('after kill -9 of Postgres under load everything that was answered VALID is in the log once and the counters equal it; had it answered before it wrote, that would be found', async () => {
  const root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'keyledger-kill-'));
  await chmod(root, 0o755);
  releases.push(() => rm(root, { recursive: true, force: true }));
  const dataDir = join(root, 'data');
  const first = start({ DATA_DIR: dataDir });
  const secrets = await makeKeys(await first.listening());
  const passed = await killPostgresUnderLoad(dataDir, first, secrets, 'durable');

  const second = start({ DATA_DIR: dataDir });
  await second.listening();
  const adminUrl = await adminUrlOf(dataDir);
  expect(await faults(adminUrl, passed)).toEqual([]);
  const admin = new pg.Client({ connectionString: adminUrl.reveal() });
  await admin.connect();
  await admin.query("ALTER SYSTEM SET wal_writer_delay = '10s'");
  await admin.query("ALTER SYSTEM SET wal_writer_flush_after = '1GB'");
  await admin.query('ALTER DATABASE keyledger SET synchronous_commit = off');
  await admin.query('SELECT pg_reload_conf()');
  // Sessions that begin from now on have the setting.
  await admin.query(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'keyledger' AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
  );
  await admin.end();
  const promised = await killPostgresUnderLoad(dataDir, second, secrets, 'asynchronous');
  const postgres = await startEmbeddedPostgres({ dataDir, onLog: () => undefined });
  releases.push(() => postgres.stop());
  const lost = (await faults(postgres.serverUrl, [...passed, ...promised])).filter((fault) => fault.includes('the log has it at none'));
  expect(lost.length).toBeGreaterThan(0);
  expect(lost.filter((fault) => fault.includes('/durable/'))).toEqual([]);
});
