import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { endProcess, postmasterOf, processTree, startProcess, survivors, type ServerProcess } from './server-process.ts';

const run = promisify(execFile);
const NOBODY = 65_534;
const AS_NOBODY = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--'];
const isRoot = process.getuid?.() === 0;

// Several starts of a cluster each, on whatever else the machine does.
let root: string;
let dataDir: string;
const running: ServerProcess[] = [];

beforeEach(async () => {
  root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'keyledger-start-'));
  await chmod(root, 0o755);
  dataDir = join(root, 'data');
});

afterEach(async () => {
  await Promise.all(running.splice(0).map(endProcess));
  const left = await postmasterOf(dataDir);
  if (left !== undefined) process.kill(left, 'SIGINT');
  while ((await postmasterOf(dataDir)) !== undefined) await sleep(20);
  await rm(root, { recursive: true, force: true });
});

function start(env: NodeJS.ProcessEnv = {}, command: readonly string[] = []): ServerProcess {
  const server = startProcess({ DATA_DIR: dataDir, ...env }, command);
  running.push(server);
  return server;
}

async function stop(server: ServerProcess): Promise<void> {
  const tree = await processTree(server.pid);
  server.signal('SIGTERM');
  expect(await server.ended).toBe(0);
  expect(await survivors(tree)).toEqual([]);
}

function tokenOf(server: ServerProcess): string {
  const token = /shown only now:\n {2}(\S+)\n/.exec(server.stdout())?.[1];
  if (token === undefined) throw new Error(`no token in: ${server.stdout()}`);
  return token;
}

async function ask(url: string, token: string, query: string): Promise<string> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  return (await fetch(`${url}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query }) })).text();
}

const WHO = '{ viewer { role organization { id } } }';

test('the first start migrates and prints addresses and a token with a request that works; the second finds its data and prints no token', async () => {
  const first = start();
  const url = await first.listening();
  expect(first.stdout()).toMatch(/^applied 0001_ledger\.sql\n(applied \d{4}_\w+\.sql\n)*keyledger listens on http:\/\/127\.0\.0\.1:\d+\n/);
  expect(url).not.toMatch(/:0$/);
  expect(first.stderr()).toBe('');
  for (const [, address] of first.stdout().matchAll(/(http:\S+\/(?:readyz|metrics))/g))
    expect((await fetch(address ?? '')).status).toBe(200);

  const [, request] = first.stdout().split('A first request to paste:\n');
  const { stdout } = await run('bash', ['-c', request ?? '']);
  expect(JSON.parse(stdout)).toMatchObject({
    data: { viewer: { role: 'OWNER', organization: { name: 'My organization', plan: 'ENTERPRISE' } } },
  });
  const token = tokenOf(first);
  const before = await ask(url, token, WHO);
  await stop(first);
  expect(first.stdout()).toMatch(/\nkeyledger is stopping\.\n$/);
  expect(first.stdout().split(token)).toHaveLength(3);

  const second = start();
  const again = await second.listening();
  expect(second.stdout()).toMatch(/^keyledger listens on /);
  expect(second.stdout()).not.toMatch(/token|klat_|applied/);
  expect(await ask(again, token, WHO)).toBe(before);
  await stop(second);
});

test("BOOTSTRAP_TOKEN is the first owner's token, which then is not printed, and later starts do not add another", async () => {
  const [one, other] = ['a'.repeat(40), 'b'.repeat(40)];
  const first = start({ BOOTSTRAP_TOKEN: one });
  expect(await ask(await first.listening(), one, WHO)).toContain('"OWNER"');
  expect(first.stdout()).toContain('The first owner signs in with the BOOTSTRAP_TOKEN.');
  expect(first.stdout()).not.toContain(one);
  await stop(first);

  const second = start({ BOOTSTRAP_TOKEN: other });
  const url = await second.listening();
  expect(await ask(url, one, WHO)).toContain('"OWNER"');
  expect(await ask(url, other, WHO)).toContain('"UNAUTHENTICATED"');
});

test('a first start that fails over its port has not used the token up', async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  const { port } = holder.address() as AddressInfo;
  const refused = start({ PORT: String(port) });
  expect(await refused.ended).toBe(1);
  expect(refused.stderr()).toBe(`Port ${port} on 127.0.0.1 is in use; stop what listens there, or set PORT to another one.\n`);
  expect(refused.stdout()).not.toContain('klat_');
  expect(await postmasterOf(dataDir)).toBe(undefined);
  await new Promise((resolve) => holder.close(resolve));

  const second = start();
  expect(await ask(await second.listening(), tokenOf(second), WHO)).toContain('"OWNER"');
});

test('after kill -9 the next start has everything that was acknowledged, in a log without holes', async () => {
  const first = start({ KEY_OPERATIONS_PER_HOUR: '0' });
  const url = await first.listening();
  const token = tokenOf(first);
  const { data } = JSON.parse(await ask(url, token, WHO)) as {
    readonly data: { readonly viewer: { readonly organization: { readonly id: string } } };
  };
  const organization = JSON.stringify(data.viewer.organization.id);
  const create = (name: string) =>
    ask(
      url,
      token,
      `mutation { createApiKey(input: { organizationId: ${organization}, name: "${name}", type: SECRET }) { ... on CreateApiKeyPayload { secret position } } }`,
    );
  const secret = /"secret":"(\w+)"/.exec(await create('Kept key'))?.[1] ?? '';
  const verify = async (at: string) => {
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    const answer = await fetch(`${at}/v1/verify`, { method: 'POST', headers, body: JSON.stringify({ key: secret }) });
    return ((await answer.json()) as { readonly position: string | null }).position;
  };
  // Several at once until the server is gone; each answer that came was a promise.
  const acknowledged: string[] = [];
  const traffic = Array.from({ length: 8 }, async () => {
    for (;;) {
      const position = await verify(url).catch(() => 'gone');
      if (position === 'gone') return;
      if (position !== null) acknowledged.push(position);
    }
  });
  await expect.poll(() => acknowledged.length, { timeout: 10_000 }).toBeGreaterThan(50);
  const orphan = await postmasterOf(dataDir);
  first.signal('SIGKILL');
  await Promise.all(traffic);
  expect(await first.ended).toBe('SIGKILL');

  const second = start();
  const again = await second.listening();
  expect(await survivors([orphan ?? 0])).toEqual([]);
  const next = BigInt((await verify(again)) ?? -1);
  expect(next).toBeGreaterThan(acknowledged.map(BigInt).reduce((a, b) => (a > b ? a : b)));
  const seen: string[] = [];
  for (let after = '0'; ; after = seen.at(-1) ?? '') {
    const page = JSON.parse(
      await ask(
        again,
        token,
        `{ node(id: ${organization}) { ... on Organization { ledgerEvents(after: "${after}", first: 100) { edges { node { position } } } } } }`,
      ),
    ) as {
      readonly data: {
        readonly node: { readonly ledgerEvents: { readonly edges: readonly { readonly node: { readonly position: string } }[] } };
      };
    };
    const positions = page.data.node.ledgerEvents.edges.map(({ node }) => node.position);
    if (positions.length === 0) break;
    seen.push(...positions);
  }
  expect(seen).toEqual(Array.from({ length: Number(next) }, (_, index) => String(index + 1)));
  expect(new Set(seen)).toEqual(new Set([...seen, ...acknowledged]));
});

test('a browser at /graphql gets GraphiQL whole: nothing of the page is loaded from elsewhere', async () => {
  const url = await start().listening();
  const answer = await fetch(`${url}/graphql`, { headers: { accept: 'text/html,application/xhtml+xml' } });
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toContain('text/html');
  const page = await answer.text();
  expect(externalReferences(page)).toEqual([]);
  // The page must be found guilty where it did refer to another host.
  expect(externalReferences(`${page}<script src="https://cdn.example.com/graphiql.js"></script>`)).toEqual([
    'src="https://cdn.example.com',
  ]);
  expect(externalReferences(`${page}<style>@import url(//fonts.example.com/a.css)</style>`)).toEqual(['url(//fonts.example.com']);
});

/** What makes a browser go to a host: attributes of tags outside of scripts, url() of styles, and imports of scripts. */
function externalReferences(page: string): readonly string[] {
  const markup = page.replaceAll(/(<script[^>]*>)[^]*?<\/script>/g, '$1').replaceAll(/(<style[^>]*>)[^]*?<\/style>/g, '$1');
  return [
    ...markup.matchAll(/\b(?:src|href|action|data|poster)\s*=\s*["']?(?:https?:)?\/\/[\w.-]+/gi),
    ...page.matchAll(/\burl\(\s*["']?(?:https?:)?\/\/[\w.-]+/gi),
    ...page.matchAll(/\b(?:import|importScripts|Worker)\s*\(\s*["'`](?:https?:)?\/\/[\w.-]+/g),
  ].map(([found]) => found);
}

describe.skipIf(!isRoot)('as root', () => {
  test('an ordinary user starts it as well, with data that nobody else can read', async (context) => {
    const reachable = await run(AS_NOBODY[0] ?? '', [...AS_NOBODY.slice(1), process.execPath, '--version']).catch(() => undefined);
    if (reachable === undefined) return context.skip(`an ordinary user can't reach ${process.execPath} here`);
    await chown(root, NOBODY, NOBODY);
    const first = start({ HOME: root }, AS_NOBODY);
    expect(await ask(await first.listening(), tokenOf(first), WHO)).toContain('"OWNER"');
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    expect((await stat(dataDir)).uid).toBe(NOBODY);
    for (const pid of await processTree(first.pid)) expect((await stat(`/proc/${pid}`)).uid).toBe(NOBODY);
    await stop(first);
    expect(await readFile(join(dataDir, 'key-peppers'), 'utf8')).toMatch(/^p1:/);
    await stop(await listening(start({ HOME: root }, AS_NOBODY)));
  });
});

async function listening(server: ServerProcess): Promise<ServerProcess> {
  await server.listening();
  return server;
}
