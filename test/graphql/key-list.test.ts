import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { createFolder } from '../../src/projections/projection.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { done } from '../support/ledger.ts';
import { appendUsage } from '../support/tenant.ts';
import { at, listAt } from './at.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const LIST = `query ($filter: ApiKeyFilter, $orderBy: ApiKeyOrder, $first: Int, $after: String) {
  viewer { organization { apiKeys(filter: $filter, orderBy: $orderBy, first: $first, after: $after) { totalCount pageInfo { hasNextPage endCursor } edges { node { name createdAt expiresAt } } } } }
}`;
const NAMES = ['alpha', 'Beta', 'GAMMA', 'delta 100%', 'epsilon_1', 'zeta\\x', 'éta', 'theta', 'iota', 'kappa', 'lambda', 'mu mu'];
const IN_A_DAY = new Date(Date.now() + 86_400_000).toISOString();

describe('the list of keys', () => {
  let server: TestGraphql;
  let memberToken = '';
  let memberId = '';
  beforeAll(async () => {
    server = await openTestGraphql();
    ({ token: memberToken, memberId } = await server.newMember('MEMBER'));
    for (const [index, name] of NAMES.entries()) {
      await server.ledger.newKey({
        name,
        category: index % 2 === 0 ? 'production' : 'staging',
        type: index % 3 === 0 ? 'TEST' : 'SECRET',
        expiresAt: index % 4 === 0 ? IN_A_DAY : null,
      });
    }
    const asMember = { ...server.ledger.owner, id: `member:${memberId}`, memberId };
    await server.ledger.newKey({ name: 'personal', personal: true }, asMember);
    const { keyId } = await server.ledger.newKey({ name: 'deleted' });
    done(await server.ledger.keys.delete(server.ledger.owner, { id: keyId, confirmName: 'deleted' }));
  });
  afterAll(() => server.close());

  async function page(variables: Readonly<Record<string, unknown>>, token = server.ownerToken) {
    const { data, errors } = await server.query(LIST, variables, token);
    expect(errors).toEqual([]);
    const list = at(data, 'viewer.organization.apiKeys');
    return {
      names: listAt(list, 'edges').map((edge) => at(edge, 'node.name')),
      total: at(list, 'totalCount'),
      next: at(list, 'pageInfo.hasNextPage') === true ? at(list, 'pageInfo.endCursor') : null,
    };
  }

  async function all(orderBy: { readonly field: string; readonly direction: string }, first: number) {
    const names: unknown[] = [];
    for (let after: unknown = null; ;) {
      const { names: more, next } = await page({ orderBy, first, after });
      names.push(...more);
      if (next === null) return names;
      after = next;
    }
  }

  for (const field of ['CREATED_AT', 'NAME', 'EXPIRES_AT', 'LAST_USED_AT']) {
    it(`by ${field} has every key once, forwards as backwards, on pages of any size`, async () => {
      const whole = await all({ field, direction: 'ASC' }, 100);
      expect(new Set(whole)).toEqual(new Set([...NAMES, 'personal']));
      expect(whole).toHaveLength(NAMES.length + 1);
      expect(await all({ field, direction: 'ASC' }, 4)).toEqual(whole);
      expect(await all({ field, direction: 'DESC' }, 5)).toEqual(whole.toReversed());
    });
  }

  it('is ordered: by name without regard to case, by creation as created, by expiry with never as the last', async () => {
    expect((await all({ field: 'NAME', direction: 'ASC' }, 100)).slice(0, 3)).toEqual(['alpha', 'Beta', 'delta 100%']);
    expect(await all({ field: 'CREATED_AT', direction: 'ASC' }, 100)).toEqual([...NAMES, 'personal']);
    expect(new Set((await all({ field: 'EXPIRES_AT', direction: 'ASC' }, 100)).slice(0, 3))).toEqual(
      new Set(['alpha', 'epsilon_1', 'iota']),
    );
  });

  it('1.11 by last use has the newest used first, of one moment too, and the never used last', async () => {
    const { db, organization } = server.ledger;
    const numbers = new Map((await db.selectFrom('api_keys').select(['name', 'number']).execute()).map((key) => [key.name, key.number]));
    const { number } = await db.selectFrom('organizations').select('number').where('id', '=', organization.id).executeTakeFirstOrThrow();
    const moment = (secondsAgo: number) => new Date(Date.now() - secondsAgo * 1000).toISOString();
    const same = moment(90);
    const used = [
      ['theta', moment(5)],
      ['alpha', same],
      ['iota', same],
      ['kappa', same],
      ['Beta', moment(4000)],
    ] as const;
    await appendUsage(
      db,
      number,
      used.map(([name, occurred_at]) => ({ key: numbers.get(name) ?? 0, occurred_at })),
    );
    await createFolder(USAGE_PROJECTION, 'live')(db);
    for (const first of [1, 2, 3, 100]) {
      const descending = await all({ field: 'LAST_USED_AT', direction: 'DESC' }, first);
      expect(descending).toHaveLength(NAMES.length + 1);
      // Of one moment the newest key first.
      expect(descending.slice(0, 5)).toEqual(['theta', 'kappa', 'iota', 'alpha', 'Beta']);
      expect(await all({ field: 'LAST_USED_AT', direction: 'ASC' }, first)).toEqual(descending.toReversed());
    }
    const { names } = await page({ orderBy: { field: 'LAST_USED_AT', direction: 'DESC' }, filter: { unusedForDays: 1, search: 'eta' } });
    expect(names).toEqual([]);
  });

  it('goes on after the last key seen, whatever was created or deleted meanwhile', async () => {
    const orderBy = { field: 'CREATED_AT', direction: 'DESC' };
    const before = await page({ orderBy, first: 3 });
    const extra = await server.ledger.newKey({ name: 'extra' });
    const after = await page({ orderBy, first: 3, after: before.next });
    expect([...before.names, ...after.names]).toEqual(['personal', ...NAMES.toReversed()].slice(0, 6));
    done(await server.ledger.keys.delete(server.ledger.owner, { id: extra.keyId, confirmName: 'extra' }));
  });

  it('1.11 is filtered, and counted as it is filtered', async () => {
    const names = async (filter: unknown, token?: string) => {
      const found = await page({ filter, first: 100, orderBy: { field: 'CREATED_AT', direction: 'ASC' } }, token);
      expect(found.total).toBe(found.names.length);
      return found.names;
    };
    expect(await names({ category: 'staging' })).toEqual(NAMES.filter((_, index) => index % 2 === 1));
    expect(await names({ type: 'TEST' })).toEqual(NAMES.filter((_, index) => index % 3 === 0));
    expect(await names({ search: 'ETA' })).toEqual(['Beta', 'zeta\\x', 'theta']);
    expect(await names({ search: '%' })).toEqual(['delta 100%']);
    expect(await names({ search: '_' })).toEqual(['epsilon_1']);
    expect(await names({ search: '\\' })).toEqual(['zeta\\x']);
    expect(await names({ status: 'DELETED' })).toEqual(['deleted', 'extra']);
    expect(await names({ includeDeleted: true })).toHaveLength(NAMES.length + 3);
    expect(await names({ status: 'INACTIVE' })).toEqual([]);
    expect(await names({ unusedForDays: 1 })).toEqual([]);
    expect(await names({ unusedForDays: 0, search: 'personal' })).toEqual(['personal']);
    expect(await names({ ownerId: encodeGlobalId('Member', `${server.ledger.organization.id}:${memberId}`) })).toEqual(['personal']);
    expect(await names({ search: 'personal' }, memberToken)).toEqual(['personal']);
    expect(await names({ search: 'personal' }, (await server.newMember('MEMBER')).token)).toEqual([]);
    expect(await names({ search: 'personal' }, (await server.newMember('AUDITOR')).token)).toEqual(['personal']);
  });

  it('refuses a cursor that was made for another order', async () => {
    const { next } = await page({ orderBy: { field: 'NAME', direction: 'ASC' }, first: 2 });
    for (const orderBy of [
      { field: 'NAME', direction: 'DESC' },
      { field: 'CREATED_AT', direction: 'ASC' },
    ]) {
      const { errors } = await server.query(LIST, { orderBy, after: next });
      expect(errors[0]?.extensions?.['code']).toBe('BAD_USER_INPUT');
    }
  });

  it('5.3 and the request log of an organization show a member only the keys that it sees', async () => {
    const team = await server.ledger.newKey({ name: 'team' });
    const other = await server.newMember('MEMBER');
    const asOther = { ...server.ledger.owner, id: `member:${other.memberId}`, memberId: other.memberId };
    const personal = await server.ledger.newKey({ name: 'of another', personal: true }, asOther);
    for (let i = 0; i < 3; i++) for (const { secret } of [team, personal]) await server.ledger.verify(secret);
    const log = async (token: string) => {
      const { data } = await server.query(
        '{ viewer { organization { requestLog(first: 2) { pageInfo { hasNextPage } edges { node { apiKey { name } } } } } } }',
        {},
        token,
      );
      return {
        names: listAt(data, 'viewer.organization.requestLog.edges').map((edge) => at(edge, 'node.apiKey.name')),
        more: at(data, 'viewer.organization.requestLog.pageInfo.hasNextPage'),
      };
    };
    expect(await log(memberToken)).toEqual({ names: ['team', 'team'], more: true });
    expect(await log(server.ownerToken)).toEqual({ names: ['of another', 'team'], more: true });
  });
});
