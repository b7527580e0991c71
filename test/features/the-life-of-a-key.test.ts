import { afterAll, beforeAll, expect, test } from 'vitest';

import { listAt, textAt } from '../graphql/at.ts';
import { openPublicInterface, type NewKey, type PublicInterface } from './public-interface.ts';

let product: PublicInterface;
beforeAll(async () => {
  product = await openPublicInterface();
});
afterAll(() => product.close());

test('2.1 a deactivated key is refused from the acknowledgement on, an activated one passes, on every server', async () => {
  const other = await openPublicInterface({ on: product.server });
  try {
    const { secret, apiKey } = await product.createKey();
    for (let round = 0; round < 5; round++) {
      expect(await product.mutate('deactivateApiKey', { id: apiKey.id }, 'apiKey { status }')).toMatchObject({
        apiKey: { status: 'INACTIVE' },
      });
      for (const server of [other, product]) {
        expect(await server.verify({ key: secret })).toMatchObject({ code: 'INACTIVE', message: 'Inactive API Key' });
      }
      expect(await other.mutate('activateApiKey', { id: apiKey.id }, 'apiKey { status }')).toMatchObject({ apiKey: { status: 'ACTIVE' } });
      for (const server of [product, other]) expect(await server.verify({ key: secret })).toMatchObject({ code: 'VALID' });
    }
  } finally {
    await other.close();
  }
});

test('2.2 a regenerated key keeps its id, and its old secret stops at once', async () => {
  const { secret, apiKey } = await product.createKey({ quotas: { total: 10 } });
  await product.verify({ key: secret });
  const renewed = await product.mutate<NewKey>('regenerateApiKey', { id: apiKey.id }, 'secret apiKey { id masked }');
  expect(renewed.apiKey.id).toBe(apiKey.id);
  expect(renewed.apiKey.masked).not.toBe(apiKey.masked);
  expect(await product.verify({ key: secret })).toMatchObject({ code: 'INVALID_KEY' });
  expect(await product.verify({ key: renewed.secret })).toMatchObject({
    code: 'VALID',
    key: { id: apiKey.keyId },
    quotas: [{ remaining: 8 }],
  });
});

test('2.3 with an overlap the old secret works on, verification tells that it is outdated, and the list when it was last used', async () => {
  const selection = 'secret apiKey { id masked outdatedSecrets { masked worksUntil lastUsedAt } }';
  const { secret, apiKey } = await product.createKey();
  await product.verify({ key: secret });
  const overlapUntil = new Date(Date.now() + 3_600_000).toISOString();
  const renewed = await product.mutate<NewKey>('regenerateApiKey', { id: apiKey.id, overlapUntil }, selection);
  const { masked } = apiKey;
  // Its uses before it was outdated are no news.
  expect(renewed.apiKey).toMatchObject({ outdatedSecrets: [{ masked, worksUntil: overlapUntil, lastUsedAt: null }] });

  expect(await product.verify({ key: renewed.secret })).toMatchObject({ code: 'VALID', key: { outdatedSecret: false } });
  const shown = () =>
    product.key(apiKey.id, 'events(first: 10) { edges { node { type } } } outdatedSecrets { masked worksUntil lastUsedAt }');
  expect(await shown()).toMatchObject({ outdatedSecrets: [{ lastUsedAt: null }] });
  expect(await product.verify({ key: secret, permissions: ['none'] })).toMatchObject({ code: 'PERMISSION_DENIED' });
  expect(await shown()).toMatchObject({ outdatedSecrets: [{ lastUsedAt: null }] });

  const before = Date.now();
  expect(await product.verify({ key: secret })).toMatchObject({ code: 'VALID', key: { id: apiKey.keyId, outdatedSecret: true } });
  const used = await shown();
  expect(used).toMatchObject({ outdatedSecrets: [{ masked, lastUsedAt: expect.any(String) as unknown }] });
  expect(Math.abs(Date.parse(textAt(listAt(used, 'outdatedSecrets')[0], 'lastUsedAt')) - before)).toBeLessThan(5000);
  // Verification wrote nothing into the key's history.
  expect(listAt(used, 'events.edges').map((edge) => textAt(edge, 'node.type'))).toEqual(['KEY_CREATED', 'REGENERATED']);

  const soon = new Date(Date.now() + 7_200_000).toISOString();
  const again = await product.mutate<NewKey>('regenerateApiKey', { id: apiKey.id, overlapUntil: soon }, selection);
  expect(again.apiKey).toMatchObject({
    outdatedSecrets: [
      { masked, worksUntil: overlapUntil, lastUsedAt: expect.any(String) as unknown },
      { masked: renewed.apiKey.masked, worksUntil: soon, lastUsedAt: null },
    ],
  });
  expect(await product.mutate<NewKey>('regenerateApiKey', { id: apiKey.id }, selection)).toMatchObject({ apiKey: { outdatedSecrets: [] } });
  for (const old of [secret, renewed.secret, again.secret])
    expect(await product.verify({ key: old })).toMatchObject({ code: 'INVALID_KEY' });
});

test('2.4 all settings of a key can be changed, and what is left out stays', async () => {
  const { secret, apiKey } = await product.createKey({ name: 'before', quotas: { daily: 5 }, permissions: ['a'], metadata: { a: 1 } });
  const changes = {
    name: 'after',
    category: 'staging',
    permissions: ['b'],
    quotas: { weekly: 7 },
    limits: { requestsPerMinute: 9 },
    expiresAt: '2099-01-01T00:00:00.000Z',
  };
  const { apiKey: changed } = await product.updateKey({ id: apiKey.id, ...changes });
  expect(changed).toMatchObject({
    ...changes,
    metadata: { a: 1 },
    quotas: [{ window: 'WEEKLY', limit: 7 }],
    limits: [{ unit: 'REQUESTS', limit: 9 }],
  });
  expect(await product.verify({ key: secret, permissions: ['b'] })).toMatchObject({
    code: 'VALID',
    key: { name: 'after', category: 'staging', metadata: { a: 1 } },
    rateLimit: { limit: 9 },
    quotas: [{ window: 'WEEKLY', limit: 7, remaining: 6 }],
  });
  expect((await product.updateKey({ id: apiKey.id, expiresAt: null })).apiKey).toMatchObject({ name: 'after', expiresAt: null });
  expect((await product.updateKey({ id: apiKey.id, quotas: null, limits: null })).apiKey).toMatchObject({
    name: 'after',
    quotas: [],
    limits: [],
  });
});

test('2.5 a key is deleted for good by typing its name, and what it was used for stays readable', async () => {
  const { secret, apiKey } = await product.createKey({ name: 'to be deleted' });
  await product.verify({ key: secret, endpoint: 'GET /v1/models' });
  const remove = (confirmName: string) => product.mutate('deleteApiKey', { id: apiKey.id, confirmName }, 'deletedId');
  expect(await remove('To be deleted')).toMatchObject({ code: 'CONFIRMATION_MISMATCH' });
  expect(await remove('to be deleted')).toMatchObject({ deletedId: apiKey.id });
  expect(await product.verify({ key: secret })).toMatchObject({ code: 'INVALID_KEY' });
  for (const mutation of ['activateApiKey', 'deactivateApiKey', 'regenerateApiKey', 'updateApiKey']) {
    expect(await product.mutate(mutation, { id: apiKey.id }, '')).toMatchObject({ code: 'KEY_DELETED' });
  }
  expect(await product.list({ search: 'to be deleted' })).toEqual([]);
  expect(await product.list({ search: 'to be deleted', includeDeleted: true })).toEqual(['to be deleted']);
  const left = await product.key(
    apiKey.id,
    'status requestLog(first: 5) { edges { node { endpoint code } } } events(first: 5) { edges { node { type } } }',
  );
  expect(left).toMatchObject({
    status: 'DELETED',
    requestLog: { edges: [{ node: { endpoint: 'GET /v1/models', code: 'VALID' } }] },
    events: { edges: [{ node: { type: 'KEY_CREATED' } }, { node: { type: 'DELETED' } }] },
  });
  expect(await product.createKey({ name: 'to be deleted' })).toMatchObject({ apiKey: { status: 'ACTIVE' } });
});

test('2.8 every mutation takes an idempotency key, and a retry says what the first request did', async () => {
  const document = '{ __type(name: "Mutation") { fields { name args { type { ofType { inputFields { name } } } } } } }';
  const mutations = listAt(await product.server.query(document), '__type.fields');
  const without = mutations.filter((mutation) => !JSON.stringify(mutation).includes('"name":"idempotencyKey"'));
  // These two are idempotent by the request ids of what they are told.
  expect(without.map((mutation) => textAt(mutation, 'name')).toSorted()).toEqual(['recordUsage', 'verifyApiKey']);
  const input = { name: 'made once', idempotencyKey: 'order 4711' };
  const first = await product.createKey(input);
  const { id } = first.apiKey;
  expect(await product.createKey(input)).toEqual(first);
  expect(await product.createKey({ ...input, name: 'made twice' })).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
  const regenerate = () => product.mutate<NewKey>('regenerateApiKey', { id, idempotencyKey: 'renew' }, 'secret');
  const renewed = await regenerate();
  expect(await regenerate()).toEqual(renewed);
  expect(await product.verify({ key: renewed.secret })).toMatchObject({ code: 'VALID' });
});

test('2.9 an actor can create and regenerate 15 keys an hour by default, and others are not hindered', async () => {
  const limited = await openPublicInterface({ env: { KEY_OPERATIONS_PER_HOUR: '15' } });
  try {
    const [id = ''] = (await Promise.all(Array.from({ length: 10 }, () => limited.createKey()))).map(({ apiKey }) => apiKey.id);
    for (let i = 0; i < 5; i++) await limited.mutate('regenerateApiKey', { id }, 'secret');
    await expect(limited.createKey()).rejects.toThrow(/RATE_LIMITED/);
    await expect(limited.mutate('regenerateApiKey', { id }, 'secret')).rejects.toThrow(/RATE_LIMITED/);
    expect(await limited.updateKey({ id, category: 'staging' })).toMatchObject({
      apiKey: { category: 'staging' },
    });
    const { organizationId } = limited;
    const admin = await limited.mutate<{ readonly member: { readonly id: string } }>(
      'addMember',
      { organizationId, role: 'ADMIN' },
      'member { id }',
    );
    const { secret } = await limited.mutate<{ readonly secret: string }>(
      'createAccessToken',
      { organizationId, name: 'admin', memberId: admin.member.id },
      'secret',
    );
    expect(await limited.createKey({}, secret)).toMatchObject({ apiKey: { status: 'ACTIVE' } });
  } finally {
    await limited.close();
  }
});
