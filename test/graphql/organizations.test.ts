import { afterAll, beforeAll, expect, test } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { at, listAt, textAt } from './at.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const CREATE = `mutation ($input: CreateOrganizationInput!) { createOrganization(input: $input) {
  __typename ... on CreateOrganizationPayload { position organizationId ownerId secret } ... on UserError { code message } } }`;
const CHANGE_PLAN = `mutation ($input: ChangePlanInput!) { changePlan(input: $input) {
  __typename ... on ChangePlanPayload { position } ... on UserError { code message } } }`;
const VIEWER = '{ viewer { role permissions organization { id name plan members { edges { node { name email role } } } } } }';

let server: TestGraphql;
let operator = '';
beforeAll(async () => {
  server = await openTestGraphql();
  operator = (await server.tokenOf({ permissions: ['organizations:create', 'plans:write'] })).token;
});
afterAll(() => server.close());

const create = async (input: Readonly<Record<string, unknown>>) =>
  at((await server.query(CREATE, { input }, operator)).data, 'createOrganization');

test('3.1 a new organization has an owner, who gets in with the token that is shown once', async () => {
  const made = await create({ name: 'Umbrella', ownerName: 'Ada', ownerEmail: 'ada@example.com' });
  const { data, errors } = await server.query(VIEWER, {}, textAt(made, 'secret'));
  expect(errors).toEqual([]);
  expect(at(data, 'viewer')).toMatchObject({
    role: 'OWNER',
    organization: {
      id: textAt(made, 'organizationId'),
      name: 'Umbrella',
      plan: 'ENTERPRISE',
      members: { edges: [{ node: { name: 'Ada', email: 'ada@example.com', role: 'OWNER' } }] },
    },
  });
  const events = await server.query(
    'query ($id: ID!) { node(id: $id) { ... on Organization { ledgerEvents(after: "0") { edges { node { type actorId } } } } } }',
    { id: textAt(made, 'organizationId') },
    textAt(made, 'secret'),
  );
  expect(listAt(events.data, 'node.ledgerEvents.edges').map((edge) => at(edge, 'node.type'))).toEqual([
    'ORGANIZATION_CREATED',
    'MEMBER_ADDED',
    'ACCESS_TOKEN_ISSUED',
  ]);
  expect(JSON.stringify(events)).not.toContain('Ada');
});

test('whoever made an organization can not look into it', async () => {
  const made = await create({ name: 'Closed' });
  const answer = await server.query('query ($id: ID!) { node(id: $id) { id } }', { id: textAt(made, 'organizationId') }, server.ownerToken);
  expect(at(answer.data, 'node')).toBeNull();
});

test('an organization is made once for one idempotency key, and a retry is shown the same token', async () => {
  const input = { name: 'Once', ownerName: 'Grace', idempotencyKey: 'found-1' };
  const answers = await Promise.all(Array.from({ length: 5 }, () => create(input)));
  expect(answers[0]).toMatchObject({ __typename: 'CreateOrganizationPayload' });
  for (const answer of answers) expect(answer).toEqual(answers[0]);
  expect(await server.ledger.db.selectFrom('organizations').select('id').where('name', '=', 'Once').execute()).toHaveLength(1);
  expect(await create({ ...input, ownerName: 'Ada' })).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
});

test('3.5 a plan caps all keys of an organization together: FREE 100 a minute, BASIC 1,000, PRO 10,000, ENTERPRISE as agreed', async () => {
  const made = await create({ name: 'On a plan' });
  const organizationId = textAt(made, 'organizationId');
  const owner = textAt(made, 'secret');
  const secrets: string[] = [];
  for (const name of ['first key', 'second key']) {
    const { data } = await server.query(
      'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { ... on CreateApiKeyPayload { secret } } }',
      { input: { organizationId, name, type: 'SECRET' } },
      owner,
    );
    secrets.push(textAt(data, 'createApiKey.secret'));
  }
  const change = async (input: Readonly<Record<string, unknown>>) =>
    at((await server.query(CHANGE_PLAN, { input: { organizationId, ...input } }, operator)).data, 'changePlan');
  const verify = async (key: string | undefined, cost: number) => {
    const { data } = await server.query(
      'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { code message } }',
      { input: { key, cost } },
      owner,
    );
    return at(data, 'verifyApiKey.code');
  };
  let used = 0;
  for (const [plan, cap] of [
    ['FREE', 100],
    ['BASIC', 1000],
    ['PRO', 10_000],
  ] as const) {
    expect(await change({ plan })).toMatchObject({ __typename: 'ChangePlanPayload' });
    expect(at((await server.query(VIEWER, {}, owner)).data, 'viewer.organization.plan')).toBe(plan);
    expect(await verify(secrets[0], cap - used - 1)).toBe('VALID');
    expect(await verify(secrets[1], 2)).toBe('RATE_LIMITED');
    expect(await verify(secrets[1], 1)).toBe('VALID');
    used = cap;
    const { data } = await server.query('{ viewer { organization { caps { requestsPerSecond requestsPerMinute } } } }', {}, owner);
    expect(at(data, 'viewer.organization.caps')).toEqual({ requestsPerSecond: null, requestsPerMinute: cap });
  }
  expect(await change({ plan: 'ENTERPRISE', caps: { requestsPerMinute: 10_001 } })).toMatchObject({ __typename: 'ChangePlanPayload' });
  expect([await verify(secrets[1], 2), await verify(secrets[1], 1), await verify(secrets[1], 1)]).toEqual([
    'RATE_LIMITED',
    'VALID',
    'RATE_LIMITED',
  ]);
  expect(await change({ plan: 'ENTERPRISE' })).toMatchObject({ __typename: 'ChangePlanPayload' });
  expect(await verify(secrets[0], 1_000_000)).toBe('VALID');
  expect(await change({ plan: 'FREE', caps: { requestsPerMinute: 5 } })).toMatchObject({ code: 'INVALID_INPUT' });
  expect(await change({ organizationId: encodeGlobalId('Organization', crypto.randomUUID()), plan: 'FREE' })).toMatchObject({
    code: 'NOT_FOUND',
  });
});
