import { createServer, request as open, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { DEFAULT_LIMITS } from '../../src/graphql/limits.ts';
import { createDocumentReader } from '../../src/graphql/operation.ts';
import { createPlainPost } from '../../src/graphql/plain-post.ts';
import { buildSchema } from '../../src/graphql/schema.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';
import { httpRequests, type HttpRequest } from './http-requests.ts';

const MAX_BODY = 10_000;
const NAMES = httpRequests({ organizationId: '', keySecret: '', tokens: { owner: '', auditor: '', gateway: '' } }).map(({ name }) => name);

describe('a plain POST is answered as Yoga answers it', () => {
  let server: TestGraphql;
  let requests: ReadonlyMap<string, HttpRequest>;
  beforeAll(async () => {
    server = await openTestGraphql({ maxBodyBytes: MAX_BODY, allowedOrigins: ['https://console.example.com'] });
    const key = await server.ledger.newKey({ quotas: { daily: 100 }, limits: { requestsPerMinute: 60 }, metadata: { team: 'red' } });
    const { token: gateway } = await server.tokenOf({ permissions: ['keys:verify'] });
    const { token: auditor } = await server.newMember('AUDITOR');
    const tokens = { owner: server.ownerToken, auditor, gateway };
    const all = httpRequests({ organizationId: server.organizationId, keySecret: key.secret, tokens });
    requests = new Map(all.map((request) => [request.name, request]));
  });
  afterAll(() => server.close());

  it.each(NAMES)('%s', async (name) => {
    const request = requests.get(name);
    if (request === undefined) throw new Error(`no request is named ${name}`);
    const plain = await send(server.url, request);
    // Yoga does not look at the query of a POST, and only a bare path is plain.
    expect(plain).toEqual(await send(`${server.url}?whole`, request));

    expect(server.ledger.errors).toEqual([]);
  });

  it('a difference would be noticed', async () => {
    const request = requests.get('a query');
    const other = requests.get('a query with everything in it');
    if (request === undefined || other === undefined) throw new Error('the requests are named otherwise now');
    const headers = { ...request.headers, accept: 'application/graphql-response+json' };
    expect(await send(server.url, { ...request, headers })).not.toEqual(await send(`${server.url}?whole`, request));
    expect(await send(server.url, { ...request, body: '{"query":"{ viewer { actorId } }"}' })).not.toEqual(
      await send(`${server.url}?whole`, other),
    );
  });
});

describe('Yoga is asked for what is not plain, and for nothing else', () => {
  const schema = buildSchema();
  const reader = createDocumentReader(schema, DEFAULT_LIMITS);
  let asked = 0;
  let url: string;
  let close: () => void;
  const ask: RequestListener = (_req, res) => {
    asked++;
    res.end();
  };

  beforeAll(async () => {
    const deps = { config: { maxBodyBytes: MAX_BODY, allowedOrigins: [], graphiql: false }, logger: pino({ level: 'silent' }) };
    const plain = createPlainPost({
      deps,
      limits: DEFAULT_LIMITS,
      schema,
      reader,
      // Whoever asks: what comes of it the other tests say.
      contextOf: () => Promise.reject(new Error('nobody is known here')),
      uncheckedContextOf: () => null,
      full: async (req, res) => ask(req, res),
    });
    const http = createServer((req, res) => void (plain.takes(req) ? plain.answer(req, res) : ask(req, res)));
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(http.address() as AddressInfo).port}/graphql`;
    close = () => http.close();
  });
  afterAll(() => close());

  it.each(httpRequests({ organizationId: 'x', keySecret: 'x', tokens: { owner: 'x', auditor: 'x', gateway: 'x' } }))(
    '$name',
    async (request) => {
      asked = 0;
      await send(url, request);
      expect(asked).toBe(request.whole ? 1 : 0);
    },
  );

  it.each(['/graphql/', '/graphql?query={__typename}', '/graphql?whole'])('%s is left to Yoga', async (path) => {
    asked = 0;
    const headers = { 'content-type': 'application/json' };
    await send(new URL(path, url).href, { name: path, method: 'POST', headers, body: '{"query":"{ __typename }"}', whole: true });
    expect(asked).toBe(1);
  });
});

/** Status, header fields as they were sent, and body; without what differs each time. */
function send(url: string, { method, headers, body }: HttpRequest): Promise<{ status: number; headers: string[][]; body: string }> {
  return new Promise((resolve, reject) => {
    const length = { 'content-length': String(Buffer.byteLength(body)) };
    const req = open(url, { method, headers: { ...headers, ...length }, agent: false }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const fields = res.rawHeaders.flatMap((value, index, all) => (index % 2 === 0 ? [[value, all[index + 1] ?? '']] : []));
        resolve({
          status: res.statusCode ?? 0,
          headers: fields.filter(([field]) => field !== 'Date').toSorted(([a = ''], [b = '']) => a.localeCompare(b)),
          body: text.replaceAll(/"errorId":"[^"]*"|under [0-9a-f-]{36}/g, '(an id)'),
        });
      });
    });
    req.on('error', reject);
    req.end(body);
  });
}
