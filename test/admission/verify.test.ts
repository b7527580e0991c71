import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { VerifyAnswer } from '../../src/admission/admission.ts';
import { createPeppers } from '../../src/identity/pepper.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';

const MINUTE_MS = 60_000;

describe('verification', () => {
  let ledger: TestLedger;
  let clock: TestClock;
  beforeAll(async () => {
    ledger = await openTestLedger();
    clock = await installTestClock(ledger.testDatabase);
  });
  afterAll(async () => {
    await clock.close();
    await ledger.close();
  });

  const inAMinute = async () => new Date((await clock.now()).getTime() + MINUTE_MS);

  async function verify(...args: Parameters<TestLedger['verify']>): Promise<VerifyAnswer> {
    const answer = await ledger.verify(...args);
    if (answer.kind !== 'answer') throw new Error(`the caller was refused: ${answer.kind}`);
    return answer;
  }

  it('passes a key with the facts that a gateway needs, and has recorded it when it answers', async () => {
    const { keyId, secret } = await ledger.newKey({
      name: 'Gateway facts',
      permissions: ['read:models'],
      metadata: { tier: 'gold' },
      category: 'staging',
    });
    const answer = await verify(secret, { endpoint: 'GET /v1/models', ip: '203.0.113.7' });
    expect(answer).toMatchObject({
      code: 'VALID',
      message: null,
      httpStatus: 200,
      key: {
        id: keyId,
        name: 'Gateway facts',
        type: 'SECRET',
        category: 'staging',
        permissions: ['read:models'],
        metadata: { tier: 'gold' },
        outdatedSecret: false,
      },
      rateLimit: null,
      quotas: [],
    });
    expect(answer.requestId).toBe(`req_${answer.position}`);
    const recorded = await ledger.db
      .selectFrom('usage_events')
      .selectAll()
      .where('position', '=', answer.position)
      .executeTakeFirstOrThrow();
    expect(recorded).toMatchObject({ credits: 1, kind: 1, code: 0, endpoint: 'GET /v1/models', ip: '203.0.113.7' });
  });

  it('4.3 tells nothing about a key to whoever lacks the secret', async () => {
    const { keyId, secret } = await ledger.newKey();
    done(await ledger.keys.deactivate(ledger.owner, { id: keyId }));
    const forged = await ledger.newKey();
    const wrong = `${secret.slice(0, 24)}${forged.secret.slice(24)}`;
    for (const presented of ['', 'nonsense', wrong, forged.secret.replace('sk_live', 'sk_test')]) {
      expect(await verify(presented)).toMatchObject({
        code: 'INVALID_KEY',
        message: 'Invalid API Key',
        key: null,
        keyId: null,
        position: null,
      });
    }
    const foreign = await ledger.newOrganization('Another');
    expect(await verify(secret, {}, foreign.id)).toMatchObject({ code: 'INVALID_KEY' });
    expect(await verify(secret)).toMatchObject({ code: 'INACTIVE', message: 'Inactive API Key', httpStatus: 401, keyId });
  });

  it('1.5 refuses by expiry from the moment itself', async () => {
    const { secret } = await ledger.newKey({ expiresAt: await inAMinute() });
    expect(await verify(secret)).toMatchObject({ code: 'VALID' });
    await clock.advance(MINUTE_MS);
    expect(await verify(secret, { cost: 0 })).toMatchObject({ code: 'EXPIRED' });
    expect(await verify(secret)).toMatchObject({ code: 'EXPIRED', message: 'Expired API Key', httpStatus: 401 });
  });

  it('1.2, 1.4, 1.12 refuses the wrong environment, address, origin and permission', async () => {
    const { secret } = await ledger.newKey({
      permissions: ['read'],
      ipAllowlist: ['203.0.113.0/24', '2001:db8::/32'],
      allowedOrigins: ['https://app.example.com'],
    });
    const fits = { environment: 'live', ip: '203.0.113.9', origin: 'https://app.example.com', permissions: ['read'] } as const;
    expect(await verify(secret, fits)).toMatchObject({ code: 'VALID' });
    expect(await verify(secret, { ...fits, ip: '2001:db8:1::5' })).toMatchObject({ code: 'VALID' });
    expect(await verify(secret, { ...fits, environment: 'test' })).toMatchObject({ code: 'WRONG_ENVIRONMENT', httpStatus: 403 });
    expect(await verify(secret, { ...fits, ip: '198.51.100.1' })).toMatchObject({ code: 'IP_NOT_ALLOWED' });
    expect(await verify(secret, { ...fits, ip: null })).toMatchObject({ code: 'IP_NOT_ALLOWED' });
    expect(await verify(secret, { ...fits, origin: 'https://evil.example.com' })).toMatchObject({ code: 'ORIGIN_NOT_ALLOWED' });
    expect(await verify(secret, { ...fits, permissions: ['read', 'write'] })).toMatchObject({
      code: 'PERMISSION_DENIED',
      message: 'Permission denied',
    });
    const test = await ledger.newKey({ type: 'TEST' });
    expect(await verify(test.secret, { environment: 'live' })).toMatchObject({ code: 'WRONG_ENVIRONMENT' });
    expect(await verify(test.secret, { environment: 'test' })).toMatchObject({ code: 'VALID' });
  });

  it('1.7 counts quotas and says what is left, and a refusal consumes nothing', async () => {
    const { secret } = await ledger.newKey({ quotas: { daily: 3, total: 10 }, limits: { requestsPerMinute: 100 } });
    expect(await verify(secret, { cost: 2 })).toMatchObject({
      code: 'VALID',
      rateLimit: { limit: 100, remaining: 98 },
      quotas: [
        { window: 'TOTAL', limit: 10, remaining: 8 },
        { window: 'DAILY', limit: 3, remaining: 1 },
      ],
    });
    const refused = await verify(secret, { cost: 2 });
    expect(refused).toMatchObject({
      code: 'QUOTA_EXCEEDED',
      message: 'Rate limit exceeded: quota daily',
      httpStatus: 429,
      refusedBy: { quota: 'daily' },
      key: null,
    });
    expect(refused.refusedBy?.retryAfterSeconds).toBeGreaterThan(86_000);
    expect(await verify(secret, { cost: 0 })).toMatchObject({ code: 'VALID', position: null });
    expect(await verify(secret)).toMatchObject({ code: 'VALID', quotas: [{ remaining: 7 }, { remaining: 0 }] });
    expect(await verify(secret, { cost: 0 })).toMatchObject({ code: 'QUOTA_EXCEEDED', position: null });
  });

  it('1.8 limits requests per minute with a moment to come back', async () => {
    const { secret } = await ledger.newKey({ limits: { requestsPerMinute: 2 } });
    const answers = await Promise.all([1, 2, 3, 4].map(() => verify(secret)));
    expect(answers.map((answer) => answer.code).sort()).toEqual(['RATE_LIMITED', 'RATE_LIMITED', 'VALID', 'VALID']);
    const refused = answers.find((answer) => answer.code === 'RATE_LIMITED');
    expect(refused).toMatchObject({ httpStatus: 429, refusedBy: { limit: 'key_minute' } });
    expect(refused?.refusedBy?.retryAfterSeconds).toBeGreaterThanOrEqual(59);
    expect(refused?.refusedBy?.retryAfterSeconds).toBeLessThanOrEqual(62);
  });

  it('answers a repeated request id as the first time and consumes nothing', async () => {
    const { secret } = await ledger.newKey({ quotas: { total: 5 } });
    const first = await verify(secret, { requestId: 'order-1', cost: 2 });
    const [second, third] = await Promise.all([
      verify(secret, { requestId: 'order-1', cost: 2 }),
      verify(secret, { requestId: 'order-1', cost: 2 }),
    ]);
    expect(second).toEqual(first);
    expect(third).toEqual(first);
    expect(await verify(secret)).toMatchObject({ quotas: [{ remaining: 2 }] });
  });

  it('takes the same request id, sent many times at once to two servers, as one request', async () => {
    const other = await openTestLedger({ on: ledger });
    const { secret } = await ledger.newKey({ quotas: { total: 100 } });
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? ledger : other).verify(secret, { requestId: 'at-once' })),
    );
    expect(new Set(answers.map((answer) => (answer.kind === 'answer' ? answer.position : null))).size).toBe(1);
    expect(await verify(secret)).toMatchObject({ quotas: [{ remaining: 98 }] });
    await other.close();
  });

  it('refuses callers by their token: unknown, revoked, without the permission', async () => {
    const { secret } = await ledger.newKey();
    const issue = async (input: object) =>
      done(await ledger.tokens.create(ledger.owner, { organizationId: ledger.organization.id, name: 'gateway', ...input }));
    const gateway = await issue({ permissions: ['keys:verify'] });
    const reporter = await issue({ permissions: ['usage:write'] });
    const owner = await issue({ memberId: ledger.owner.memberId });
    const asks = async (token: string) => {
      const { accessTokenHash } = await import('../../src/identity/access-token.ts');
      const request = { key: secret, permissions: [], cost: 1, endpoint: null, ip: null, origin: null, environment: null, requestId: null };
      return ledger.admission.verify({ kind: 'token', tokenHash: accessTokenHash(token) }, request);
    };
    expect(await asks(gateway.secret?.reveal() ?? '')).toMatchObject({ kind: 'answer', code: 'VALID' });
    expect(await asks(owner.secret?.reveal() ?? '')).toMatchObject({ kind: 'answer', code: 'VALID' });
    expect(await asks(reporter.secret?.reveal() ?? '')).toEqual({ kind: 'forbidden' });
    expect(await asks('no token of ours')).toEqual({ kind: 'unauthenticated' });
    done(await ledger.tokens.revoke(ledger.owner, { id: gateway.result.tokenId }));
    expect(await asks(gateway.secret?.reveal() ?? '')).toEqual({ kind: 'unauthenticated' });
  });

  it('2.2, 2.3 lets an outdated secret pass until its moment, and says so', async () => {
    const { keyId, secret } = await ledger.newKey();
    const renewed = done(await ledger.keys.regenerate(ledger.owner, { id: keyId, overlapUntil: await inAMinute() }));
    expect(await verify(secret)).toMatchObject({ code: 'VALID', key: { id: keyId, outdatedSecret: true } });
    expect(await verify(renewed.secret?.reveal() ?? '')).toMatchObject({ code: 'VALID', key: { id: keyId, outdatedSecret: false } });
    await clock.advance(MINUTE_MS);
    expect(await verify(secret, { cost: 0 })).toMatchObject({ code: 'INVALID_KEY' });
    const again = done(await ledger.keys.regenerate(ledger.owner, { id: keyId }));
    expect(await verify(renewed.secret?.reveal() ?? '')).toMatchObject({ code: 'INVALID_KEY' });
    expect(await verify(again.secret?.reveal() ?? '')).toMatchObject({ code: 'VALID' });
  });

  it('verifies on after the pepper was rotated or lost, and renews the fast verifier', async () => {
    const { secret } = await ledger.newKey();
    const lost = await ledger.newKey();
    const fresh = { id: 'p2', key: randomBytes(32) };
    const rotated = await openTestLedger({
      on: ledger,
      peppers: createPeppers([fresh, { id: 'p1', key: ledger.peppers.current.key.export() }]),
    });
    expect(await rotated.verify(secret)).toMatchObject({ code: 'VALID' });
    expect(await rotated.verify(secret)).toMatchObject({ code: 'VALID' });
    await rotated.close();
    const bereft = await openTestLedger({ on: ledger, peppers: createPeppers([fresh]) });
    expect(await bereft.verify(secret)).toMatchObject({ code: 'VALID' });
    const wrong = `${lost.secret.slice(0, 24)}${secret.slice(24, 67)}`;
    const { crc32 } = await import('node:zlib');
    const { encodeBase62Uint32 } = await import('../../src/lib/base62.ts');
    expect(await bereft.verify(wrong + encodeBase62Uint32(crc32(wrong)))).toMatchObject({ code: 'INVALID_KEY' });
    expect(await bereft.verify(lost.secret)).toMatchObject({ code: 'VALID' });
    const pepper = await ledger.db
      .selectFrom('key_verifiers')
      .select('pepper_id')
      .where('lookup_id', '=', lost.secret.slice(8, 24))
      .executeTakeFirst();
    expect(pepper).toEqual({ pepper_id: 'p2' });
    await bereft.close();
  });
});
