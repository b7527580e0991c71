import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { verifyAnswerSchema } from '../../src/http/answer-schemas.ts';
import { done } from '../support/ledger.ts';
import { textMatching } from '../support/matching.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { openDataPlane, type Answer, type DataPlane } from './data-plane.ts';
import { structuredList } from './forwarded-request.ts';
import { openRawConnection } from './raw-connection.ts';

let plane: DataPlane;
let token: string;
let clock: TestClock;

const MINUTE_MS = 60_000;

beforeAll(async () => {
  plane = await openDataPlane();
  clock = await installTestClock(plane.ledger.testDatabase);
  token = (await plane.newToken(['keys:verify'])).secret;
});
afterAll(async () => {
  await clock.close();
  await plane.close();
});

function verify(body: unknown, given: string = token): Promise<Answer> {
  return plane.post('/v1/verify', body, { token: given });
}

const LATER = new Date(Date.now() + 3_600_000).toISOString();

describe('POST /v1/verify', () => {
  it('answers a key that may pass with all that a gateway needs, and records the request before', async () => {
    const { keyId, secret } = await plane.ledger.newKey({
      name: 'Checkout',
      permissions: ['read:x', 'write:x'],
      metadata: { team: 'payments', nested: { a: [1, null] } },
      expiresAt: LATER,
      quotas: { daily: 1000 },
      limits: { requestsPerMinute: 60 },
    });
    const { status, headers, body } = await verify({
      key: secret,
      permissions: ['read:x'],
      endpoint: 'GET /v1/models',
      ip: '::ffff:203.0.113.7',
    });
    expect(status).toBe(200);
    expect(headers.get('content-type')).toBe('application/json; charset=utf-8');
    expect(headers.get('cache-control')).toBe('no-store');
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(body).toEqual({
      valid: true,
      code: 'VALID',
      message: null,
      requestId: `req_${String(body['position'])}`,
      position: textMatching(/^\d+$/),
      key: {
        id: keyId,
        name: 'Checkout',
        type: 'SECRET',
        category: 'production',
        permissions: ['read:x', 'write:x'],
        metadata: { team: 'payments', nested: { a: [1, null] } },
        expiresAt: LATER,
        profile: null,
        organizationId: plane.ledger.organization.id,
        ownerId: null,
        outdatedSecret: false,
      },
      rateLimit: { limit: 60, remaining: 59, reset: expect.any(Number) as unknown },
      quotas: [{ window: 'DAILY', limit: 1000, remaining: 999 }],
    });
    expect(verifyAnswerSchema.safeParse(body).error).toBeUndefined();
    const row = await plane.ledger.db
      .selectFrom('usage_events')
      .select(['endpoint', 'ip', 'credits'])
      .where('position', '=', BigInt(String(body['position'])))
      .executeTakeFirstOrThrow();
    expect(row).toMatchObject({ endpoint: 'GET /v1/models', credits: 1 });
    expect(String(row.ip)).toBe('203.0.113.7');
  });

  it.each<
    [
      string,
      (made: { secret: string; keyId: string }) => Promise<Record<string, unknown>>,
      Record<string, unknown>,
      Record<string, unknown>,
    ]
  >([
    ['INVALID_KEY', async () => ({ key: 'sk_live_nonsense' }), {}, { message: 'Invalid API Key', position: null }],
    ['INVALID_KEY', async () => ({ key: '' }), {}, { message: 'Invalid API Key' }],
    ['INVALID_KEY', async ({ secret }) => ({ key: `${secret.slice(0, -1)}${secret.endsWith('a') ? 'b' : 'a'}` }), {}, {}],
    [
      'PERMISSION_DENIED',
      async ({ secret }) => ({ key: secret, permissions: ['write:x'] }),
      { permissions: ['read:x'] },
      { message: 'Permission denied' },
    ],
    ['WRONG_ENVIRONMENT', async ({ secret }) => ({ key: secret, environment: 'test' }), {}, {}],
    ['IP_NOT_ALLOWED', async ({ secret }) => ({ key: secret, ip: '203.0.113.7' }), { ipAllowlist: ['192.0.2.0/24'] }, {}],
    [
      'ORIGIN_NOT_ALLOWED',
      async ({ secret }) => ({ key: secret, origin: 'https://evil.example' }),
      { allowedOrigins: ['https://app.example'] },
      {},
    ],
    [
      'QUOTA_EXCEEDED',
      async ({ secret }) => ({ key: secret, cost: 4 }),
      { quotas: { daily: 3, total: 9 } },
      { quota: 'daily', message: 'Rate limit exceeded: quota daily' },
    ],
    [
      'QUOTA_EXCEEDED',
      async ({ secret }) => ({ key: secret, cost: 4 }),
      { quotas: { total: 3 } },
      { quota: 'total', retryAfter: null, message: 'Rate limit exceeded: quota total' },
    ],
    [
      'RATE_LIMITED',
      async ({ secret }) => ({ key: secret, cost: 4 }),
      { limits: { requestsPerMinute: 3 } },
      { limit: 'key_minute', message: 'Rate limit exceeded' },
    ],
    [
      'INACTIVE',
      async ({ secret, keyId }) => {
        done(await plane.ledger.keys.deactivate(plane.ledger.owner, { id: keyId }));
        return { key: secret };
      },
      {},
      { message: 'Inactive API Key' },
    ],
  ])('4.2 answers 200 with %s where that is so', async (code, question, settings, more) => {
    const made = await plane.ledger.newKey(settings);
    const { status, body } = await verify(await question(made));
    expect({ status, body }).toMatchObject({ status: 200, body: { valid: false, code, key: null, ...more } });
    expect(verifyAnswerSchema.safeParse(body).error).toBeUndefined();
  });

  it('tells when a refused request could pass', async () => {
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 1 } });
    expect((await verify({ key: secret })).body).toMatchObject({ code: 'VALID' });
    const { body } = await verify({ key: secret });
    expect(body).toMatchObject({ code: 'RATE_LIMITED', limit: 'key_minute' });
    expect(body['retryAfter']).toBeGreaterThan(0);
    expect(body['retryAfter']).toBeLessThanOrEqual(61);
  });

  it('answers EXPIRED from the moment itself', async () => {
    const { secret } = await plane.ledger.newKey({ expiresAt: new Date(Date.now() + MINUTE_MS).toISOString() });
    expect((await verify({ key: secret, cost: 0 })).body).toMatchObject({ code: 'VALID' });
    await clock.advance(MINUTE_MS);
    expect((await verify({ key: secret, cost: 0 })).body).toMatchObject({ code: 'EXPIRED', message: 'Expired API Key' });
  });

  it('answers a request id that was sent twice with the same, and consumes once', async () => {
    const { secret } = await plane.ledger.newKey({ quotas: { total: 10 } });
    const first = await verify({ key: secret, requestId: 'order-1' });
    const second = await verify({ key: secret, requestId: 'order-1' });
    expect(second.body).toEqual(first.body);
    expect(first.body).toMatchObject({ requestId: 'order-1', quotas: [{ window: 'TOTAL', remaining: 9 }] });
    expect((await verify({ key: secret, cost: 0 })).body).toMatchObject({ position: null, quotas: [{ remaining: 9 }] });
  });

  it('takes null for a field that is left out, as clients in typed languages send it', async () => {
    const { secret } = await plane.ledger.newKey();
    const { body } = await verify({
      key: secret,
      permissions: null,
      cost: null,
      endpoint: null,
      ip: null,
      origin: null,
      environment: null,
      requestId: null,
    });
    expect(body).toMatchObject({ code: 'VALID' });
  });

  it('takes a body without Content-Type', async () => {
    const { secret } = await plane.ledger.newKey();
    const body = new TextEncoder().encode(JSON.stringify({ key: secret }));
    const { status } = await plane.ask('/v1/verify', { method: 'POST', body, headers: { authorization: `Bearer ${token}` } });
    expect(status).toBe(200);
  });
});

describe('a malformed question', () => {
  const key = 'sk_live_CANARY';
  it.each<[string, unknown, string | undefined, RegExp]>([
    ['no JSON', '{"key": "sk_live_CANARY"', undefined, /is no JSON/],
    ['an empty body', '', undefined, /is no JSON/],
    ['an array', [], undefined, /as a JSON object/],
    ['null', 'null', undefined, /as a JSON object/],
    ['no key', {}, 'key', /'key': give the key/],
    ['a number as key', { key: 1 }, 'key', /as text/],
    ['a key that is too long', { key: 'x'.repeat(513) }, 'key', /at most 512 characters/],
    [
      'a field that is not known',
      { key, permission: [] },
      undefined,
      /"permission" is no field of the question; it takes key, permissions/,
    ],
    ['a dangerous field', `{"key":"${key}","__proto__":{}}`, undefined, /"__proto__" is no field/],
    ['permissions as text', { key, permissions: 'read:x' }, 'permissions', /give a list/],
    ['a permission with a space', { key, permissions: ['read:x', 'write x'] }, 'permissions.1', /such as 'read:experiences'/],
    ['an empty permission', { key, permissions: [''] }, 'permissions.0', /1 to 100/],
    ['a permission that is too long', { key, permissions: ['a'.repeat(101)] }, 'permissions.0', /1 to 100/],
    ['too many permissions', { key, permissions: Array.from({ length: 101 }, () => 'a') }, 'permissions', /at most 100/],
    ['a negative cost', { key, cost: -1 }, 'cost', /0 to 1000000/],
    ['a broken cost', { key, cost: 1.5 }, 'cost', /0 to 1000000/],
    ['a cost as text', { key, cost: '1' }, 'cost', /0 to 1000000/],
    ['a cost that is too high', { key, cost: 1_000_001 }, 'cost', /0 to 1000000/],
    ['an endpoint that is too long', { key, endpoint: 'x'.repeat(257) }, 'endpoint', /at most 256/],
    ['an endpoint with a line break', { key, endpoint: 'GET /\nx' }, 'endpoint', /control characters/],
    ['an endpoint with half a character', { key, endpoint: 'GET /\ud800' }, 'endpoint', /lone surrogates/],
    ['an origin that is too long', { key, origin: 'x'.repeat(513) }, 'origin', /at most 512/],
    ['an address that is none', { key, ip: '203.0.113.256' }, 'ip', /such as '203.0.113.7'/],
    ['an address in another base', { key, ip: '0x7f.0.0.1' }, 'ip', /such as '203.0.113.7'/],
    ['an address with a zone', { key, ip: 'fe80::1%eth0' }, 'ip', /without port or zone/],
    ['an address with a port', { key, ip: '203.0.113.7:80' }, 'ip', /without port or zone/],
    ['another environment', { key, environment: 'staging' }, 'environment', /'live' or 'test'/],
    ['a request id with a space', { key, requestId: 'a b' }, 'requestId', /printable ASCII/],
    ['an empty request id', { key, requestId: '' }, 'requestId', /1 to 128/],
    ['a request id that is too long', { key, requestId: 'x'.repeat(129) }, 'requestId', /1 to 128/],
    ['a request id of the generated form', { key, requestId: 'req_7' }, 'requestId', /given by the server/],
  ])('with %s is refused with its field and the remedy, and none of its values', async (_what, body, field, message) => {
    const answer = await verify(body);
    expect(answer.status).toBe(400);
    expect(answer.body).toEqual({
      error: { code: 'BAD_USER_INPUT', message: textMatching(message), ...(field === undefined ? {} : { field }) },
    });
    expect(answer.text).not.toContain('CANARY');
  });

  it('may have any depth of nesting without hurting', async () => {
    const answer = await verify(`${'['.repeat(30_000)}${']'.repeat(30_000)}`);
    expect(answer.status).toBe(400);
  });
});

describe('a body that is not taken', () => {
  it.each([
    ['text/plain', {}],
    ['application/x-www-form-urlencoded', {}],
    ['application/json; charset=latin1', {}],
    ['application/json', { 'content-encoding': 'gzip' }],
  ])('of type %s %o is refused with what would be right', async (type, headers) => {
    const answer = await plane.post('/v1/verify', '{}', { token, type, headers });
    expect(answer).toMatchObject({
      status: 415,
      body: { error: { code: 'UNSUPPORTED_MEDIA_TYPE', message: textMatching(/^Send the body /) } },
    });
  });

  it.each(['application/json; charset=utf-8', 'Application/JSON;charset="UTF-8"'])('is not one of type %s', async (type) => {
    expect((await plane.post('/v1/verify', { key: 'x' }, { token, type })).status).toBe(200);
  });

  it('of more than 64 KiB is refused by its announced length, and the connection goes on', async () => {
    const answer = await verify({ key: 'x'.repeat(64 * 1024) });
    expect(answer).toMatchObject({ status: 413, body: { error: { code: 'PAYLOAD_TOO_LARGE', message: textMatching('65536 bytes') } } });
    expect((await verify({ key: 'x' })).status).toBe(200);
  });

  it('of more than 64 KiB is refused by what arrives where no length is announced', async () => {
    const chunk = new TextEncoder().encode('x'.repeat(16 * 1024));
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent++ < 5) controller.enqueue(chunk);
        else controller.close();
      },
    });
    const answer = await plane.ask('/v1/verify', {
      method: 'POST',
      body,
      duplex: 'half',
      headers: { authorization: `Bearer ${token}` },
    } as RequestInit);
    expect(answer.status).toBe(413);
  });

  it('of exactly 64 KiB is taken', async () => {
    const bare = JSON.stringify({ key: 'x' });
    expect((await verify(bare + ' '.repeat(64 * 1024 - bare.length))).status).toBe(200);
    expect((await verify(bare + ' '.repeat(64 * 1024 - bare.length + 1))).status).toBe(413);
  });
});

describe('a caller', () => {
  const body = { key: 'sk_live_x' };

  it.each([undefined, 'Basic abc', 'Bearer', 'Bearer a b'])("with the header '%s' is asked for credentials", async (authorization) => {
    const {
      status,
      headers,
      body: answered,
    } = await plane.post('/v1/verify', body, authorization === undefined ? {} : { headers: { authorization } });
    expect({ status, answered }).toMatchObject({ status: 401, answered: { error: { code: 'UNAUTHENTICATED' } } });
    expect(headers.get('www-authenticate')).toBe('Bearer');
  });

  it.each(['klat_unknown', 'x', 'eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.'])('with the unknown token %s is refused', async (unknown) => {
    expect(await verify(body, unknown)).toMatchObject({
      status: 401,
      body: { error: { code: 'UNAUTHENTICATED', message: 'The access token is unknown, expired or revoked.' } },
    });
  });

  it('whose token was revoked is refused from then on', async () => {
    const { tokenId, secret } = await plane.newToken(['keys:verify']);
    expect((await verify(body, secret)).status).toBe(200);
    done(await plane.ledger.tokens.revoke(plane.ledger.owner, { id: tokenId }));
    expect((await verify(body, secret)).status).toBe(401);
  });

  it('without keys:verify is forbidden to ask', async () => {
    const { secret } = await plane.newToken(['usage:write']);
    expect(await verify(body, secret)).toMatchObject({
      status: 403,
      body: { error: { code: 'FORBIDDEN', message: textMatching("'keys:verify'") } },
    });
  });

  it('3.3 of another organization finds no key', async () => {
    const { secret } = await plane.ledger.newKey();
    const other = await plane.ledger.newOrganization('Other');
    const stranger = done(
      await plane.ledger.tokens.create(other.owner, { organizationId: other.id, name: 'gateway', permissions: ['keys:verify'] }),
    ).secret?.reveal();
    expect((await verify({ key: secret }, stranger)).body).toMatchObject({ code: 'INVALID_KEY', key: null });
  });

  it('is told by each request, also where a proxy sends those of many on one connection', async () => {
    const { secret: key } = await plane.ledger.newKey();
    const other = await plane.ledger.newOrganization('Behind the same proxy');
    const stranger =
      done(
        await plane.ledger.tokens.create(other.owner, { organizationId: other.id, name: 'gateway', permissions: ['keys:verify'] }),
      ).secret?.reveal() ?? '';
    const forbidden = await plane.newToken(['usage:write']);
    const revoked = await plane.newToken(['keys:verify']);
    const connection = await openRawConnection(plane.port);
    const question = JSON.stringify({ key });
    let read = 0;
    async function ask(...authorization: readonly string[]): Promise<string> {
      const fields = authorization.map((value) => `Authorization: ${value}\r\n`).join('');
      connection.write(`POST /v1/verify HTTP/1.1\r\nHost: x\r\n${fields}Content-Length: ${question.length}\r\n\r\n${question}`);
      const answer = () => connection.received().slice(read);
      await expect.poll(answer).toMatch(/\r\n\r\n\{.*\}$/s);
      const [, status] = /^HTTP\/1\.1 (\d+)/.exec(answer()) ?? [];
      const [, code] = /"code":"(\w+)"/.exec(answer()) ?? [];
      read = connection.received().length;
      return `${status} ${code}`;
    }

    const asked = [];
    for (const given of [token, token, stranger, token, forbidden.secret, revoked.secret, '', 'klat_unknown', token, stranger])
      asked.push(await ask(...(given === '' ? [] : [`Bearer ${given}`])));
    expect(asked.join(', ')).toBe(
      '200 VALID, 200 VALID, 200 INVALID_KEY, 200 VALID, 403 FORBIDDEN, 200 VALID, 401 UNAUTHENTICATED, 401 UNAUTHENTICATED, 200 VALID, 200 INVALID_KEY',
    );
    expect(await ask(`Bearer ${revoked.secret}`)).toBe('200 VALID');
    done(await plane.ledger.tokens.revoke(plane.ledger.owner, { id: revoked.tokenId }));
    expect(await ask(`Bearer ${revoked.secret}`)).toBe('401 UNAUTHENTICATED');
    connection.socket.destroy();
  });

  it('that reported usage under a request id before can not verify under it', async () => {
    const reporter = await plane.newToken(['usage:write']);
    const { keyId, secret } = await plane.ledger.newKey();
    const reported = await plane.post(
      '/v1/usage',
      { requestId: 'reported-1', keyId, endpoint: 'GET /', status: 200, durationMs: 1 },
      { token: reporter.secret },
    );
    expect(reported.status).toBe(200);
    expect(await verify({ key: secret, requestId: 'reported-1' })).toMatchObject({
      status: 409,
      body: { error: { code: 'REQUEST_ID_TAKEN' } },
    });
  });
});

it('no secret that was sent stands in a log line', async () => {
  const wordy = await openDataPlane({ on: plane.ledger, logLevel: 'debug' });
  const { secret } = await plane.ledger.newKey();
  const bodies = [{ key: secret }, { key: secret, nonsense: secret }, `{"key":"${secret}"`];
  for (const body of bodies) await wordy.post('/v1/verify', body, { token });
  await wordy.post(`/v1/verify?key=${secret}`, { key: secret }, { token });
  const log = wordy.logged.join('');
  await wordy.close();
  expect(log).toContain('/v1/verify');
  expect(log).not.toContain(secret);
  expect(log).not.toContain(token);
});

describe('the header fields of an answer', () => {
  it('4.4 tell the end client of its limits, for the gateway to pass on', async () => {
    const { secret } = await plane.ledger.newKey({ limits: { requestsPerMinute: 2 }, quotas: { daily: 1000, total: 5000 } });
    const passed = await verify({ key: secret });
    const nowSeconds = Math.floor((await clock.now()).getTime() / 1000);
    expect(passed.headers.get('x-ratelimit-limit')).toBe('2');
    expect(passed.headers.get('x-ratelimit-remaining')).toBe('1');
    expect(passed.headers.get('x-ratelimit-reset')).toBe(String((passed.body['rateLimit'] as { readonly reset: number }).reset));
    expect(structuredList(passed.headers.get('ratelimit-policy') ?? undefined)).toEqual({
      key_minute: { q: 2, w: 60 },
      total: { q: 5000 },
      daily: { q: 1000, w: 86_400 },
    });
    expect(structuredList(passed.headers.get('ratelimit') ?? undefined)).toMatchObject({
      key_minute: { r: 1 },
      total: { r: 4999 },
      daily: { r: 999 },
    });
    expect(passed.headers.has('retry-after')).toBe(false);

    await verify({ key: secret });
    const refused = await verify({ key: secret });
    expect(refused).toMatchObject({ status: 200, body: { code: 'RATE_LIMITED', limit: 'key_minute' } });
    const retryAfter = refused.body['retryAfter'] as number;
    expect(refused.headers.get('retry-after')).toBe(String(retryAfter));
    expect(refused.headers.get('x-ratelimit-remaining')).toBe('0');
    expect(Number(refused.headers.get('x-ratelimit-reset'))).toBeGreaterThan(nowSeconds);
    expect(structuredList(refused.headers.get('ratelimit') ?? undefined)).toEqual({
      key_minute: { r: 0, t: retryAfter },
      total: { r: 4998 },
      daily: { r: 998 },
    });
  });

  it('4.4 are not there for a key without limits, and tell who lacks the secret nothing', async () => {
    const { secret } = await plane.ledger.newKey();
    for (const key of [secret, 'sk_live_nonsense']) {
      const { headers } = await verify({ key });
      expect([...headers.keys()].filter((name) => /ratelimit|retry-after/.test(name))).toEqual([]);
    }
  });
});

describe('an IP allowlist', () => {
  it('1.12 holds the address of the end client against CIDR ranges of both families, however it is written', async () => {
    const { secret } = await plane.ledger.newKey({
      ipAllowlist: ['192.0.2.0/24', '2001:db8:1::/48', '::ffff:198.51.100.0/120', '203.0.113.7'],
    });
    for (const ip of ['192.0.2.1', '::ffff:192.0.2.255', '2001:DB8:1:ffff::9', '198.51.100.3', '::ffff:c633:6403', '203.0.113.7'])
      expect(await verify({ key: secret, ip })).toMatchObject({ body: { code: 'VALID' } });
    for (const ip of ['192.0.3.1', '2001:db8:2::1', '::c000:201', '198.51.101.3', '203.0.113.8', undefined])
      expect(await verify({ key: secret, ip })).toMatchObject({ body: { code: 'IP_NOT_ALLOWED', message: 'IP not allowed' } });
  });
});
