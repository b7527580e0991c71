import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Webhook } from 'standardwebhooks';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { CLAIM_MS } from '../../src/webhooks/claim-deliveries.ts';
import { at, listAt, textAt } from '../graphql/at.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { endProcess, startProcess } from '../process/server-process.ts';
import { createTestDatabase } from '../support/database.ts';
import { startTestServer, type Answered } from '../support/server.ts';
import { installTestClock } from '../support/test-clock.ts';
import { openReceiver } from './receiver.ts';

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 });

const CREATE = `mutation ($input: CreateWebhookEndpointInput!) {
  createWebhookEndpoint(input: $input) { ... on CreateWebhookEndpointPayload { secret endpoint { id } } ... on UserError { message } }
}`;
const CREATE_KEY = `mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) { ... on CreateApiKeyPayload { secret apiKey { id } } ... on UserError { message } }
}`;
const ATTEMPTS = `query ($id: ID!) {
  node(id: $id) { ... on WebhookEndpoint { deliveries { edges { node { state attempts { status error } } } } } }
}`;

const releases: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const release of releases.splice(0).reverse()) await release();
});

type Query = (document: string, variables?: Readonly<Record<string, unknown>>) => Promise<Answered>;

async function newEndpoint(query: Query, url: string, eventTypes?: readonly string[]) {
  const organizationId = textAt(await query('{ viewer { organization { id } } }'), 'viewer.organization.id');
  const created = at(await query(CREATE, { input: { organizationId, url, eventTypes } }), 'createWebhookEndpoint');
  if (at(created, 'message') !== undefined) throw new Error(textAt(created, 'message'));
  const id = textAt(created, 'endpoint.id');
  return {
    id,
    secret: textAt(created, 'secret'),
    async newKey(input: object = {}): Promise<string> {
      const name = `key ${randomBytes(6).toString('hex')}`;
      return textAt(await query(CREATE_KEY, { input: { organizationId, type: 'SECRET', name, ...input } }), 'createApiKey.secret');
    },
    deliveries: async () => listAt(await query(ATTEMPTS, { id }), 'node.deliveries.edges').map((edge) => at(edge, 'node')),
  };
}

describe('6.3 the whole product', () => {
  it('tells of an alert within seconds of what caused it, and counts it', async () => {
    const server = await startTestServer({ env: { WEBHOOK_ALLOW_PRIVATE: '127.0.0.0/8,::1/128' } });
    releases.push(() => server.close());
    const receiver = await openReceiver();
    releases.push(() => receiver.close());
    const endpoint = await newEndpoint(server.query, receiver.url.replace('127.0.0.1', 'localhost'));
    const key = await endpoint.newKey({ quotas: { total: 2 } });
    const began = Date.now();
    const answer = await fetch(`${server.url}/v1/verify`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${server.token}` },
      body: JSON.stringify({ key }),
    });
    expect(await answer.json()).toMatchObject({ valid: true });
    await eventually('the alert is told', () => receiver.received.length > 0, 10_000);
    expect(Date.now() - began).toBeLessThan(5000);

    const [message] = receiver.received;
    expect(new Webhook(endpoint.secret).verify(message?.body ?? '', message?.headers ?? {})).toMatchObject({
      type: 'ALERT_RAISED',
      data: { data: { kind: 'QUOTA_THRESHOLD' } },
    });
    expect(message?.headers['host']).toMatch(/^localhost:/);
    await eventually('it is counted', async () => {
      const metrics = await (await fetch(`${server.url}/metrics`)).text();
      return /keyledger_webhook_attempts_total\{outcome="delivered"\} [1-9]/.test(metrics);
    });
    expect(server.logged).toEqual([]);
  });

  it('delivers nowhere near itself unless told to', async () => {
    const server = await startTestServer();
    releases.push(() => server.close());
    const receiver = await openReceiver();
    releases.push(() => receiver.close());
    await expect(newEndpoint(server.query, receiver.url)).rejects.toThrow(/https/);
    await expect(newEndpoint(server.query, receiver.url.replace('http:', 'https:'))).rejects.toThrow(/no public address/);
    const endpoint = await newEndpoint(server.query, `https://localhost:${receiver.port}/`, ['KEY_CREATED']);
    await endpoint.newKey();
    await eventually('an attempt is written down', async () => at((await endpoint.deliveries())[0], 'attempts.0') !== undefined);
    expect((await endpoint.deliveries())[0]).toMatchObject({
      state: 'PENDING',
      attempts: [{ status: null, error: expect.stringMatching(/^Nothing was sent: \S+ is no public address \(loopback\)\.$/) as string }],
    });
    expect(receiver.received).toHaveLength(0);
  });
});

const openssl = await promisify(execFile)('openssl', ['version']).then(
  () => true,
  () => false,
);
if (!openssl) console.warn('https receivers are not tested: there is no openssl to make a certificate with');

describe.skipIf(!openssl)('6.3 a receiver behind TLS', () => {
  /** Answers nothing until it is told to. */
  async function openTlsReceiver() {
    const directory = await mkdtemp(join(tmpdir(), 'keyledger-webhooks-'));
    releases.push(() => rm(directory, { recursive: true, force: true }));
    const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
    const request =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost';
    await promisify(execFile)('openssl', [...request.split(' '), '-keyout', key, '-out', cert]);
    const ids: string[] = [];
    const receiver = { cert, port: 0, answering: false, ids };
    const server = createServer({ key: await readFile(key), cert: await readFile(cert) }, (incoming, response) => {
      ids.push(String(incoming.headers['webhook-id']));
      incoming.resume();
      if (receiver.answering) response.end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    receiver.port = (server.address() as AddressInfo).port;
    releases.push(
      () =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
          server.closeAllConnections();
        }),
    );
    return receiver;
  }

  it('is not told where nobody vouches for its certificate', async () => {
    const receiver = await openTlsReceiver();
    const server = await startTestServer({ env: { WEBHOOK_ALLOW_PRIVATE: 'true' } });
    releases.push(() => server.close());
    const endpoint = await newEndpoint(server.query, `https://localhost:${receiver.port}/`, ['KEY_CREATED']);
    await endpoint.newKey();
    await eventually('an attempt is written down', async () => at((await endpoint.deliveries())[0], 'attempts.0') !== undefined);
    expect(at((await endpoint.deliveries())[0], 'attempts.0.error')).toMatch(/^No answer: self-signed certificate/);
    expect(receiver.ids).toEqual([]);
  });

  it('is told by another server where one was killed while it told', async () => {
    const receiver = await openTlsReceiver();
    const database = await createTestDatabase();
    releases.push(() => database.drop());
    const clock = await installTestClock(database);
    releases.push(() => clock.close());
    const token = randomBytes(32).toString('hex');
    const env = {
      DATABASE_URL: database.serverUrl.reveal(),
      MIGRATION_DATABASE_URL: database.ownerUrl.reveal(),
      KEY_PEPPERS: `p1:${randomBytes(32).toString('base64')}`,
      BOOTSTRAP_TOKEN: token,
      WEBHOOK_ALLOW_PRIVATE: 'true',
      LOG_LEVEL: 'error',
      NODE_EXTRA_CA_CERTS: receiver.cert,
    };
    const start = async () => {
      const server = startProcess(env);
      releases.push(() => endProcess(server));
      const url = await server.listening();
      const query: Query = async (document, variables = {}) => {
        const headers = { 'content-type': 'application/json', authorization: `Bearer ${token}` };
        const response = await fetch(`${url}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query: document, variables }) });
        return ((await response.json()) as { readonly data: Answered }).data;
      };
      return { server, query };
    };

    const first = await start();
    const endpoint = await newEndpoint(first.query, `https://localhost:${receiver.port}/`, ['KEY_CREATED']);
    await endpoint.newKey();
    await eventually('the message is under way', () => receiver.ids.length === 1, 10_000);
    first.server.signal('SIGKILL');
    await first.server.ended;

    receiver.answering = true;
    const second = await start();
    await clock.advance(CLAIM_MS);
    await eventually('it is told again', () => receiver.ids.length === 2, 10_000);
    expect(new Set(receiver.ids).size).toBe(1);
    expect(listAt(await second.query(ATTEMPTS, { id: endpoint.id }), 'node.deliveries.edges')).toHaveLength(1);
    expect(second.server.stderr()).toBe('');
  });
});
