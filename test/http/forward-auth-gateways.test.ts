import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createOidcVerifier } from '../../src/identity/oidc.ts';
import { newSigningKey, startLoopbackIssuer, type LoopbackIssuer } from '../identity/loopback-issuer.ts';
import { done } from '../support/ledger.ts';
import { textMatching } from '../support/matching.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';
import { sendForwarded, structuredList, type Forwarded, type Sent } from './forwarded-request.ts';
import { openRawConnection } from './raw-connection.ts';

const AUDIENCE = 'https://keyledger.example';

let issuer: LoopbackIssuer;
/** Believes the address that a gateway on loopback forwards. */
let plane: DataPlane;
/** The same ledger behind a server that believes nobody. */
let wary: DataPlane;
let token: string;

beforeAll(async () => {
  issuer = await startLoopbackIssuer(await newSigningKey('ES256', 'one'));
  const oidc = createOidcVerifier({
    issuer: issuer.url,
    audience: AUDIENCE,
    organizationClaim: 'organization',
    roleClaim: 'role',
    fetchTimeoutMs: 2000,
    cooldownMs: 0,
  });
  plane = await openDataPlane({ trustedProxies: ['127.0.0.1/32', '10.0.0.0/8'], oidc });
  wary = await openDataPlane({ on: plane.ledger });
  token = (await plane.newToken(['keys:verify'])).secret;
});
afterAll(async () => {
  await wary.close();
  await plane.close();
  await issuer.goDown();
});

const forward = (headers: Readonly<Record<string, string>>, sent: Sent = {}): Promise<Forwarded> =>
  sendForwarded(plane, token, headers, sent);

/** What the log has of the request that was answered. */
async function recorded({ headers }: Forwarded) {
  const position = BigInt(String(headers.get('x-key-request-id')).replace('req_', ''));
  const row = await plane.ledger.db
    .selectFrom('usage_events')
    .select(['endpoint', 'ip', 'credits'])
    .where('position', '=', position)
    .executeTakeFirstOrThrow();
  return { endpoint: row.endpoint, ip: row.ip === null ? null : String(row.ip), credits: Number(row.credits) };
}

describe('any method, with any body', () => {
  it.each(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'])('is taken: %s', async (method) => {
    const { secret } = await plane.ledger.newKey();
    expect((await forward({ 'x-api-key': secret }, { method })).status).toBe(200);
    expect((await forward({ 'x-api-key': secret }, { method, path: '/v1/forward-auth/a' })).status).toBe(200);
  });

  it('is taken: HEAD, which has no body even when refused', async () => {
    expect(await forward({ 'x-api-key': 'x' }, { method: 'HEAD' })).toMatchObject({ status: 401, body: '' });
  });

  it('is read past the body, which is no JSON and compressed, and the connection goes on', async () => {
    const { secret } = await plane.ledger.newKey();
    const connection = await openRawConnection(plane.port);
    const body = 'x'.repeat(200_000);
    const request = (content: string) =>
      `POST /v1/forward-auth HTTP/1.1\r\nhost: k\r\nx-gateway-token: ${token}\r\nx-api-key: ${secret}\r\ncontent-encoding: gzip\r\ncontent-length: ${content.length}\r\n\r\n${content}`;
    connection.write(request(body));
    await connection.until('HTTP/1.1 200 OK');
    connection.write(request('').replace('POST', 'DELETE'));
    await expect.poll(() => connection.received().match(/HTTP\/1\.1 200 OK/g)?.length, { timeout: 5000 }).toBe(2);
    connection.socket.destroy();
  });

  it('is cut off where the body never ends', async () => {
    const { secret } = await plane.ledger.newKey();
    const connection = await openRawConnection(plane.port);
    connection.write(
      `POST /v1/forward-auth HTTP/1.1\r\nhost: k\r\nx-gateway-token: ${token}\r\nx-api-key: ${secret}\r\ntransfer-encoding: chunked\r\n\r\n`,
    );
    const chunk = 'x'.repeat(256 * 1024);
    const total = 64;
    let sent = 0;
    while (sent < total && !connection.socket.destroyed) {
      sent++;
      connection.write(`${chunk.length.toString(16)}\r\n${chunk}\r\n`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await connection.ended();
    expect(connection.socket.destroyed).toBe(true);
  });

  it('leaves paths that only begin alike alone', async () => {
    expect((await forward({}, { path: '/v1/forward-authority' })).status).toBe(404);
    expect((await forward({}, { path: '/v1/forward-aut' })).status).toBe(404);
  });
});

describe('the original request', () => {
  async function endpointOf(headers: Readonly<Record<string, string>>, sent: Sent = {}): Promise<string | null> {
    const { secret } = await plane.ledger.newKey();
    return (await recorded(await forward({ 'x-api-key': secret, ...headers }, sent))).endpoint;
  }

  it.each<[string, Readonly<Record<string, string>>, string | null]>([
    [
      'X-Forwarded-Method and -Uri',
      { 'x-forwarded-method': 'PATCH', 'x-forwarded-uri': '/v1/models/7?secret=CANARY' },
      'PATCH /v1/models/7',
    ],
    ['X-Original-Method and -URI', { 'x-original-method': 'DELETE', 'x-original-uri': '/v1/models/7' }, 'DELETE /v1/models/7'],
    [
      'X-Original-URL',
      { 'x-original-method': 'GET', 'x-original-url': 'https://user:CANARY@api.example/v1/models?secret=CANARY#CANARY' },
      'GET /v1/models',
    ],
    ['an origin alone', { 'x-original-method': 'GET', 'x-original-url': 'https://api.example' }, 'GET /'],
    ['no method', { 'x-original-uri': '/v1/models' }, '/v1/models'],
    ['a method that is none', { 'x-forwarded-method': 'GET /x', 'x-forwarded-uri': '/y' }, '/y'],
    ['bytes beyond ASCII', { 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/caf\u00e9 x' }, 'GET /caf%C3%A9%20x'],
    [
      'both, and they agree',
      { 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/a?b', 'x-original-url': 'http://h/a?c', 'x-original-method': 'GET' },
      'GET /a',
    ],
    ['both, of which one must be the client’s', { 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/a', 'x-original-uri': '/b' }, null],
    ['a URI that is no path', { 'x-forwarded-method': 'OPTIONS', 'x-forwarded-uri': '*' }, null],
    ['nothing', {}, null],
  ])('is recorded without its query, told by %s', async (_how, headers, endpoint) => {
    expect(await endpointOf(headers)).toBe(endpoint);
  });

  it('is recorded with 256 characters of its path at most', async () => {
    expect(await endpointOf({ 'x-forwarded-method': 'GET', 'x-forwarded-uri': `/${'a'.repeat(5000)}` })).toBe(`GET /${'a'.repeat(251)}`);
  });

  it('4.5 is what follows in the path, where a gateway appends its target', async () => {
    expect(await endpointOf({}, { method: 'POST', path: '/v1/forward-auth/v1/models?secret=CANARY', body: '{}' })).toBe('POST /v1/models');
    expect(await endpointOf({}, { path: '/v1/forward-auth/' })).toBe('GET /');
  });

  it('has the address that the trusted proxy saw, and not what stands left of it', async () => {
    const { secret } = await plane.ledger.newKey({ ipAllowlist: ['192.0.2.7/32'] });
    const from = (value: string, on?: DataPlane) =>
      forward({ 'x-api-key': secret, 'x-forwarded-for': value }, on === undefined ? {} : { on });
    const passed = await from('192.0.2.7');
    expect(passed.status).toBe(200);
    expect((await recorded(passed)).ip).toBe('192.0.2.7');
    expect((await from('203.0.113.7, 192.0.2.7:4711, 10.1.2.3')).status).toBe(200);
    expect((await from('192.0.2.7, 203.0.113.7')).headers.get('x-auth-code')).toBe('IP_NOT_ALLOWED');
    // The same header by a peer that is no trusted proxy says nothing.
    expect((await from('192.0.2.7', wary)).headers.get('x-auth-code')).toBe('IP_NOT_ALLOWED');
  });

  it('has no address where none is told: a gateway is not blocked for what its clients do', async () => {
    const { secret } = await plane.ledger.newKey({ ipAllowlist: ['127.0.0.1/32'] });
    expect((await forward({ 'x-api-key': secret })).headers.get('x-auth-code')).toBe('IP_NOT_ALLOWED');
    const guesses = Array.from({ length: 25 }, (_, index) => index);
    for (const on of [plane, wary]) {
      await Promise.all(
        guesses.map((guess) =>
          forward({ 'x-api-key': `sk_live_${guess}`, ...(on === wary ? { 'x-forwarded-for': '192.0.2.99' } : {}) }, { on }),
        ),
      );
    }
    const free = await plane.ledger.newKey();
    expect((await forward({ 'x-api-key': free.secret })).status).toBe(200);
    expect((await forward({ 'x-api-key': free.secret }, { on: wary })).status).toBe(200);
  });
});

describe("a gateway's options", () => {
  it('stand in the query of the exact path', async () => {
    const { secret } = await plane.ledger.newKey({ permissions: ['read:x'], quotas: { total: 10 } });
    const answer = await forward({ 'x-api-key': secret }, { path: '/v1/forward-auth?permissions=read:x&cost=3&environment=live' });
    expect(answer.status).toBe(200);
    expect((await recorded(answer)).credits).toBe(3);
    const asked = await forward({ 'x-api-key': secret }, { path: '/v1/forward-auth?cost=0' });
    expect(structuredList(asked.headers.get('ratelimit'))).toEqual({ total: { r: 7 } });
  });

  it('stand after the token as well, where a path below leaves the query to the end client', async () => {
    const { secret } = await plane.ledger.newKey({ permissions: ['read:x'], quotas: { total: 10 } });
    const path = '/v1/forward-auth/v1/models?cost=0&permissions=&dialect=nonsense';
    const answer = await forward({ 'x-api-key': secret }, { path, gateway: `${token} cost=2&permissions=read:x` });
    expect({ status: answer.status, ...(await recorded(answer)) }).toMatchObject({ status: 200, credits: 2, endpoint: 'GET /v1/models' });
    expect((await forward({ 'x-api-key': secret }, { path, gateway: `${token} permissions=write:x` })).headers.get('x-auth-code')).toBe(
      'PERMISSION_DENIED',
    );
    expect((await forward({ 'x-api-key': secret }, { path, gateway: `${token} permissions=write:x&dialect=nginx&cost=11` })).status).toBe(
      403,
    );
  });

  it.each([
    ['an option that is not known', '/v1/forward-auth?permission=write:x', {}],
    ['a permission that is empty', '/v1/forward-auth?permissions=', {}],
    ['a permission that is none', '/v1/forward-auth?permissions=read%20x', {}],
    ['a cost that is none', '/v1/forward-auth?cost=two', {}],
    ['an empty cost', '/v1/forward-auth?cost=', {}],
    ['a cost that is too high', '/v1/forward-auth?cost=1000001', {}],
    ['a cost twice', '/v1/forward-auth?cost=1&cost=0', {}],
    ['another environment', '/v1/forward-auth?environment=staging', {}],
    ['another dialect', '/v1/forward-auth?dialect=apache', {}],
    ["the end client's query in place of its own", '/v1/forward-auth?cost=0', { 'x-forwarded-uri': '/v1/models?cost=0' }],
    ['options in the query of a path below', '/v1/forward-auth/x?permissions=write:x', { 'x-forwarded-uri': '/v1/models?a=b' }],
  ])('with %s are its fault, told with 502 and without what was given, and nobody passes', async (_what, path, headers) => {
    const { secret } = await plane.ledger.newKey();
    const answer = await forward({ 'x-api-key': secret, ...headers }, { path });
    expect({ status: answer.status, code: answer.headers.get('x-auth-code'), body: answer.body }).toEqual({
      status: 502,
      code: 'BAD_USER_INPUT',
      body: textMatching(/^\{"error":"Gateway refused: .+\."\}$/),
    });
    expect(answer.headers.has('www-authenticate')).toBe(false);
  });
});

describe('a gateway that may not ask', () => {
  it.each([
    ['without a token', null],
    ['with an empty one', ''],
    ['with one that is not known', 'klat_unknown'],
    ['with a JWT that nobody signed', 'eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.'],
  ])('%s gets 502, so that it does not look like a bad key', async (_how, gateway) => {
    const { secret } = await plane.ledger.newKey();
    for (const path of ['/v1/forward-auth', '/v1/forward-auth?dialect=nginx', '/v1/forward-auth/x']) {
      const answer = await forward({ 'x-api-key': secret, authorization: `Bearer ${token}` }, { gateway, path });
      expect({ status: answer.status, code: answer.headers.get('x-auth-code') }).toEqual({ status: 502, code: 'UNAUTHENTICATED' });
      expect(answer.headers.has('www-authenticate')).toBe(false);
    }
  });

  it('with a token that was revoked is refused from then on', async () => {
    const { tokenId, secret } = await plane.newToken(['keys:verify']);
    const key = await plane.ledger.newKey();
    expect((await forward({ 'x-api-key': key.secret }, { gateway: secret })).status).toBe(200);
    done(await plane.ledger.tokens.revoke(plane.ledger.owner, { id: tokenId }));
    expect((await forward({ 'x-api-key': key.secret }, { gateway: secret })).status).toBe(502);
  });

  it('without keys:verify is told so', async () => {
    const { secret } = await plane.newToken(['usage:write']);
    const answer = await forward({ 'x-api-key': 'x' }, { gateway: secret });
    expect(answer).toMatchObject({ status: 502, body: textMatching("'keys:verify'") });
    expect(answer.headers.get('x-auth-code')).toBe('FORBIDDEN');
  });

  it('is logged once a second at most, and never with a secret', async () => {
    const before = wary.logged.length;
    await Promise.all(
      Array.from({ length: 20 }, () =>
        forward({ 'x-api-key': 'sk_live_CANARY' }, { on: wary, gateway: 'klat_CANARY', path: '/v1/forward-auth?dialect=nginx' }),
      ),
    );
    const lines = wary.logged.slice(before);
    const faults = lines.filter((line) => line.includes('a gateway was refused'));
    expect(faults.length).toBeGreaterThan(0);
    expect(faults.length).toBeLessThan(10);
    expect(lines.join('')).not.toContain('CANARY');
  });

  it('may have a JWT of the OIDC provider whose role verifies', async () => {
    const { secret } = await plane.ledger.newKey();
    const jwt = (role: string) => issuer.token({ audience: AUDIENCE, claims: { organization: plane.ledger.organization.id, role } });
    expect((await forward({ 'x-api-key': secret }, { gateway: `${await jwt('OWNER')} cost=1` })).status).toBe(200);
    const refused = await forward({ 'x-api-key': secret }, { gateway: await jwt('AUDITOR') });
    expect({ status: refused.status, code: refused.headers.get('x-auth-code') }).toEqual({ status: 502, code: 'FORBIDDEN' });
  });
});
