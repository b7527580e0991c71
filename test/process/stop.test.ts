import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { createClient } from 'graphql-ws';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import WebSocket from 'ws';

import { endProcess, processTree, startProcess, survivors, type ServerProcess } from './server-process.ts';

const TOKEN = 'a-bootstrap-token-of-many-characters';
let root: string;
let dataDir: string;
let running: ServerProcess | undefined;

beforeAll(async () => {
  root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'keyledger-stop-'));
  await chmod(root, 0o755);
  dataDir = join(root, 'data');
});
afterEach(async () => {
  if (running !== undefined) await endProcess(running);
  running = undefined;
});
afterAll(() => rm(root, { recursive: true, force: true }));

async function start(env: NodeJS.ProcessEnv = {}): Promise<{ readonly server: ServerProcess; readonly url: string }> {
  const server = startProcess({ DATA_DIR: dataDir, BOOTSTRAP_TOKEN: TOKEN, ...env });
  running = server;
  return { server, url: await server.listening() };
}

const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n';
const HEADERS = { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' };

async function organizationOf(url: string): Promise<string> {
  const answer = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: HEADERS,
    body: '{"query":"{ viewer { organization { id } } }"}',
  });
  return ((await answer.json()) as { readonly data: { readonly viewer: { readonly organization: { readonly id: string } } } }).data.viewer
    .organization.id;
}

/**
 * A verification whose body has not arrived whole: the server has to wait for the rest, and it for the server. `100 Continue` says that the server has begun
 * with it; a connection without a request would be closed at once.
 */
async function beginVerification(url: string) {
  const body = JSON.stringify({ key: 'no key of ours' });
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  let answer = '';
  const begun = Promise.withResolvers<void>();
  socket.setEncoding('utf8').on('data', (text: string) => {
    answer += text;
    if (answer.startsWith(CONTINUE)) begun.resolve();
  });
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  void closed.then(() => begun.reject(new Error(`closed before it had begun: ${answer}`)));
  socket.write(
    `POST /v1/verify HTTP/1.1\r\nHost: keyledger\r\nAuthorization: Bearer ${TOKEN}\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
  );
  await begun.promise;
  return {
    async finish(): Promise<string> {
      socket.write(body.slice(5));
      await closed;
      return answer.slice(CONTINUE.length);
    },
  };
}

async function openSocket(url: string, organizationId: string) {
  const closed = Promise.withResolvers<{ readonly code: number }>();
  const opened = Promise.withResolvers<void>();
  const client = createClient({
    url: `${url.replace('http', 'ws')}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${TOKEN}` },
    lazy: false,
    retryAttempts: 0,
    onNonLazyError: () => undefined,
    on: { connected: () => opened.resolve(), closed: (event) => closed.resolve(event as { readonly code: number }) },
  });
  client.subscribe(
    { query: 'subscription ($id: ID!) { ledgerEvents(organizationId: $id) { position } }', variables: { id: organizationId } },
    { next: () => undefined, error: () => undefined, complete: () => undefined },
  );
  await opened.promise;
  return { closed: closed.promise };
}

async function openEvents(url: string, organizationId: string) {
  const body = JSON.stringify({
    query: 'subscription ($id: ID!) { ledgerEvents(organizationId: $id) { position } }',
    variables: { id: organizationId },
  });
  const answer = await fetch(`${url}/graphql`, { method: 'POST', headers: { ...HEADERS, accept: 'text/event-stream' }, body });
  expect(answer.status).toBe(200);
  return {
    ended: answer.text().then(
      () => 'whole',
      () => 'cut off',
    ),
  };
}

test.each([
  ['SIGTERM', (server: ServerProcess) => server.signal('SIGTERM')],
  ['SIGINT', (server: ServerProcess) => server.signal('SIGINT')],
  ['Ctrl-C in a terminal, which reaches the whole process group', (server: ServerProcess) => server.signalGroup('SIGINT')],
])('%s: what is under way is answered, sockets get 1001, streams end, and no process is left', async (_name, interrupt) => {
  const { server, url } = await start();
  const organizationId = await organizationOf(url);
  const socket = await openSocket(url, organizationId);
  const events = await openEvents(url, organizationId);
  const request = await beginVerification(url);
  const tree = await processTree(server.pid);
  expect(tree.length).toBeGreaterThan(5);

  interrupt(server);
  expect((await socket.closed).code).toBe(1001);
  await expect
    .poll(
      () =>
        fetch(`${url}/readyz`).then(
          () => 'answers',
          () => 'refused',
        ),
      { timeout: 5000 },
    )
    .toBe('refused');
  expect(await survivors([server.pid])).toEqual([server.pid]);
  const answer = await request.finish();
  expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  expect(answer).toContain('"code":"INVALID_KEY"');

  expect(await server.ended).toBe(0);
  expect(await events.ended).toBe('whole');
  expect(await survivors(tree)).toEqual([]);
  expect(server.stderr()).toBe('');
  expect(server.stdout()).toMatch(/\nkeyledger is stopping\.\n$/);
  expect(await readdir(dataDir)).toEqual(['key-peppers', 'postgres', 'postgres-passwords.json']);
});

test('a request that never comes whole is waited for no longer than SHUTDOWN_GRACE_SECONDS', async () => {
  const { server, url } = await start({ SHUTDOWN_GRACE_SECONDS: '1' });
  await beginVerification(url);
  const tree = await processTree(server.pid);
  server.signal('SIGTERM');
  expect(await server.ended).toBe(0);
  expect(await survivors(tree)).toEqual([]);
});

test('a start that is interrupted at any moment leaves no process and nothing that hinders the next one', async () => {
  for (const afterMs of [100, 600, 1100]) {
    const directory = join(root, `interrupted-${afterMs}`);
    const server = startProcess({ DATA_DIR: directory, BOOTSTRAP_TOKEN: TOKEN });
    running = server;
    await sleep(afterMs);
    const tree = await processTree(server.pid);
    server.signalGroup('SIGINT');
    // Before it has begun to listen for signals, the signal ends it as it ends any process.
    expect([0, 'SIGINT']).toContain(await server.ended);
    expect(await survivors(tree)).toEqual([]);
    expect(server.stderr()).toBe('');
  }
  const { server, url } = await start({ DATA_DIR: join(root, 'interrupted-600') });
  expect(await organizationOf(url)).toMatch(/\S/);
  server.signal('SIGTERM');
  expect(await server.ended).toBe(0);
});

test('a Postgres that dies takes the server with it, with a sentence and exit code 1', async () => {
  const { server } = await start();
  const tree = await processTree(server.pid);
  const [, postmaster = 0] = tree;
  process.kill(postmaster, 'SIGKILL');
  expect(await server.ended).toBe(1);
  expect(server.stderr()).toContain('The embedded Postgres ended: signal SIGKILL\n');
  expect(await survivors(tree)).toEqual([]);
});
