import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { access, constants, mkdtemp, rm, statfs } from 'node:fs/promises';
import { request } from 'node:http';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import type { ContainerRuntimeClient } from 'testcontainers';

import { Secret } from '../../src/lib/secret.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { cleanUpIfKilled } from './clean-up-if-killed.ts';

export type TestPostgres = {
  readonly kind: 'TEST_DATABASE_URL' | 'container' | 'embedded';
  /** What is printed. */
  readonly description: string;
  /** A login that may create databases and roles. */
  readonly adminUrl: Secret;
  stop(): Promise<void>;
};

const SECOND = 1_000;
const ENGINE_ANSWERS_MS = 5 * SECOND;
const PULL_MS = 90 * SECOND;
const CONTAINER_STARTS_MS = 60 * SECOND;
const RUN_LABEL = 'keyledger.test-run';
const NEEDED_TMPFS_BYTES = 2 * 1024 ** 3;

/** The Postgres of a test run: the one of TEST_DATABASE_URL, else a container, else the embedded one. */
export async function startTestPostgres(env: NodeJS.ProcessEnv): Promise<TestPostgres> {
  const given = env['TEST_DATABASE_URL'];
  if (given !== undefined && given !== '') {
    const { host, pathname } = new URL(given);
    return {
      kind: 'TEST_DATABASE_URL',
      description: `TEST_DATABASE_URL (${host}${pathname})`,
      adminUrl: new Secret(given),
      stop: () => Promise.resolve(),
    };
  }
  const container = await startContainer(env);
  return 'adminUrl' in container ? container : startEmbedded(container.why);
}

async function startContainer(env: NodeJS.ProcessEnv): Promise<TestPostgres | { readonly why: string }> {
  if (!(await mayHaveEngine(env))) return { why: 'no container engine answers here' };
  const image = env['TEST_POSTGRES_IMAGE'] ?? 'postgres:18-alpine';
  // Ryuk would be a second image to fetch, and wants the engine's socket mounted; `cleanUpIfKilled` does its work.
  env['TESTCONTAINERS_RYUK_DISABLED'] ??= 'true';
  const { getContainerRuntimeClient, ImageName } = await import('testcontainers');
  const run = randomUUID();
  let engine: ContainerRuntimeClient | undefined;
  try {
    engine = await within(ENGINE_ANSWERS_MS, getContainerRuntimeClient(), 'the container engine does not answer');
    const name = ImageName.fromString(image);
    if (!(await within(ENGINE_ANSWERS_MS, engine.image.exists(name), 'the container engine does not answer'))) {
      await within(PULL_MS, engine.image.pull(name), `${image} could not be pulled in ${PULL_MS / SECOND} s`);
    }
    const { PostgreSqlContainer } = await import('@testcontainers/postgresql');
    const started = await new PostgreSqlContainer(image)
      .withTmpFs({ '/var/lib/postgresql': 'rw' })
      .withCommand(['postgres', '-c', 'max_connections=200'])
      .withLabels({ [RUN_LABEL]: run })
      .withStartupTimeout(CONTAINER_STARTS_MS)
      .start();
    const release = cleanUpIfKilled({ kind: 'container', target: started.getId() });
    return {
      kind: 'container',
      description: `container ${image}`,
      adminUrl: new Secret(started.getConnectionUri()),
      stop: async () => {
        await started.stop();
        release();
      },
    };
  } catch (error) {
    // Testcontainers leaves behind one that ended before its port was there.
    const left = await engine?.container.fetchByLabel(RUN_LABEL, run).catch(() => undefined);
    await left?.remove({ force: true, v: true });
    return { why: `${image}: ${error instanceof Error ? error.message : String(error)}` };
  }
}

/**
 * Asked before testcontainers is loaded, which takes a second; and asked with a deadline of our own, since a request of its that nobody
 * answers can't be taken back and would keep the run from ending.
 */
async function mayHaveEngine(env: NodeJS.ProcessEnv): Promise<boolean> {
  // Where it is reached by other means than a plain socket, only testcontainers knows how.
  if (process.platform === 'win32' || env['DOCKER_TLS_VERIFY'] || existsSync(join(homedir(), '.testcontainers.properties'))) return true;
  const runtimeDir = env['XDG_RUNTIME_DIR'];
  const given = env['DOCKER_HOST'];
  const sockets =
    given === undefined || given === ''
      ? [
          '/var/run/docker.sock',
          join(homedir(), '.docker/run/docker.sock'),
          join(homedir(), '.docker/desktop/docker.sock'),
          ...(runtimeDir === undefined ? [] : [join(runtimeDir, 'docker.sock'), join(runtimeDir, '.docker/run/docker.sock')]),
        ].map((path) => `unix://${path}`)
      : [given];
  return (await Promise.all(sockets.map(answersPing))).includes(true);
}

/** The engine's own health check: GET /_ping. */
function answersPing(host: string): Promise<boolean> {
  const target = host.startsWith('unix://')
    ? { socketPath: host.slice('unix://'.length) }
    : URL.canParse(host)
      ? { host: new URL(host).hostname, port: new URL(host).port || '2375' }
      : undefined;
  if (target === undefined) return Promise.resolve(false);
  return new Promise((resolve) => {
    const asked = request({ ...target, path: '/_ping', timeout: ENGINE_ANSWERS_MS }, (answer) => {
      answer.resume();
      resolve(answer.statusCode === 200);
    });
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => resolve(false));
    asked.end();
  });
}

async function startEmbedded(why: string): Promise<TestPostgres> {
  // In memory where there is room: fsync stays on, as everywhere, and costs nothing.
  const parent = (await hasRoom('/dev/shm')) ? '/dev/shm' : tmpdir();
  const dataDir = await mkdtemp(join(parent, 'keyledger-test-'));
  const release = cleanUpIfKilled({ kind: 'cluster', target: dataDir });
  const lines: string[] = [];
  const server = await startEmbeddedPostgres({
    dataDir,
    onLog: (line) => lines.push(line),
    onUnexpectedExit: (reason) => console.error(`the test Postgres died (${reason}): ${lines.slice(-10).join(' | ')}`),
  });
  return {
    kind: 'embedded',
    description: `embedded Postgres in ${dataDir} (${why})`,
    adminUrl: server.adminUrl,
    stop: async () => {
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
      release();
    },
  };
}

async function hasRoom(directory: string): Promise<boolean> {
  try {
    await access(directory, constants.W_OK);
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize >= NEEDED_TMPFS_BYTES;
  } catch {
    return false;
  }
}

async function within<T>(limitMs: number, work: Promise<T>, otherwise: string): Promise<T> {
  const timer = new AbortController();
  const late = sleep(limitMs, undefined, { signal: timer.signal }).then(() => {
    throw new Error(otherwise);
  });
  // The one that loses must not end the run when it rejects later.
  late.catch(() => undefined);
  work.catch(() => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    timer.abort();
  }
}
