import { afterAll, beforeAll, expect, test } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { at, listAt, textAt } from '../graphql/at.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { openPublicInterface, type NewKey, type PublicInterface } from './public-interface.ts';

const DAY_MS = 86_400_000;
const ROW = `name type category masked status profile { id } createdAt createdBy { id kind } lastUsedAt expiresAt personal archived owner { id }`;
const LIST = `query ($filter: ApiKeyFilter, $orderBy: ApiKeyOrder, $first: Int, $after: String) {
  viewer { organization { apiKeys(filter: $filter, orderBy: $orderBy, first: $first, after: $after) { totalCount pageInfo { hasNextPage endCursor } edges { node { ${ROW} } } } } }
}`;

let product: PublicInterface;
let owner = '';
let own: NewKey;
const keys = new Map<string, NewKey>();

/** Key by key: what it is, and so many days ago it was last used, if ever. */
const MADE = {
  'apple one': { type: 'SECRET', category: 'production' },
  'Banana two': { type: 'PUBLIC', category: 'production', usedDaysAgo: 10 },
  'cherry three': { type: 'TEST', category: 'staging', usedDaysAgo: 3 },
  'date four': { type: 'SECRET', category: 'development', inactive: true },
  'elder five': { type: 'SECRET', category: 'staging', expiresInMs: 30 * DAY_MS },
  'fig six': { type: 'SECRET', category: 'staging', expiresInMs: 1500 },
  'grape seven': { type: 'SECRET', category: 'production', deleted: true, usedDaysAgo: 20 },
} as const;
type Made = { readonly usedDaysAgo?: number; readonly expiresInMs?: number; readonly inactive?: boolean; readonly deleted?: boolean };

beforeAll(async () => {
  product = await openPublicInterface();
  for (const [name, spec] of Object.entries(MADE)) {
    const { usedDaysAgo, expiresInMs, inactive, deleted, ...input } = spec as Made & Readonly<Record<string, unknown>>;
    const expiresAt = expiresInMs === undefined ? null : new Date(Date.now() + expiresInMs).toISOString();
    const key = await product.createKey({ name, ...input, expiresAt });
    keys.set(name, key);
    const { id, keyId } = key.apiKey;
    if (usedDaysAgo !== undefined) {
      const items = [{ keyId, at: new Date(Date.now() - usedDaysAgo * DAY_MS), endpoint: 'GET /v1/fruit', status: 200, durationMs: 5 }];
      const { accepted } = await product.mutate('recordUsage', { items }, 'accepted');
      if (accepted !== 1) throw new Error('the use was not recorded');
    }
    if (inactive === true) await product.mutate('deactivateApiKey', { id }, '');
    if (deleted === true) await product.mutate('deleteApiKey', { id, confirmName: name }, '');
  }
  own = await product.createKey({ name: 'own eight', type: 'SECRET', personal: true });
  const viewer = await product.server.query('{ viewer { actorId organization { id } } }');
  owner = textAt(viewer, 'viewer.actorId');
  await product.verify({ key: keys.get('apple one')?.secret });
  // Expired by its moment, and statistics have caught up.
  await eventually(
    'the key has expired',
    async () => (await product.verify({ key: keys.get('fig six')?.secret, cost: 0 }))['code'] === 'EXPIRED',
    10_000,
  );
  await eventually('its use is shown', async () => (await row('apple one'))?.['lastUsedAt'] != null, 10_000);
});
afterAll(() => product.close());

type Row = Readonly<Record<string, unknown>>;

async function page(variables: Readonly<Record<string, unknown>>) {
  const list = at(await product.server.query(LIST, variables), 'viewer.organization.apiKeys');
  return {
    rows: listAt(list, 'edges').map((edge) => at(edge, 'node') as Row),
    total: at(list, 'totalCount'),
    next: at(list, 'pageInfo.hasNextPage') === true ? textAt(list, 'pageInfo.endCursor') : null,
  };
}

async function names(filter: unknown, orderBy: unknown = { field: 'NAME', direction: 'ASC' }): Promise<readonly unknown[]> {
  const { rows, total } = await page({ filter, orderBy, first: 100 });
  expect(total).toBe(rows.length);
  return rows.map(({ name }) => name);
}

const row = async (name: string) => (await page({ filter: { search: name, includeDeleted: true } })).rows[0];

const LIVE = ['apple one', 'Banana two', 'cherry three', 'date four', 'elder five', 'fig six', 'own eight'];

test('1.11 each row has name, type, category, masked key, status, profile, created, created by, last used and expires', async () => {
  expect(await row('Banana two')).toMatchObject({
    name: 'Banana two',
    type: 'PUBLIC',
    category: 'production',
    masked: keys.get('Banana two')?.apiKey.masked,
    status: 'ACTIVE',
    profile: null,
    createdBy: { id: owner, kind: 'MEMBER' },
    expiresAt: null,
    personal: false,
    archived: false,
    owner: null,
  });
  const { createdAt, lastUsedAt } = (await row('Banana two')) ?? {};
  expect(Math.abs(Date.parse(String(lastUsedAt)) - (Date.now() - 10 * DAY_MS))).toBeLessThan(60_000);
  expect(Math.abs(Date.parse(String(createdAt)) - Date.now())).toBeLessThan(60_000);
  expect((await row('elder five'))?.['lastUsedAt']).toBeNull();
  expect(Date.parse(String((await row('elder five'))?.['expiresAt']))).toBeGreaterThan(Date.now() + 29 * DAY_MS);
  expect(await row('own eight')).toMatchObject({ personal: true, owner: { id: memberId() } });
});

test('1.11 is filtered by status, Inactive included', async () => {
  expect(await names({ status: 'ACTIVE' })).toEqual(['apple one', 'Banana two', 'cherry three', 'elder five', 'own eight']);
  expect(await names({ status: 'INACTIVE' })).toEqual(['date four']);
  expect(await names({ status: 'EXPIRED' })).toEqual(['fig six']);
  expect(await names({ status: 'DELETED' })).toEqual(['grape seven']);
  for (const status of ['ACTIVE', 'INACTIVE', 'EXPIRED', 'DELETED'])
    for (const { status: shown } of (await page({ filter: { status }, first: 100 })).rows) expect(shown).toBe(status);
});

test('1.11 is filtered by type, category, owner, kind of owner and time unused, with deleted keys or without', async () => {
  expect(await names({})).toEqual(LIVE);
  expect(await names({ includeDeleted: true })).toEqual(
    [...LIVE, 'grape seven'].toSorted((a, b) => a.toLowerCase().localeCompare(b.toLowerCase())),
  );
  expect(await names({ type: 'PUBLIC' })).toEqual(['Banana two']);
  expect(await names({ type: 'TEST' })).toEqual(['cherry three']);
  expect(await names({ category: 'staging' })).toEqual(['cherry three', 'elder five', 'fig six']);
  expect(await names({ category: 'Staging' })).toEqual([]);
  expect(await names({ ownerId: memberId() })).toEqual(['own eight']);
  expect(await names({ personal: true })).toEqual(['own eight']);
  expect(await names({ personal: false })).toEqual(LIVE.filter((name) => name !== 'own eight'));
  expect(await names({ archived: true })).toEqual([]);
  // Never used counts from the creation on.
  expect(await names({ unusedForDays: 2 })).toEqual(['Banana two', 'cherry three']);
  expect(await names({ unusedForDays: 5 })).toEqual(['Banana two']);
  expect(await names({ unusedForDays: 5, includeDeleted: true })).toEqual(['Banana two', 'grape seven']);
  expect(await names({ unusedForDays: 11 })).toEqual([]);
  expect(await names({ type: 'SECRET', category: 'staging', status: 'ACTIVE', search: 'E' })).toEqual(['elder five']);
  await expect(names({ unusedForDays: -1 })).rejects.toThrow(/BAD_USER_INPUT/);
  await expect(names({ ownerId: 'x' })).rejects.toThrow(/BAD_USER_INPUT/);
});

test('1.11 is searched by any part of the name, whatever its case', async () => {
  expect(await names({ search: 'AN' })).toEqual(['Banana two']);
  expect(await names({ search: ' e' })).toEqual(['own eight']);
  expect(await names({ search: 'nothing like it' })).toEqual([]);
  expect(await names({ search: '' })).toEqual(LIVE);
});

test('1.11 is sorted by creation, name, last use and expiry, in both directions, over pages', async () => {
  const orders: readonly (readonly [string, readonly string[]])[] = [
    ['CREATED_AT', LIVE],
    ['NAME', LIVE],
    ['LAST_USED_AT', ['Banana two', 'cherry three', 'apple one']],
    ['EXPIRES_AT', ['fig six', 'elder five']],
  ];
  for (const [field, expected] of orders) {
    const whole = await names({}, { field, direction: 'ASC' });
    // Never used is before all that was used; never to expire is after all that will.
    expect(whole.filter((name) => expected.includes(String(name)))).toEqual(expected);
    if (field === 'LAST_USED_AT') expect(whole.slice(-3)).toEqual(expected);
    if (field === 'EXPIRES_AT') expect(whole.slice(0, 2)).toEqual(expected);
    expect(await names({}, { field, direction: 'DESC' })).toEqual(whole.toReversed());
    const paged: unknown[] = [];
    for (let after: string | null = null; ;) {
      const { rows, total, next } = await page({ orderBy: { field, direction: 'ASC' }, first: 3, after });
      expect(total).toBe(LIVE.length);
      paged.push(...rows.map(({ name }) => name));
      if (next === null) break;
      after = next;
    }
    expect(paged).toEqual(whole);
  }
  await expect(page({ first: 101 })).rejects.toThrow(/BAD_USER_INPUT/);
});

test('5.3 the usage log has the names of the keys, of deleted ones too', async () => {
  const { apiKey, secret } = await product.createKey({ name: 'named before' });
  await product.verify({ key: secret, endpoint: 'GET /v1/named' });
  const log = async () => {
    const answer = await product.server.query(
      '{ viewer { organization { requestLog(first: 100) { edges { node { endpoint apiKey { name status } } } } } } }',
    );
    return listAt(answer, 'viewer.organization.requestLog.edges').map((edge) => at(edge, 'node'));
  };
  expect((await log())[0]).toEqual({ endpoint: 'GET /v1/named', apiKey: { name: 'named before', status: 'ACTIVE' } });
  await product.updateKey({ id: apiKey.id, name: 'named after' });
  await product.mutate('deleteApiKey', { id: apiKey.id, confirmName: 'named after' }, 'deletedId');
  expect((await log())[0]).toEqual({ endpoint: 'GET /v1/named', apiKey: { name: 'named after', status: 'DELETED' } });
  expect(await log()).toContainEqual({ endpoint: 'GET /v1/fruit', apiKey: { name: 'grape seven', status: 'DELETED' } });
  expect(own.apiKey['personal']).toBe(true);
});

/** The owner's global id. */
function memberId(): string {
  const organization = Buffer.from(product.organizationId, 'base64').toString();
  return encodeGlobalId('Member', `${organization.slice(organization.indexOf(':') + 1)}:${owner.slice('member:'.length)}`);
}
