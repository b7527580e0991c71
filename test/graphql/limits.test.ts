import { request } from 'node:http';
import { getIntrospectionQuery } from 'graphql';
import WebSocket from 'ws';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { openSocket } from './bare-socket.ts';
import { at } from './at.ts';
import { CONTRACT } from './contract-documents.ts';
import { eventually, openTestGraphql, randomName, type TestGraphql } from './graphql-server.ts';

const MAX_BODY = 20_000;

describe('limits', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql({
      maxBodyBytes: MAX_BODY,
      keyOperationsPerHour: 3,
      allowedOrigins: ['https://console.example.com'],
      limits: { maxMessageBytes: 30_000, maxOperationsPerSocket: 3, maxSockets: 4, connectionInitMs: 300 },
    });
  });
  afterAll(() => server.close());

  const codeOf = async (query: string, variables = {}) => (await server.query(query, variables)).errors[0]?.extensions?.['code'];
  const wsUrl = () => server.url.replace('http:', 'ws:');
  const noSockets = () => eventually('all sockets are gone', () => server.followers() === 0);

  describe('over HTTP', () => {
    it('a body above the cap is refused with 413, whether or not it tells its length', async () => {
      const body = JSON.stringify({ query: '{ viewer { actorId } }', variables: { padding: 'x'.repeat(MAX_BODY) } });
      const told = await server.post(body, server.ownerToken);
      expect(told.status).toBe(413);
      expect(await told.json()).toMatchObject({ errors: [{ extensions: { code: 'BAD_USER_INPUT' } }] });
      expect(await chunked(server.url, server.ownerToken, body)).toMatchObject({ status: 413 });
    });

    it('a body below the cap is taken, whether or not it tells its length', async () => {
      const body = JSON.stringify({ query: '{ viewer { role } }' });
      expect(await (await server.post(body, server.ownerToken)).json()).toEqual({ data: { viewer: { role: 'OWNER' } } });
      expect(await chunked(server.url, server.ownerToken, body)).toEqual({ status: 200, body: '{"data":{"viewer":{"role":"OWNER"}}}' });
    });

    it('a document has a limited number of tokens', async () => {
      expect(await codeOf(`{ ${'node '.repeat(2100)} }`)).toBe('QUERY_TOO_COMPLEX');
    });

    it('a document has a limited number of aliases', async () => {
      const aliases = (count: number) => `{ ${Array.from({ length: count }, (_, i) => `a${i}: __typename`).join(' ')} }`;
      expect(await codeOf(aliases(50))).toBeUndefined();
      expect(await codeOf(aliases(51))).toBe('QUERY_TOO_COMPLEX');
    });

    it('a selection has a limited depth', async () => {
      const nested = (levels: number): string =>
        levels === 0
          ? 'id'
          : `apiKeys(first: 1) { edges { node { requestLog(first: 1) { edges { node { apiKey { ${levels === 1 ? 'id' : `owner { id } createdBy { member { id } }`} requestLog(first: 1) { edges { node { apiKey { requestLog(first: 1) { edges { node { code } } } } } } } } } } } } } }`;
      expect(await codeOf(`{ viewer { organization { ${nested(2)} } } }`)).toBe('QUERY_TOO_COMPLEX');
    });

    it('an operation can resolve a limited number of fields, pages counted at the size they ask for', async () => {
      const pages = (outer: number, inner: number) =>
        `{ viewer { organization { apiKeys(first: ${outer}) { edges { node { requestLog(first: ${inner}) { edges { node { code } } } } } } } } }`;
      expect(await codeOf(pages(5, 100))).toBeUndefined();
      expect(await codeOf(pages(100, 100))).toBe('QUERY_TOO_COMPLEX');
    });

    it('a page has 100 nodes at most; more is refused and not cut', async () => {
      for (const first of [101, 0, -1])
        expect(await codeOf(CONTRACT.Keys, { organization: server.organizationId, first })).toBe('BAD_USER_INPUT');
      expect(
        await codeOf('query ($ids: [ID!]!) { nodes(ids: $ids) { id } }', { ids: Array.from({ length: 101 }, () => server.organizationId) }),
      ).toBe('BAD_USER_INPUT');
    });

    it('a batch of operations is refused', async () => {
      const response = await server.post([{ query: '{ __typename }' }, { query: '{ __typename }' }], server.ownerToken);
      expect(response.status).toBe(400);
    });

    it('a mutation by GET is refused', async () => {
      const response = await fetch(
        `${server.url}?query=${encodeURIComponent('mutation { verifyApiKey(input: { key: "x" }) { valid } }')}`,
        { headers: { authorization: `Bearer ${server.ownerToken}` } },
      );
      expect(response.status).toBe(405);
    });

    it('key operations are limited by the hour', async () => {
      const create = () =>
        server.query(CONTRACT.CreateApiKey, { input: { organizationId: server.organizationId, name: randomName(), type: 'SECRET' } });
      for (let i = 0; i < 3; i++) expect((await create()).errors).toEqual([]);
      const refused = await create();
      expect(refused.errors[0]?.extensions).toMatchObject({ code: 'RATE_LIMITED' });
      expect(refused.errors[0]?.extensions?.['retryAfter']).toBeGreaterThan(3500);
    });

    it('ids, cursors, positions, periods and moments that make no sense are the fault of the client', async () => {
      const bad: readonly [string, Readonly<Record<string, unknown>>][] = [
        ['query ($id: ID!) { node(id: $id) { id } }', { id: 'garbage' }],
        ['query ($id: ID!) { node(id: $id) { id } }', { id: Buffer.from('Nothing:1').toString('base64') }],
        ['query ($id: ID!) { node(id: $id) { id } }', { id: Buffer.from("ApiKey:'; drop table").toString('base64') }],
        [CONTRACT.Keys, { organization: server.organizationId, after: 'garbage' }],
        [CONTRACT.Keys, { organization: server.organizationId, filter: { ownerId: server.organizationId } }],
        [CONTRACT.Log, { organization: server.organizationId, after: '-1' }],
        [CONTRACT.Log, { organization: server.organizationId, after: '1'.repeat(30) }],
        ['{ viewer { organization { usage(from: "2026-01-02T00:00:00Z", to: "2026-01-01T00:00:00Z") { totals { requests } } } } }', {}],
        ['{ viewer { organization { usage(from: "yesterday", to: "2026-01-01T00:00:00Z") { totals { requests } } } } }', {}],
        ['{ viewer { organization { asOf { name } } } }', {}],
        ['{ viewer {', {}],
        ['{ viewer { nothing } }', {}],
        ['query ($a: Int!) { __typename @skip(if: false) }', { a: 'x' }],
      ];
      for (const [query, variables] of bad)
        expect({ query, code: await codeOf(query, variables) }).toEqual({ query, code: 'BAD_USER_INPUT' });
      expect(server.logLines).toEqual([]);
    });

    it('the schema can be introspected without credentials', async () => {
      const { data, errors } = await server.query(getIntrospectionQuery(), {}, null);
      expect(errors).toEqual([]);
      expect(at(data, '__schema.queryType.name')).toBe('Query');
    });

    it('GraphiQL is served from here alone', async () => {
      const response = await fetch(server.url, { headers: { accept: 'text/html' } });
      expect(response.headers.get('content-type')).toContain('text/html');
      const html = await response.text();
      expect(html).toContain('keyledger');
      expect(html.match(/(?:src|href)=["']?https?:[^\s>]*/g) ?? []).toEqual([]);
    });

    it('browsers are told only the listed origins', async () => {
      const preflight = (origin: string) =>
        fetch(server.url, { method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'POST' } });
      const listed = await preflight('https://console.example.com');
      expect(listed.status).toBe(204);
      expect(listed.headers.get('access-control-allow-origin')).toBe('https://console.example.com');
      expect(listed.headers.get('access-control-allow-headers')).toContain('Authorization');
      for (const origin of ['https://evil.example.com', 'null', 'https://console.example.com.evil.com']) {
        expect((await preflight(origin)).headers.get('access-control-allow-origin')).toBeNull();
      }
      const answered = await server.post({ query: '{ __typename }' }, server.ownerToken, { origin: 'https://console.example.com' });
      expect(answered.headers.get('access-control-allow-origin')).toBe('https://console.example.com');
      expect(answered.headers.get('access-control-allow-credentials')).toBeNull();
    });

    it('a cookie is neither set nor believed, so that no other site can act for a browser', async () => {
      const viewer = { query: '{ viewer { role } }' };
      const known = await server.post(viewer, server.ownerToken);
      expect(known.headers.getSetCookie()).toEqual([]);
      expect(await known.json()).toEqual({ data: { viewer: { role: 'OWNER' } } });
      for (const cookie of [
        `token=${server.ownerToken}`,
        `authorization=Bearer ${server.ownerToken}`,
        `Authorization=${server.ownerToken}`,
      ]) {
        const answer = await server.post(viewer, null, { cookie });
        expect(answer.headers.getSetCookie()).toEqual([]);
        expect(await answer.json()).toMatchObject({ errors: [{ extensions: { code: 'UNAUTHENTICATED' } }] });
      }
    });
  });

  describe('over WebSocket', () => {
    const closed = (state: { readonly closeCode: number }) => eventually('the socket is closed', () => state.closeCode !== 0);

    it('without credentials or with bad ones it is closed with 4401', async () => {
      for (const token of [null, 'kl_at_wrong']) {
        const codes: number[] = [];
        server.socketClient(token, { on: { closed: (event) => void codes.push((event as CloseEvent).code) } });
        await eventually('the socket is closed', () => codes.length > 0);
        expect(codes[0]).toBe(4401);
      }
      await noSockets();
    });

    it('a socket that says nothing is closed', async () => {
      const socket = new WebSocket(wsUrl(), 'graphql-transport-ws');
      const code = await new Promise((resolve) => socket.once('close', resolve));
      expect(code).toBe(4408);
    });

    it('a document that can not be read, or is too large, is the affair of one operation', async () => {
      const state = await openSocket(server, server.ownerToken);
      const run = async (id: string, query: string) => {
        state.socket.send(JSON.stringify({ id, type: 'subscribe', payload: { query } }));
        await eventually('the operation is answered', () => state.messages.some((message) => message.id === id));
        return state.messages.find((message) => message.id === id);
      };
      expect(await run('1', '{ viewer {')).toMatchObject({ type: 'error', payload: [{ extensions: { code: 'BAD_USER_INPUT' } }] });
      expect(at(await run('1b', '{ viewer {'), 'payload.0.extensions')).toEqual({ code: 'BAD_USER_INPUT' });
      expect(await run('2', `{ ${'__typename '.repeat(2100)} }`)).toMatchObject({
        type: 'error',
        payload: [{ extensions: { code: 'QUERY_TOO_COMPLEX' } }],
      });
      expect(await run('3', '{ nothing }')).toMatchObject({ type: 'error', payload: [{ extensions: { code: 'BAD_USER_INPUT' } }] });
      expect(await run('4', '{ viewer { role } }')).toMatchObject({ type: 'next', payload: { data: { viewer: { role: 'OWNER' } } } });
      expect(await run('5', '{ viewer { organization { apiKeys(first: 101) { totalCount } } } }')).toMatchObject({
        type: 'next',
        payload: { errors: [{ extensions: { code: 'BAD_USER_INPUT' } }] },
      });
      expect(state.closeCode).toBe(0);
      state.socket.terminate();
      await noSockets();
    });

    it('a message above the cap closes the socket', async () => {
      const state = await openSocket(server, server.ownerToken);
      state.socket.send('x'.repeat(30_001));
      await closed(state);
      expect(state.closeCode).toBe(1009);
      await noSockets();
    });

    it('a socket has a limited number of operations at once', async () => {
      const state = await openSocket(server, server.ownerToken);
      for (const id of ['1', '2', '3', '4'])
        state.socket.send(
          JSON.stringify({
            id,
            type: 'subscribe',
            payload: { query: CONTRACT.Changed, variables: { organization: server.organizationId } },
          }),
        );
      await eventually('one is refused', () => state.messages.some((message) => message.type === 'error'));
      expect(state.messages.filter((message) => message.type === 'error')).toMatchObject([
        { payload: [{ extensions: { code: 'RATE_LIMITED' } }] },
      ]);
      state.socket.terminate();
      await noSockets();
    });

    it('a server has a limited number of sockets', async () => {
      const open = await Promise.all(Array.from({ length: 4 }, () => openSocket(server, server.ownerToken)));
      expect(await upgradeStatus()).toBe(503);
      for (const { socket } of open) socket.terminate();
      await noSockets();
    });

    it('a browser of an origin that is not listed is refused; its own, a listed one and no browser are not', async () => {
      expect(await upgradeStatus('https://evil.example.com')).toBe(403);
      expect(await upgradeStatus('https://console.example.com')).toBe(101);
      expect(await upgradeStatus(new URL(server.url).origin)).toBe(101);
      expect(await upgradeStatus()).toBe(101);
    });

    const upgradeStatus = (origin?: string) =>
      new Promise<number>((resolve, reject) => {
        const socket = new WebSocket(wsUrl(), 'graphql-transport-ws', origin === undefined ? {} : { origin });
        socket.once('open', () => {
          socket.terminate();
          resolve(101);
        });
        socket.once('unexpected-response', (_request, response) => resolve(response.statusCode ?? 0));
        socket.once('error', reject);
      });
  });
});

/** A request whose body comes in chunks without a Content-Length. */
function chunked(url: string, token: string, body: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      url,
      { method: 'POST', headers: { 'content-type': 'application/json', authorization: `Bearer ${token}`, 'transfer-encoding': 'chunked' } },
      (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body: text }));
      },
    );
    sent.on('error', reject);
    for (let at = 0; at < body.length; at += 5000) sent.write(body.slice(at, at + 5000));
    sent.end();
  });
}
