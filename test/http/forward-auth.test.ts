import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { headerText } from '../../src/http/key-headers.ts';
import { done, openTestLedger } from '../support/ledger.ts';
import { textMatching } from '../support/matching.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';
import { sendForwarded, structuredList, type Forwarded, type Sent } from './forwarded-request.ts';

const LATER = new Date(Date.now() + 3_600_000).toISOString();

const MINUTE_MS = 60_000;

let plane: DataPlane;
let token: string;
let clock: TestClock;

beforeAll(async () => {
  plane = await openDataPlane({ trustedProxies: ['127.0.0.1/32'] });
  token = (await plane.newToken(['keys:verify'])).secret;
  clock = await installTestClock(plane.ledger.testDatabase);
});
afterAll(async () => {
  await clock.close();
  await plane.close();
});

const forward = (headers: Readonly<Record<string, string>>, sent: Sent = {}): Promise<Forwarded> =>
  sendForwarded(plane, token, headers, sent);

async function nowSeconds(): Promise<number> {
  return Math.floor((await clock.now()).getTime() / 1000);
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
    for (const name of ['x-ratelimit-limit', 'ratelimit', 'ratelimit-policy', 'retry-after', 'x-auth-code', 'www-authenticate'])
      expect(answer.headers.has(name)).toBe(false);
  });

  it.each(['Bearer', 'bearer'])('may come as Authorization: %s', async (scheme) => {
    const { secret } = await plane.ledger.newKey();
    expect((await forward({ authorization: `${scheme} ${secret}` })).status).toBe(200);
  });

  it('4.1 is read from X-Api-Key where both are sent, as Authorization may be meant for the service behind', async () => {
    const { secret } = await plane.ledger.newKey();
    expect((await forward({ 'x-api-key': secret, authorization: 'Bearer something-else' })).status).toBe(200);
    expect((await forward({ 'x-api-key': '', authorization: `Bearer ${secret}` })).status).toBe(200);
    expect((await forward({ 'x-api-key': 'something-else', authorization: `Bearer ${secret}` })).status).toBe(401);
  });

  it('4.4 is told of its limits by X-RateLimit-* and by the structured fields', async () => {
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 60 }, quotas: { daily: 1000, total: 5000 } });
    const { headers } = await forward({ 'x-api-key': secret });
    expect(headers.get('x-ratelimit-limit')).toBe('60');
    expect(headers.get('x-ratelimit-remaining')).toBe('59');
    const inSeconds = Number(headers.get('x-ratelimit-reset')) - (await nowSeconds());
    expect(inSeconds).toBeGreaterThan(50);
    expect(inSeconds).toBeLessThanOrEqual(62);
    expect(structuredList(headers.get('ratelimit-policy'))).toEqual({
      key_minute: { q: 60, w: 60 },
      daily: { q: 1000, w: 86_400 },
      total: { q: 5000 },
    });
    expect(structuredList(headers.get('ratelimit'))).toMatchObject({
      key_minute: { r: 59, t: expect.any(Number) as unknown },
      daily: { r: 999 },
      total: { r: 4999 },
    });
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
    expect(await plane.post('/v1/usage', item, { token: reporter.secret })).toMatchObject({
      status: 200,
      body: { accepted: 1, duplicates: 0 },
    });
    expect(await plane.post('/v1/usage', item, { token: reporter.secret })).toMatchObject({
      status: 200,
      body: { accepted: 0, duplicates: 1 },
    });
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
  {
    code: 'INACTIVE',
    status: 401,
    message: 'Inactive API Key',
    before: async ({ keyId }) => done(await plane.ledger.keys.deactivate(plane.ledger.owner, { id: keyId })),
  },
  {
    code: 'EXPIRED',
    status: 401,
    message: 'Expired API Key',
    key: {
      get expiresAt() {
        return new Date(Date.now() + MINUTE_MS).toISOString();
      },
    },
    before: () => clock.advance(MINUTE_MS),
  },
  {
    code: 'PERMISSION_DENIED',
    status: 403,
    message: 'Permission denied',
    key: { permissions: ['read:x'] },
    path: '/v1/forward-auth?permissions=read:x,write:x',
  },
  {
    code: 'PERMISSION_DENIED',
    status: 403,
    message: 'Permission denied',
    key: { permissions: ['read:x'] },
    path: '/v1/forward-auth?permissions=read:x&permissions=write:x',
  },
  { code: 'WRONG_ENVIRONMENT', status: 403, message: 'Wrong environment', path: '/v1/forward-auth?environment=test' },
  {
    code: 'IP_NOT_ALLOWED',
    status: 403,
    message: 'IP not allowed',
    key: { ipAllowlist: ['192.0.2.0/24'] },
    headers: { 'x-forwarded-for': '203.0.113.7' },
  },
  {
    code: 'ORIGIN_NOT_ALLOWED',
    status: 403,
    message: 'Origin not allowed',
    key: { allowedOrigins: ['https://app.example'] },
    headers: { origin: 'https://evil.example' },
  },
  {
    code: 'IP_BLOCKED',
    status: 403,
    message: 'IP temporarily blocked',
    headers: { 'x-forwarded-for': '203.0.113.66' },
    before: () =>
      Promise.all(
        Array.from({ length: 20 }, (_, index) => forward({ 'x-api-key': `sk_live_${index}`, 'x-forwarded-for': '203.0.113.66' })),
      ),
  },
  {
    code: 'QUOTA_EXCEEDED',
    status: 429,
    message: 'Rate limit exceeded: quota weekly',
    key: { quotas: { weekly: 2 } },
    path: '/v1/forward-auth?cost=3',
  },
  {
    code: 'RATE_LIMITED',
    status: 429,
    message: 'Rate limit exceeded',
    key: { limits: { requestsPerMinute: 2 } },
    path: '/v1/forward-auth?cost=3',
  },
];

describe('a request that may not pass', () => {
  it.each(REFUSALS)(
    'is refused with the status for the end client: $code, $message',
    async ({ code, status, message, key = {}, before, headers = {}, path = '/v1/forward-auth' }) => {
      const made = await plane.ledger.newKey(key);
      await before?.(made);
      const sent = { 'x-api-key': made.secret, ...headers };
      const answer = await forward(sent, { path });
      expect({ status: answer.status, body: answer.body }).toEqual({ status, body: JSON.stringify({ error: message }) });
      expect(answer.headers.get('x-auth-code')).toBe(code);
      expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8');
      expect([...answer.headers.keys()].filter((name) => name.startsWith('x-key-'))).toEqual([]);
      expect(answer.headers.get('www-authenticate')).toBe(
        status === 401 ? `Bearer error="invalid_token", error_description="${message}"` : undefined,
      );

      const forNginx = await forward(sent, { path: `${path}${path.includes('?') ? '&' : '?'}dialect=nginx` });
      expect(forNginx.status).toBe(status === 401 ? 401 : 403);
      expect(forNginx.body).toBe(answer.body);
      expect([forNginx.headers.get('x-auth-code'), forNginx.headers.get('x-auth-status'), forNginx.headers.get('x-auth-message')]).toEqual([
        code,
        String(status),
        message,
      ]);
      expect(forNginx.headers.has('www-authenticate')).toBe(status === 401);
    },
  );

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
    expect(Number(headers.get('x-ratelimit-reset'))).toBeGreaterThan(await nowSeconds());
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
    expect(Math.abs(Number(headers.get('x-ratelimit-reset')) - Math.floor(Date.now() / 1000) - retryAfter)).toBeLessThanOrEqual(5);
    expect(structuredList(headers.get('ratelimit'))).toEqual({ key_minute: { r: 59 }, daily: { r: 0, t: retryAfter } });
  });

  it('for all time is not told to come again', async () => {
    const { secret } = await plane.ledger.newKey({ quotas: { total: 1 } });
    await forward({ 'x-api-key': secret });
    const { status, headers } = await forward({ 'x-api-key': secret });
    expect({ status, retryAfter: headers.get('retry-after'), reset: headers.get('x-ratelimit-reset') }).toEqual({
      status: 429,
      retryAfter: undefined,
      reset: undefined,
    });
    expect(headers.get('x-ratelimit-remaining')).toBe('0');
  });

  it("by its organization's cap is told when to come again, and its key's own numbers", async () => {
    const other = await plane.ledger.newOrganization('Capped');
    done(
      await plane.ledger.organizations.changePlan(null, { organizationId: other.id, plan: 'ENTERPRISE', caps: { requestsPerMinute: 1 } }),
    );
    const gateway = String(
      done(
        await plane.ledger.tokens.create(other.owner, { organizationId: other.id, name: 'gateway', permissions: ['keys:verify'] }),
      ).secret?.reveal(),
    );
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 60 } }, other.owner);
    expect((await forward({ 'x-api-key': secret }, { gateway })).status).toBe(200);
    const { status, headers } = await forward({ 'x-api-key': secret }, { gateway });
    expect({ status, code: headers.get('x-auth-code') }).toEqual({ status: 429, code: 'RATE_LIMITED' });
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
  });
});

it('where the database is gone the answer is 503 with Retry-After, in both dialects, and never a pass', async () => {
  const ledger = await openTestLedger();
  const lost = await openDataPlane({ on: ledger });
  try {
    const { secret } = await ledger.newKey();
    const gateway = String(
      done(
        await ledger.tokens.create(ledger.owner, { organizationId: ledger.organization.id, name: 'gateway', permissions: ['keys:verify'] }),
      ).secret?.reveal(),
    );
    expect((await forward({ 'x-api-key': secret }, { on: lost, gateway })).status).toBe(200);
    await ledger.admission.close();
    for (const path of ['/v1/forward-auth', '/v1/forward-auth?dialect=nginx']) {
      const answer = await forward({ 'x-api-key': secret }, { on: lost, gateway, path });
      expect({ status: answer.status, code: answer.headers.get('x-auth-code'), body: answer.body }).toEqual({
        status: 503,
        code: 'SERVICE_UNAVAILABLE',
        body: textMatching(/^\{"error":"/),
      });
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    }
  } finally {
    await lost.close();
    await ledger.close();
  }
});
