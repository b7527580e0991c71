import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { headerText } from '../../src/http/key-headers.ts';
import { createOidcVerifier } from '../../src/identity/oidc.ts';
import { newSigningKey, startLoopbackIssuer, type LoopbackIssuer } from '../identity/loopback-issuer.ts';
import { done, openTestLedger } from '../support/ledger.ts';
import { textMatching } from '../support/matching.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';
import { openRawConnection } from './raw-connection.ts';

const AUDIENCE = 'https://keyledger.example';
const LATER = new Date(Date.now() + 3_600_000).toISOString();

let issuer: LoopbackIssuer;
/** Believes the address that a gateway on loopback forwards. */
let plane: DataPlane;
/** The same ledger behind a server that believes nobody. */
let wary: DataPlane;
let token: string;

beforeAll(async () => {
  issuer = await startLoopbackIssuer(await newSigningKey('ES256', 'one'));
  const oidc = createOidcVerifier({ issuer: issuer.url, audience: AUDIENCE, organizationClaim: 'organization', roleClaim: 'role', fetchTimeoutMs: 2000, cooldownMs: 0 });
  plane = await openDataPlane({ trustedProxies: ['127.0.0.1/32', '10.0.0.0/8'], oidc });
  wary = await openDataPlane({ on: plane.ledger });
  token = (await plane.newToken(['keys:verify'])).secret;
});
afterAll(async () => {
  await wary.close();
  await plane.close();
  await issuer.goDown();
});

type Forwarded = { readonly status: number; readonly headers: ReadonlyMap<string, string>; readonly body: string };
type Sent = { readonly on?: DataPlane; readonly method?: string; readonly path?: string; readonly body?: string; readonly gateway?: string | null };

/** One request as a gateway would forward it, over a socket, with these headers as they stand. */
async function forward(headers: Readonly<Record<string, string>>, { on = plane, method = 'GET', path = '/v1/forward-auth', body, gateway = token }: Sent = {}): Promise<Forwarded> {
  const connection = await openRawConnection(on.port);
  const sent = { host: 'keyledger', connection: 'close', ...(gateway === null ? {} : { 'x-gateway-token': gateway }), ...(body === undefined ? {} : { 'content-length': String(body.length) }), ...headers };
  const lines = Object.entries(sent).map(([name, value]) => `${name}: ${value}\r\n`);
  connection.write(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body ?? ''}`);
  const [head = '', ...rest] = (await connection.ended()).split('\r\n\r\n');
  const [statusLine = '', ...answered] = head.split('\r\n');
  const pairs = answered.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()] as const);
  expect(new Set(pairs.map(([name]) => name)).size).toBe(pairs.length);
  return { status: Number(statusLine.split(' ')[1]), headers: new Map(pairs), body: rest.join('\r\n\r\n') };
}

/** What the log has of the request that was answered. */
async function recorded({ headers }: Forwarded) {
  const position = BigInt(String(headers.get('x-key-request-id')).replace('req_', ''));
  const row = await plane.ledger.db.selectFrom('usage_events').select(['endpoint', 'ip', 'credits']).where('position', '=', position).executeTakeFirstOrThrow();
  return { endpoint: row.endpoint, ip: row.ip === null ? null : String(row.ip), credits: Number(row.credits) };
}

function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

/** A list of structured fields (RFC 9651) whose items are strings with integers as parameters. */
function structuredList(text: string | undefined): Readonly<Record<string, Readonly<Record<string, number>>>> {
  const items = String(text).split(', ');
  return Object.fromEntries(
    items.map((item) => {
      const parts = /^"([a-z_]+)"((?:;[a-z]+=\d{1,15})*)$/.exec(item);
      if (parts === null) throw new Error(`${item} is no item of a structured field`);
      const parameters = [...String(parts[2]).matchAll(/;([a-z]+)=(\d+)/g)].map(([, name, value]) => [String(name), Number(value)] as const);
      return [String(parts[1]), Object.fromEntries(parameters)];
    }),
  );
}

describe('a key that may pass', () => {
  it('is told with 200, nothing in the body, and all that the service behind needs in headers', async () => {
    const { keyId, secret } = await plane.ledger.newKey({ name: 'Checkout', permissions: ['read:x', 'write:x'] });
    const answer = await forward({ 'x-api-key': secret });
    expect(answer).toMatchObject({ status: 200, body: '' });
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      'x-key-id': keyId,
      'x-key-name': 'Checkout',
      'x-key-organization': plane.ledger.organization.id,
      'x-key-permissions': 'read:x,write:x',
      'x-key-profile': '',
      'x-key-outdated': '',
      'x-key-request-id': textMatching(/^req_\d+$/),
      'content-length': '0',
      'cache-control': 'no-store',
    });
    for (const name of ['x-ratelimit-limit', 'ratelimit', 'ratelimit-policy', 'retry-after', 'x-auth-code', 'www-authenticate']) expect(answer.headers.has(name)).toBe(false);
  });

  it.each(['Bearer', 'bearer'])('may come as Authorization: %s', async (scheme) => {
    const { secret } = await plane.ledger.newKey();
    expect((await forward({ authorization: `${scheme} ${secret}` })).status).toBe(200);
  });

  it('is read from X-Api-Key where both are sent, as Authorization may be meant for the service behind', async () => {
    const { secret } = await plane.ledger.newKey();
    expect((await forward({ 'x-api-key': secret, authorization: 'Bearer something-else' })).status).toBe(200);
    expect((await forward({ 'x-api-key': '', authorization: `Bearer ${secret}` })).status).toBe(200);
    expect((await forward({ 'x-api-key': 'something-else', authorization: `Bearer ${secret}` })).status).toBe(401);
  });

  it('is told of its limits by X-RateLimit-* and by the structured fields', async () => {
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 60 }, quotas: { daily: 1000, total: 5000 } });
    const { headers } = await forward({ 'x-api-key': secret });
    expect(headers.get('x-ratelimit-limit')).toBe('60');
    expect(headers.get('x-ratelimit-remaining')).toBe('59');
    const inSeconds = Number(headers.get('x-ratelimit-reset')) - nowSeconds();
    expect(inSeconds).toBeGreaterThan(50);
    expect(inSeconds).toBeLessThanOrEqual(62);
    expect(structuredList(headers.get('ratelimit-policy'))).toEqual({ key_minute: { q: 60, w: 60 }, daily: { q: 1000, w: 86_400 }, total: { q: 5000 } });
    expect(structuredList(headers.get('ratelimit'))).toMatchObject({ key_minute: { r: 59, t: expect.any(Number) as unknown }, daily: { r: 999 }, total: { r: 4999 } });
  });

  it('has a name that is percent-encoded where it is not printable ASCII, and comes back whole', async () => {
    const name = 'Ключ 100% ✓';
    const { secret } = await plane.ledger.newKey({ name });
    const told = String((await forward({ 'x-api-key': secret })).headers.get('x-key-name'));
    expect(told).toMatch(/^[\x20-\x7e]+$/);
    expect(decodeURIComponent(told)).toBe(name);
  });

  it.each(['a\r\nX-Key-Id: other', 'a\0b', 'a\u2028b', 'lone \ud800'])('can not break out of a header with the name %j', (name) => {
    expect(headerText(name)).toMatch(/^[\x20-\x7e]+$/);
    expect(decodeURIComponent(headerText(name))).toBe(name.toWellFormed());
  });

  it('is told apart where its secret was regenerated and works only for a while', async () => {
    const { keyId, secret } = await plane.ledger.newKey();
    done(await plane.ledger.keys.regenerate(plane.ledger.owner, { id: keyId, overlapUntil: LATER }));
    expect((await forward({ 'x-api-key': secret })).headers.get('x-key-outdated')).toBe('true');
  });

  it('has a request id under which its usage is settled', async () => {
    const { secret } = await plane.ledger.newKey();
    const requestId = (await forward({ 'x-api-key': secret })).headers.get('x-key-request-id');
    const reporter = await plane.newToken(['usage:write']);
    const item = { requestId, endpoint: 'GET /', status: 200, durationMs: 4 };
    expect(await plane.post('/v1/usage', item, { token: reporter.secret })).toMatchObject({ status: 200, body: { accepted: 1, duplicates: 0 } });
    expect(await plane.post('/v1/usage', item, { token: reporter.secret })).toMatchObject({ status: 200, body: { accepted: 0, duplicates: 1 } });
  });
});

type Made = { readonly secret: string; readonly keyId: string };
type Case = {
  readonly code: string;
  readonly status: number;
  readonly message: string;
  readonly key?: Readonly<Record<string, unknown>>;
  readonly before?: (made: Made) => Promise<unknown>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly path?: string;
};

const REFUSALS: readonly Case[] = [
  { code: 'INVALID_KEY', status: 401, message: 'Invalid API Key', headers: { 'x-api-key': 'sk_live_nonsense' } },
  { code: 'INVALID_KEY', status: 401, message: 'Invalid API Key', headers: { 'x-api-key': '' } },
  { code: 'INVALID_KEY', status: 401, message: 'Invalid API Key', headers: { 'x-api-key': 'x'.repeat(2000) } },
  { code: 'INVALID_KEY', status: 401, message: 'Invalid API Key', headers: { 'x-api-key': 'clé\t✓' } },
  { code: 'INACTIVE', status: 401, message: 'Inactive API Key', before: async ({ keyId }) => done(await plane.ledger.keys.deactivate(plane.ledger.owner, { id: keyId })) },
  {
    code: 'EXPIRED',
    status: 401,
    message: 'Expired API Key',
    key: { get expiresAt() { return new Date(Date.now() + 200).toISOString(); } },
    before: ({ secret }) => expect.poll(async () => (await plane.ledger.verify(secret, { cost: 0 })), { timeout: 5000 }).toMatchObject({ code: 'EXPIRED' }),
  },
  { code: 'PERMISSION_DENIED', status: 403, message: 'Permission denied', key: { permissions: ['read:x'] }, path: '/v1/forward-auth?permissions=read:x,write:x' },
  { code: 'PERMISSION_DENIED', status: 403, message: 'Permission denied', key: { permissions: ['read:x'] }, path: '/v1/forward-auth?permissions=read:x&permissions=write:x' },
  { code: 'WRONG_ENVIRONMENT', status: 403, message: 'Wrong environment', path: '/v1/forward-auth?environment=test' },
  { code: 'IP_NOT_ALLOWED', status: 403, message: 'IP not allowed', key: { ipAllowlist: ['192.0.2.0/24'] }, headers: { 'x-forwarded-for': '203.0.113.7' } },
  { code: 'ORIGIN_NOT_ALLOWED', status: 403, message: 'Origin not allowed', key: { allowedOrigins: ['https://app.example'] }, headers: { origin: 'https://evil.example' } },
  {
    code: 'IP_BLOCKED',
    status: 403,
    message: 'IP temporarily blocked',
    headers: { 'x-forwarded-for': '203.0.113.66' },
    before: () => Promise.all(Array.from({ length: 20 }, (_, index) => forward({ 'x-api-key': `sk_live_${index}`, 'x-forwarded-for': '203.0.113.66' }))),
  },
  { code: 'QUOTA_EXCEEDED', status: 429, message: 'Rate limit exceeded: quota weekly', key: { quotas: { weekly: 2 } }, path: '/v1/forward-auth?cost=3' },
  { code: 'RATE_LIMITED', status: 429, message: 'Rate limit exceeded', key: { limits: { requestsPerMinute: 2 } }, path: '/v1/forward-auth?cost=3' },
];

describe('a request that may not pass', () => {
  it.each(REFUSALS)('is refused with the status for the end client: $code, $message', async ({ code, status, message, key = {}, before, headers = {}, path = '/v1/forward-auth' }) => {
    const made = await plane.ledger.newKey(key);
    await before?.(made);
    const sent = { 'x-api-key': made.secret, ...headers };
    const answer = await forward(sent, { path });
    expect({ status: answer.status, body: answer.body }).toEqual({ status, body: JSON.stringify({ error: message }) });
    expect(answer.headers.get('x-auth-code')).toBe(code);
    expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8');
    expect([...answer.headers.keys()].filter((name) => name.startsWith('x-key-'))).toEqual([]);
    expect(answer.headers.get('www-authenticate')).toBe(status === 401 ? `Bearer error="invalid_token", error_description="${message}"` : undefined);

    const forNginx = await forward(sent, { path: `${path}${path.includes('?') ? '&' : '?'}dialect=nginx` });
    expect(forNginx.status).toBe(status === 401 ? 401 : 403);
    expect(forNginx.body).toBe(answer.body);
    expect([forNginx.headers.get('x-auth-code'), forNginx.headers.get('x-auth-status'), forNginx.headers.get('x-auth-message')]).toEqual([code, String(status), message]);
    expect(forNginx.headers.has('www-authenticate')).toBe(status === 401);
  });

  it('is asked for a key where it has none', async () => {
    const answer = await forward({});
    expect(answer).toMatchObject({ status: 401, body: '{"error":"Invalid API Key"}' });
    expect(answer.headers.get('www-authenticate')).toBe('Bearer');
  });

  it('of another organization finds no key', async () => {
    const other = await plane.ledger.newOrganization('Other');
    const { secret } = await plane.ledger.newKey({}, other.owner);
    expect(await forward({ 'x-api-key': secret })).toMatchObject({ status: 401, body: '{"error":"Invalid API Key"}' });
  });

  it('by a rate limit is told when to come again', async () => {
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 1 }, quotas: { daily: 10 } });
    expect((await forward({ 'x-api-key': secret })).status).toBe(200);
    const { status, headers } = await forward({ 'x-api-key': secret });
    expect(status).toBe(429);
    const retryAfter = Number(headers.get('retry-after'));
    expect(retryAfter).toBeGreaterThan(0);
    expect(retryAfter).toBeLessThanOrEqual(61);
    expect(headers.get('x-ratelimit-limit')).toBe('1');
    expect(headers.get('x-ratelimit-remaining')).toBe('0');
    expect(Number(headers.get('x-ratelimit-reset'))).toBeGreaterThan(nowSeconds());
    // Another window must not end before Retry-After, so only that of the limit that refused is told.
    expect(structuredList(headers.get('ratelimit'))).toEqual({ key_minute: { r: 0, t: retryAfter }, daily: { r: 9 } });
  });

  it('by a quota is told of that quota', async () => {
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 60 }, quotas: { daily: 1 } });
    await forward({ 'x-api-key': secret });
    const { status, headers } = await forward({ 'x-api-key': secret });
    expect(status).toBe(429);
    const retryAfter = Number(headers.get('retry-after'));
    expect(retryAfter).toBeGreaterThan(80_000);
    expect([headers.get('x-ratelimit-limit'), headers.get('x-ratelimit-remaining')]).toEqual(['1', '0']);
    expect(Math.abs(Number(headers.get('x-ratelimit-reset')) - nowSeconds() - retryAfter)).toBeLessThanOrEqual(5);
    expect(structuredList(headers.get('ratelimit'))).toEqual({ key_minute: { r: 59 }, daily: { r: 0, t: retryAfter } });
  });

  it('for all time is not told to come again', async () => {
    const { secret } = await plane.ledger.newKey({ quotas: { total: 1 } });
    await forward({ 'x-api-key': secret });
    const { status, headers } = await forward({ 'x-api-key': secret });
    expect({ status, retryAfter: headers.get('retry-after'), reset: headers.get('x-ratelimit-reset') }).toEqual({ status: 429, retryAfter: undefined, reset: undefined });
    expect(headers.get('x-ratelimit-remaining')).toBe('0');
  });

  it("by its organization's cap is told when to come again, and its key's own numbers", async () => {
    const other = await plane.ledger.newOrganization('Capped');
    done(await plane.ledger.organizations.changePlan(null, { organizationId: other.id, plan: 'ENTERPRISE', caps: { requestsPerMinute: 1 } }));
    const gateway = String(done(await plane.ledger.tokens.create(other.owner, { organizationId: other.id, name: 'gateway', permissions: ['keys:verify'] })).secret?.reveal());
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 60 } }, other.owner);
    expect((await forward({ 'x-api-key': secret }, { gateway })).status).toBe(200);
    const { status, headers } = await forward({ 'x-api-key': secret }, { gateway });
    expect({ status, code: headers.get('x-auth-code') }).toEqual({ status: 429, code: 'RATE_LIMITED' });
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
  });
});

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
    connection.write(`POST /v1/forward-auth HTTP/1.1\r\nhost: k\r\nx-gateway-token: ${token}\r\nx-api-key: ${secret}\r\ntransfer-encoding: chunked\r\n\r\n`);
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
    ['X-Forwarded-Method and -Uri', { 'x-forwarded-method': 'PATCH', 'x-forwarded-uri': '/v1/models/7?secret=CANARY' }, 'PATCH /v1/models/7'],
    ['X-Original-Method and -URI', { 'x-original-method': 'DELETE', 'x-original-uri': '/v1/models/7' }, 'DELETE /v1/models/7'],
    ['X-Original-URL', { 'x-original-method': 'GET', 'x-original-url': 'https://user:CANARY@api.example/v1/models?secret=CANARY#CANARY' }, 'GET /v1/models'],
    ['an origin alone', { 'x-original-method': 'GET', 'x-original-url': 'https://api.example' }, 'GET /'],
    ['no method', { 'x-original-uri': '/v1/models' }, '/v1/models'],
    ['a method that is none', { 'x-forwarded-method': 'GET /x', 'x-forwarded-uri': '/y' }, '/y'],
    ['bytes beyond ASCII', { 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/caf\u00e9 x' }, 'GET /caf%C3%A9%20x'],
    ['both, and they agree', { 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/a?b', 'x-original-url': 'http://h/a?c', 'x-original-method': 'GET' }, 'GET /a'],
    ['both, of which one must be the client’s', { 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/a', 'x-original-uri': '/b' }, null],
    ['a URI that is no path', { 'x-forwarded-method': 'OPTIONS', 'x-forwarded-uri': '*' }, null],
    ['nothing', {}, null],
  ])('is recorded without its query, told by %s', async (_how, headers, endpoint) => {
    expect(await endpointOf(headers)).toBe(endpoint);
  });

  it('is recorded with 256 characters of its path at most', async () => {
    expect(await endpointOf({ 'x-forwarded-method': 'GET', 'x-forwarded-uri': `/${'a'.repeat(5000)}` })).toBe(`GET /${'a'.repeat(251)}`);
  });

  it('is what follows in the path, where a gateway appends its target', async () => {
    expect(await endpointOf({}, { method: 'POST', path: '/v1/forward-auth/v1/models?secret=CANARY', body: '{}' })).toBe('POST /v1/models');
    expect(await endpointOf({}, { path: '/v1/forward-auth/' })).toBe('GET /');
  });

  it('has the address that the trusted proxy saw, and not what stands left of it', async () => {
    const { secret } = await plane.ledger.newKey({ ipAllowlist: ['192.0.2.7/32'] });
    const from = (value: string, on?: DataPlane) => forward({ 'x-api-key': secret, 'x-forwarded-for': value }, on === undefined ? {} : { on });
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
      await Promise.all(guesses.map((guess) => forward({ 'x-api-key': `sk_live_${guess}`, ...(on === wary ? { 'x-forwarded-for': '192.0.2.99' } : {}) }, { on })));
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
    expect((await forward({ 'x-api-key': secret }, { path, gateway: `${token} permissions=write:x` })).headers.get('x-auth-code')).toBe('PERMISSION_DENIED');
    expect((await forward({ 'x-api-key': secret }, { path, gateway: `${token} permissions=write:x&dialect=nginx&cost=11` })).status).toBe(403);
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
    await Promise.all(Array.from({ length: 20 }, () => forward({ 'x-api-key': 'sk_live_CANARY' }, { on: wary, gateway: 'klat_CANARY', path: '/v1/forward-auth?dialect=nginx' })));
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

it('where the database is gone the answer is 503 with Retry-After, in both dialects, and never a pass', async () => {
  const ledger = await openTestLedger();
  const lost = await openDataPlane({ on: ledger });
  try {
    const { secret } = await ledger.newKey();
    const gateway = String(done(await ledger.tokens.create(ledger.owner, { organizationId: ledger.organization.id, name: 'gateway', permissions: ['keys:verify'] })).secret?.reveal());
    expect((await forward({ 'x-api-key': secret }, { on: lost, gateway })).status).toBe(200);
    await ledger.admission.close();
    for (const path of ['/v1/forward-auth', '/v1/forward-auth?dialect=nginx']) {
      const answer = await forward({ 'x-api-key': secret }, { on: lost, gateway, path });
      expect({ status: answer.status, code: answer.headers.get('x-auth-code'), body: answer.body }).toEqual({ status: 503, code: 'SERVICE_UNAVAILABLE', body: textMatching(/^\{"error":"/) });
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    }
  } finally {
    await lost.close();
    await ledger.close();
  }
});
