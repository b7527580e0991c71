import { afterAll, beforeAll, expect, test } from 'vitest';

import { listAt, textAt } from '../graphql/at.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { openPublicInterface, type PublicInterface } from './public-interface.ts';

let product: PublicInterface;
let clock: TestClock;
beforeAll(async () => {
  product = await openPublicInterface();
  clock = await installTestClock(product.server.database);
});
afterAll(async () => {
  await clock.close();
  await product.close();
});

const HOUR = 3_600_000;

test('1.1 a name has 3 to 50 characters and is unique within its organization', async () => {
  for (const name of ['ab', 'a'.repeat(51), '  ab  ', 'a\u0000bc']) {
    expect(await product.createKey({ name })).toMatchObject({ __typename: 'InvalidInput', field: 'name' });
  }
  for (const name of ['abc', 'é'.repeat(50)]) expect(await product.createKey({ name })).toMatchObject({ apiKey: { name } });
  expect(await product.createKey({ name: 'ABC' })).toMatchObject({ code: 'NAME_TAKEN' });
  const { apiKey } = await product.createKey({ name: 'another' });
  expect(await product.updateKey({ id: apiKey.id, name: 'Abc' })).toMatchObject({ code: 'NAME_TAKEN' });
});

test('1.2 each type has its own prefix, and a TEST key is none of a live environment', async () => {
  for (const [type, prefix, environment, other] of [
    ['PUBLIC', 'pk_live_', 'live', 'test'],
    ['SECRET', 'sk_live_', 'live', 'test'],
    ['TEST', 'sk_test_', 'test', 'live'],
  ] as const) {
    const { secret, apiKey } = await product.createKey({ type });
    expect(secret.slice(0, 8)).toBe(prefix);
    expect(apiKey).toMatchObject({ type });
    expect(await product.verify({ key: secret })).toMatchObject({ code: 'VALID' });
    expect(await product.verify({ key: secret, environment })).toMatchObject({ code: 'VALID' });
    expect(await product.verify({ key: secret, environment: other })).toMatchObject({ code: 'WRONG_ENVIRONMENT' });
  }
});

test('1.3 a category tags a key for lists and statistics, and verification is the same for all', async () => {
  const from = new Date(Date.now() - HOUR).toISOString();
  const to = new Date(Date.now() + HOUR).toISOString();
  for (const category of ['production', 'development', 'staging', 'Nightly builds']) {
    const { secret, apiKey } = await product.createKey({ name: `in ${category}`, category });
    expect(apiKey).toMatchObject({ category });
    expect(await product.verify({ key: secret })).toMatchObject({ code: 'VALID', key: { category } });
  }
  expect((await product.createKey()).apiKey).toMatchObject({ category: 'production' });
  expect(await product.list({ category: 'Nightly builds' })).toEqual(['in Nightly builds']);
  const usage = `query ($from: DateTime!, $to: DateTime!) { viewer { organization { usage(from: $from, to: $to, category: "staging") { totals { requests } } } } }`;
  await expect
    .poll(() => product.server.query(usage, { from, to }), { timeout: 10_000 })
    .toEqual({ viewer: { organization: { usage: { totals: { requests: 1 } } } } });
});

test('1.4 a key carries permissions, of which verification may ask for any; none is required', async () => {
  const { secret, apiKey } = await product.createKey({ permissions: ['read:experiences', 'write:consumers'] });
  expect(apiKey['permissions']).toEqual(['read:experiences', 'write:consumers']);
  expect(await product.verify({ key: secret, permissions: ['write:consumers'] })).toMatchObject({ code: 'VALID' });
  expect(await product.verify({ key: secret, permissions: ['read:experiences', 'admin'] })).toMatchObject({ code: 'PERMISSION_DENIED' });
  const bare = await product.createKey();
  expect(bare.apiKey['permissions']).toEqual([]);
  expect(await product.verify({ key: bare.secret })).toMatchObject({ code: 'VALID' });
  expect(await product.createKey({ permissions: ['read it'] })).toMatchObject({ __typename: 'InvalidInput', field: 'permissions.0' });
});

test('1.5 a key with an expiry date is EXPIRED from that moment on', async () => {
  const expiresAt = new Date(Date.now() + 60_000).toISOString();
  const { secret, apiKey } = await product.createKey({ expiresAt });
  expect(apiKey).toMatchObject({ status: 'ACTIVE', expiresAt });
  expect(await product.verify({ key: secret })).toMatchObject({ code: 'VALID', key: { expiresAt } });
  await clock.advance(60_000);
  expect(await product.verify({ key: secret })).toMatchObject({ code: 'EXPIRED', message: 'Expired API Key' });
  expect(await product.key(apiKey.id)).toMatchObject({ status: 'EXPIRED' });
  expect(await product.createKey({ expiresAt: '2020-01-01T00:00:00Z' })).toMatchObject({ __typename: 'InvalidInput', field: 'expiresAt' });
});

test('1.7 a quota caps requests in total, a day, a week, a month; without one there is no cap', async () => {
  for (const window of ['total', 'daily', 'weekly', 'monthly']) {
    const { secret, apiKey } = await product.createKey({ quotas: { [window]: 2 } });
    expect(apiKey['quotas']).toEqual([{ window: window.toUpperCase(), limit: 2, used: 0, remaining: 2 }]);
    expect(await product.verify({ key: secret, cost: 2 })).toMatchObject({ code: 'VALID', quotas: [{ remaining: 0 }] });
    expect(await product.verify({ key: secret })).toMatchObject({
      code: 'QUOTA_EXCEEDED',
      quota: window,
      message: `Rate limit exceeded: quota ${window}`,
    });
    expect((await product.key(apiKey.id))['quotas']).toEqual([{ window: window.toUpperCase(), limit: 2, used: 2, remaining: 0 }]);
  }
  const { secret } = await product.createKey({ quotas: { daily: null } });
  expect(await product.verify({ key: secret, cost: 1_000_000 })).toMatchObject({ code: 'VALID', quotas: [] });
});

test('1.8 requests and tokens per minute are limited, tokens as they are reported', async () => {
  const { secret, apiKey } = await product.createKey({ limits: { requestsPerMinute: 60, tokensPerMinute: 2_000_000 } });
  expect(apiKey['limits']).toEqual([
    { unit: 'REQUESTS', windowSeconds: 60, limit: 60, remaining: 60 },
    { unit: 'TOKENS', windowSeconds: 60, limit: 2_000_000, remaining: 2_000_000 },
  ]);
  const { requestId } = await product.verify({ key: secret });
  const item = { requestId, endpoint: 'POST /v1/chat', status: 200, durationMs: 5, tokensIn: 1_500_000, tokensOut: 500_000 };
  const record = await product.server.query('mutation ($input: RecordUsageInput!) { recordUsage(input: $input) { __typename } }', {
    input: { items: [item] },
  });
  expect(record['recordUsage']).toEqual({ __typename: 'RecordUsagePayload' });
  expect(await product.verify({ key: secret })).toMatchObject({ code: 'RATE_LIMITED', limit: 'key_tokens' });
  const few = await product.createKey({ limits: { requestsPerMinute: 1 } });
  expect(await product.verify({ key: few.secret })).toMatchObject({ code: 'VALID' });
  expect(await product.verify({ key: few.secret })).toMatchObject({ code: 'RATE_LIMITED', limit: 'key_minute' });
});

test('1.9 the secret is shown by the answer that made it, and stands in no field that can be read', async () => {
  const { secret, apiKey } = await product.createKey();
  expect(secret).toMatch(/^sk_live_[0-9A-Za-z]{65}$/);
  const types = listAt(await product.server.query('{ __schema { types { name fields { name } } } }'), '__schema.types');
  const withSecret = types.filter((type) => JSON.stringify(type).includes('"name":"secret"')).map((type) => textAt(type, 'name'));
  expect(withSecret).toContain('CreateApiKeyPayload');
  expect(withSecret.filter((name) => !name.endsWith('Payload'))).toEqual([]);
  const all = await product.server.query(
    '{ viewer { organization { apiKeys(first: 100) { edges { node { masked events(first: 10) { edges { node { data } } } } } } ledgerEvents(after: "0", first: 100) { edges { node { data } } } } } }',
  );
  expect(JSON.stringify(all)).toContain(apiKey.masked);
  expect(JSON.stringify(all)).not.toContain(secret.slice(24));
});

test('1.10 a key is shown as its type prefix, four characters and the last four', async () => {
  for (const type of ['PUBLIC', 'SECRET', 'TEST']) {
    const { secret, apiKey } = await product.createKey({ type });
    expect(apiKey.masked).toBe(`${secret.slice(0, 12)}...${secret.slice(-4)}`);
  }
});

test('1.12 metadata is handed to the gateway, and addresses and origins are checked', async () => {
  const metadata = { tier: 'gold', nested: { list: [1, null, 'é'] } };
  const { secret, apiKey } = await product.createKey({
    type: 'PUBLIC',
    metadata,
    ipAllowlist: ['203.0.113.7/24', '2001:DB8::1'],
    allowedOrigins: ['https://app.example.com'],
  });
  expect(apiKey).toMatchObject({ metadata, ipAllowlist: ['203.0.113.0/24', '2001:db8::1/128'] });
  const fits = { key: secret, ip: '203.0.113.200', origin: 'https://app.example.com' };
  expect(await product.verify(fits)).toMatchObject({ code: 'VALID', key: { metadata } });
  expect(await product.verify({ ...fits, ip: '2001:db8:0:0::1' })).toMatchObject({ code: 'VALID' });
  expect(await product.verify({ ...fits, ip: '::ffff:203.0.113.9' })).toMatchObject({ code: 'VALID' });
  expect(await product.verify({ ...fits, ip: '203.0.114.1' })).toMatchObject({ code: 'IP_NOT_ALLOWED' });
  expect(await product.verify({ ...fits, origin: 'https://app.example.com.evil.example' })).toMatchObject({ code: 'ORIGIN_NOT_ALLOWED' });
  for (const [field, value] of [
    ['ipAllowlist', ['300.0.0.1']],
    ['allowedOrigins', ['app.example.com']],
    ['metadata', { long: 'x'.repeat(20_000) }],
  ] as const) {
    const refused = await product.createKey({ [field]: value });
    expect(refused).toMatchObject({ __typename: 'InvalidInput' });
    expect(refused['field']).toMatch(new RegExp(`^${field}`));
  }
});
