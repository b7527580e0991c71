import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { MUTATION_REFUSALS } from '../../src/domain/refusals.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { done } from '../support/ledger.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { at, textAt } from './at.ts';
import { openTestGraphql, randomName, type TestGraphql } from './graphql-server.ts';

const CAPITAL = (name: string) => name.charAt(0).toUpperCase() + name.slice(1);

describe('every expected failure of a mutation', () => {
  let server: TestGraphql;
  let clock: TestClock;
  const reached = new Set<string>();
  beforeAll(async () => {
    server = await openTestGraphql();
    clock = await installTestClock(server.ledger.testDatabase);
  });
  afterAll(async () => {
    await clock.close();
    await server.close();
  });

  async function run(name: string, input: Readonly<Record<string, unknown>>, token?: string) {
    const payload =
      {
        createApiKey: 'apiKey { id name }',
        addMember: 'member { id }',
        createProfile: 'profile { id }',
        updateOrganizationSettings: 'organization { id }',
        createAccessToken: 'accessToken { id }',
        createWebhookEndpoint: 'endpoint { id }',
      }[name] ?? '';
    const document = `mutation ($input: ${CAPITAL(name)}Input!) { ${name}(input: $input) { __typename ... on ${CAPITAL(name)}Payload { position ${payload} } ... on UserError { code message } ... on InvalidInput { field } ${name === 'recordUsage' ? '' : '... on NotFound { field }'} } }`;
    const { data, errors } = await server.query(document, { input }, token);
    expect(errors).toEqual([]);
    const result = at(data, name);
    if (at(result, 'code') !== undefined) {
      reached.add(textAt(result, 'code'));
      expect(textAt(result, 'message').length).toBeGreaterThan(10);
    }
    return result;
  }

  const org = () => ({ organizationId: server.organizationId });
  const newKey = async (extra = {}) => {
    const created = await run('createApiKey', { ...org(), name: randomName(), type: 'SECRET', ...extra });
    return { id: textAt(created, 'apiKey.id'), name: textAt(created, 'apiKey.name') };
  };
  const ghost = encodeGlobalId('ApiKey', crypto.randomUUID());

  it('INVALID_INPUT names the field, for plain faults and for ids that are garbage or of another type', async () => {
    expect(await run('createApiKey', { ...org(), name: 'ab', type: 'SECRET' })).toMatchObject({
      __typename: 'InvalidInput',
      field: 'name',
    });
    expect(await run('createApiKey', { ...org(), name: randomName(), type: 'SECRET', quotas: { daily: 0.5 } })).toMatchObject({
      field: 'quotas.daily',
    });
    expect(await run('createApiKey', { organizationId: 'garbage', name: randomName(), type: 'SECRET' })).toMatchObject({
      field: 'organizationId',
    });
    for (const id of ['', 'x', ghost.slice(1), server.organizationId, `${ghost}=`, 'a'.repeat(5000)]) {
      expect(await run('deactivateApiKey', { id })).toMatchObject({ __typename: 'InvalidInput', code: 'INVALID_INPUT', field: 'id' });
    }
    expect(await run('recordUsage', { items: [{ endpoint: 'GET /', status: 200, durationMs: 1 }] })).toMatchObject({
      __typename: 'InvalidInput',
      field: 'items.0',
    });
    expect(await run('recordUsage', { items: [{ endpoint: 'GET /', status: 99, durationMs: 1 }] })).toMatchObject({
      field: 'items.0.status',
    });
  });

  it('INVALID_INPUT is also JSON that is nested by the thousands', async () => {
    const nested = `{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`;
    for (const [name, field, more] of [
      ['createProfile', 'settings', {}],
      ['createApiKey', 'metadata', { type: 'SECRET' }],
    ] as const) {
      const document = `mutation ($input: ${CAPITAL(name)}Input!) { ${name}(input: $input) { ... on InvalidInput { field message } } }`;
      const body = JSON.stringify({ query: document, variables: { input: { ...org(), name: randomName(), ...more, [field]: 'NESTED' } } });
      const answer = (await (await server.post(body.replace('"NESTED"', nested), server.ownerToken)).json()) as { readonly data: unknown };
      expect(at(answer.data, name)).toEqual({ field, message: `'${field}': ${field} can be nested 32 levels deep at most` });
    }
  });

  it('NOT_FOUND is what is not there and what is of another organization', async () => {
    expect(await run('deactivateApiKey', { id: ghost })).toMatchObject({ __typename: 'NotFound', field: 'id' });
    const other = await server.ledger.newOrganization('Other');
    const key = await server.ledger.newKey({}, other.owner);
    for (const name of ['deactivateApiKey', 'activateApiKey', 'regenerateApiKey', 'updateApiKey'])
      expect(await run(name, { id: encodeGlobalId('ApiKey', key.keyId) })).toMatchObject({ __typename: 'NotFound' });
    expect(
      await run('createApiKey', { organizationId: encodeGlobalId('Organization', other.id), name: randomName(), type: 'SECRET' }),
    ).toMatchObject({ __typename: 'NotFound', field: 'organizationId' });
    expect(
      await run('createApiKey', {
        ...org(),
        name: randomName(),
        type: 'SECRET',
        profileId: encodeGlobalId('Profile', crypto.randomUUID()),
      }),
    ).toMatchObject({ field: 'profileId' });
    expect(await run('removeMember', { id: encodeGlobalId('Member', `${other.id}:${other.owner.memberId}`) })).toMatchObject({
      __typename: 'NotFound',
      field: 'id',
    });
    expect(await run('renameOrganization', { organizationId: encodeGlobalId('Organization', other.id), name: 'Mine' })).toMatchObject({
      __typename: 'NotFound',
    });
    expect(
      await run('createAccessToken', {
        ...org(),
        name: 'x',
        memberId: encodeGlobalId('Member', `${server.ledger.organization.id}:${crypto.randomUUID()}`),
      }),
    ).toMatchObject({ field: 'memberId' });
    expect(await run('revokeAccessToken', { id: encodeGlobalId('AccessToken', crypto.randomUUID()) })).toMatchObject({
      __typename: 'NotFound',
    });
  });

  it('NAME_TAKEN', async () => {
    const { id, name } = await newKey();
    expect(await run('createApiKey', { ...org(), name: name.toUpperCase(), type: 'TEST' })).toMatchObject({ __typename: 'NameTaken' });
    expect(await run('updateApiKey', { id: (await newKey()).id, name })).toMatchObject({ __typename: 'NameTaken' });
    expect(await run('updateApiKey', { id, name })).toMatchObject({ __typename: 'UpdateApiKeyPayload' });
  });

  it('CONFIRMATION_MISMATCH, and KEY_DELETED for all that comes after', async () => {
    const { id, name } = await newKey();
    expect(await run('deleteApiKey', { id, confirmName: 'another' })).toMatchObject({ __typename: 'ConfirmationMismatch' });
    expect(await run('deleteApiKey', { id, confirmName: name })).toMatchObject({ __typename: 'DeleteApiKeyPayload' });
    for (const mutation of ['updateApiKey', 'activateApiKey', 'deactivateApiKey', 'regenerateApiKey'])
      expect(await run(mutation, { id })).toMatchObject({ __typename: 'KeyDeleted' });
    expect(await run('deleteApiKey', { id, confirmName: name })).toMatchObject({ __typename: 'KeyDeleted' });
  });

  it('KEY_WAS_USED and PERMISSION_NOT_PUBLIC, where the settings say so', async () => {
    const settings = (changes: object) => run('updateOrganizationSettings', { ...org(), ...changes });
    const { keyId, secret } = await server.ledger.newKey({ name: 'a used key' });
    await server.ledger.verify(secret);
    await settings({ deletionPolicy: 'UNUSED_KEYS', publicKeyPermissions: ['read'] });
    const deletion = { id: encodeGlobalId('ApiKey', keyId), confirmName: 'a used key' };
    expect(await run('deleteApiKey', deletion)).toMatchObject({ __typename: 'KeyWasUsed' });
    const key = { ...org(), name: randomName(), type: 'PUBLIC', permissions: ['read', 'admin'] };
    expect(await run('createApiKey', key)).toMatchObject({ __typename: 'PermissionNotPublic' });
    expect(await settings({ deletionPolicy: 'ANY_KEY', publicKeyPermissions: null })).toMatchObject({
      __typename: 'UpdateOrganizationSettingsPayload',
    });
    expect(await run('deleteApiKey', deletion)).toMatchObject({ __typename: 'DeleteApiKeyPayload' });
  });

  it('PROFILE_IN_USE, NAME_TAKEN for profiles, and NOT_FOUND for one of another organization', async () => {
    const profile = textAt(await run('createProfile', { ...org(), name: 'Strict', settings: { depth: 1 } }), 'profile.id');
    expect(await run('createProfile', { ...org(), name: 'STRICT', settings: {} })).toMatchObject({ __typename: 'NameTaken' });
    expect(await run('createProfile', { ...org(), name: 'Too much', settings: { text: 'x'.repeat(20_000) } })).toMatchObject({
      field: 'settings',
    });
    expect(await run('createProfile', { ...org(), name: 'A list', settings: [1] })).toMatchObject({ field: 'settings' });
    const key = await newKey({ profileId: profile });
    expect(await run('deleteProfile', { id: profile })).toMatchObject({ __typename: 'ProfileInUse' });
    const other = await server.ledger.newOrganization('With a profile');
    const { result } = done(await server.ledger.profiles.create(other.owner, { organizationId: other.id, name: 'Foreign', settings: {} }));
    const foreign = encodeGlobalId('Profile', result.profileId);
    expect(await run('updateApiKey', { id: key.id, profileId: foreign })).toMatchObject({ __typename: 'NotFound', field: 'profileId' });
    for (const name of ['updateProfile', 'deleteProfile'])
      expect(await run(name, { id: foreign, ...(name === 'updateProfile' ? { name: 'Mine' } : {}) })).toMatchObject({
        __typename: 'NotFound',
        field: 'id',
      });
    expect(await run('updateApiKey', { id: key.id, profileId: null })).toMatchObject({ __typename: 'UpdateApiKeyPayload' });
    expect(await run('deleteProfile', { id: profile })).toMatchObject({ __typename: 'DeleteProfilePayload' });
    expect(await run('updateProfile', { id: profile })).toMatchObject({ __typename: 'NotFound' });
  });

  it('KEY_EXPIRED', async () => {
    const { id } = await newKey({ expiresAt: new Date(Date.now() + 60_000).toISOString() });
    await clock.advance(60_000);
    expect(await run('activateApiKey', { id })).toMatchObject({ __typename: 'KeyExpired' });
    expect(await run('regenerateApiKey', { id })).toMatchObject({ __typename: 'KeyExpired' });
    expect(at(await server.query('query ($id: ID!) { node(id: $id) { ... on ApiKey { status } } }', { id }), 'data.node.status')).toBe(
      'EXPIRED',
    );
  });

  it('ALREADY_IMPORTED', async () => {
    const key = () => ({ ...org(), keys: [{ name: randomName(), hash: 'ab'.repeat(32) }] });
    expect(await run('importApiKeys', key())).toMatchObject({ __typename: 'ImportApiKeysPayload' });
    expect(await run('importApiKeys', key())).toMatchObject({ __typename: 'AlreadyImported' });
  });

  it('INSUFFICIENT_BALANCE', async () => {
    const other = await server.ledger.newOrganization('Without funds');
    done(await server.ledger.balances.enable(null, { organizationId: other.id }));
    const { token } = await server.tokenOf({ memberId: other.owner.memberId }, other.id);
    const input = { organizationId: encodeGlobalId('Organization', other.id), name: randomName(), type: 'SECRET' };
    const document = 'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on UserError { code } } }';
    const { data } = await server.query(document, { input }, token);
    expect(data).toEqual({ createApiKey: { __typename: 'InsufficientBalance', code: 'INSUFFICIENT_BALANCE' } });
    reached.add('INSUFFICIENT_BALANCE');
  });

  it('LAST_OWNER and ALREADY_MEMBER', async () => {
    const id = encodeGlobalId('Member', `${server.ledger.organization.id}:${server.ledger.owner.memberId}`);
    expect(await run('changeMemberRole', { id, role: 'MEMBER' })).toMatchObject({ __typename: 'LastOwner' });
    expect(await run('removeMember', { id })).toMatchObject({ __typename: 'LastOwner' });
    expect(await run('addMember', { ...org(), role: 'MEMBER', oidcSubject: 'alice' })).toMatchObject({ __typename: 'AddMemberPayload' });
    expect(await run('addMember', { ...org(), role: 'ADMIN', oidcSubject: 'alice' })).toMatchObject({ __typename: 'AlreadyMember' });
  });

  it('KEY_ARCHIVED', async () => {
    const team = done(await server.ledger.organizations.create(null, { name: 'Team', team: true })).result;
    const owner = await server.tokenOf({ memberId: team.memberId }, team.organizationId);
    const input = {
      organizationId: encodeGlobalId('Organization', team.organizationId),
      name: randomName(),
      type: 'SECRET',
      personal: true,
    };
    expect(await run('createApiKey', input, owner.token)).toMatchObject({ __typename: 'KeyArchived' });
  });

  it('WEBHOOK_INACTIVE', async () => {
    const url = 'https://example.com/hook';
    const created = await run('createWebhookEndpoint', { ...org(), url, eventTypes: ['KEY_CREATED'] });
    const id = textAt(created, 'endpoint.id');
    await run('updateWebhookEndpoint', { id, active: false });
    expect(await run('sendTestWebhook', { id })).toMatchObject({ __typename: 'WebhookInactive' });
  });

  it('IDEMPOTENCY_CONFLICT', async () => {
    const { id } = await newKey();
    expect(await run('updateApiKey', { id, category: 'one', idempotencyKey: 'k' })).toMatchObject({ __typename: 'UpdateApiKeyPayload' });
    expect(await run('updateApiKey', { id, category: 'two', idempotencyKey: 'k' })).toMatchObject({ __typename: 'IdempotencyConflict' });
  });

  it('the catalogue holds nothing that was not reached', () => {
    expect([...reached].toSorted()).toEqual(Object.keys(MUTATION_REFUSALS).toSorted());
    expect(server.logLines).toEqual([]);
    expect(server.ledger.errors).toEqual([]);
  });
});
