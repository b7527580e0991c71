import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId, idOf } from '../../src/graphql/global-id.ts';
import { at, listAt, textAt } from './at.ts';
import { eventually, openTestGraphql, randomName, type TestGraphql } from './graphql-server.ts';

const CAPITAL = (name: string) => name.charAt(0).toUpperCase() + name.slice(1);

describe('people and organizations', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql();
  });
  afterAll(() => server.close());

  async function run(name: string, input: Readonly<Record<string, unknown>>, selection: string, token = server.ownerToken) {
    const type = CAPITAL(name);
    const document = `mutation ($input: ${type}Input!) { ${name}(input: $input) { __typename ... on ${type}Payload { position ${selection} } ... on UserError { code message } } }`;
    const { data, errors } = await server.query(document, { input }, token);
    expect(errors).toEqual([]);
    return at(data, name);
  }

  const createKey = (token: string, organizationId = server.organizationId, extra = {}) =>
    run(
      'createApiKey',
      { organizationId, name: randomName(), type: 'SECRET', ...extra },
      'secret apiKey { id name status personal archived owner { id } }',
      token,
    );
  const memberIdOf = (memberId: string) => encodeGlobalId('Member', `${server.ledger.organization.id}:${memberId}`);

  /** A team with its owner's token, made by the operator. */
  async function newTeam() {
    const operator = await server.tokenOf({ permissions: ['organizations:create'] });
    const made = await run('createOrganization', { name: 'The team', team: true }, 'organizationId ownerId', operator.token);
    const organizationId = textAt(made, 'organizationId');
    const plainId = idOf('Organization', organizationId) ?? '';
    const ownerId = (idOf('Member', textAt(made, 'ownerId')) ?? '').split(':')[1] ?? '';
    return { organizationId, plainId, token: (await server.tokenOf({ memberId: ownerId }, plainId)).token };
  }

  async function code(secret: string): Promise<string> {
    const { data } = await server.query('mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { code } }', {
      input: { key: secret },
    });
    return textAt(data, 'verifyApiKey.code');
  }

  it('3.1 roles say who manages team keys: owners and admins, while members use and auditors read', async () => {
    const team = await createKey(server.ownerToken);
    expect(await createKey((await server.newMember('ADMIN')).token)).toMatchObject({ apiKey: { personal: false } });
    const member = await server.newMember('MEMBER');
    const auditor = await server.newMember('AUDITOR');
    const create = 'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename } }';
    const deactivate = 'mutation ($input: DeactivateApiKeyInput!) { deactivateApiKey(input: $input) { __typename } }';
    for (const { token } of [member, auditor]) {
      const input = { organizationId: server.organizationId, name: randomName(), type: 'SECRET' };
      expect((await server.query(create, { input }, token)).errors[0]?.extensions?.['code']).toBe('FORBIDDEN');
      expect((await server.query(deactivate, { input: { id: at(team, 'apiKey.id') } }, token)).errors[0]?.extensions?.['code']).toBe(
        'FORBIDDEN',
      );
      const { data } = await server.query(
        'query ($id: ID!) { node(id: $id) { ... on ApiKey { name } } }',
        { id: at(team, 'apiKey.id') },
        token,
      );
      expect(at(data, 'node.name')).toBe(at(team, 'apiKey.name'));
    }
    expect(
      (
        await server.query(
          create,
          { input: { organizationId: server.organizationId, name: 'of an auditor', type: 'SECRET', personal: true } },
          auditor.token,
        )
      ).errors[0]?.extensions?.['code'],
    ).toBe('FORBIDDEN');
  });

  it('3.1 a member who is removed, or leaves, is out at once: with all tokens and all that they follow', async () => {
    const removed = await server.newMember('ADMIN');
    const left = await server.newMember('MEMBER');
    const controller = new AbortController();
    const followed = server.events(
      'subscription ($o: ID!) { apiKeyChanged(organizationId: $o) { position } }',
      { o: server.organizationId },
      controller.signal,
      removed.token,
    );
    const ended = (async () => {
      for await (const update of followed) if (update.errors !== undefined) return update.errors[0]?.extensions?.['code'];
      return 'ended';
    })();
    await eventually('it follows', () => server.followers() > 1);
    expect(await run('removeMember', { id: memberIdOf(removed.memberId) }, 'removedId')).toMatchObject({
      removedId: memberIdOf(removed.memberId),
    });
    expect(await run('leaveOrganization', {}, '', left.token)).toMatchObject({ __typename: 'LeaveOrganizationPayload' });
    for (const { token } of [removed, left])
      expect((await server.query('{ viewer { actorId } }', {}, token)).errors[0]?.extensions?.['code']).toBe('UNAUTHENTICATED');
    expect(await ended).toBe('FORBIDDEN');
    controller.abort();
    expect(await run('leaveOrganization', {}, '')).toMatchObject({ __typename: 'LastOwner', code: 'LAST_OWNER' });
    const service = await server.tokenOf({ permissions: ['membership:own'] });
    expect(await run('leaveOrganization', {}, '', service.token)).toMatchObject({ code: 'INVALID_INPUT' });
    expect(await run('createJoinCode', { organizationId: server.organizationId }, 'joinCode', service.token)).toMatchObject({
      code: 'INVALID_INPUT',
    });
  });

  it('3.2 a member makes and manages personal keys, which joining a team archives and leaving it restores', async () => {
    const alice = await server.newMember('MEMBER');
    const made = await createKey(alice.token, server.organizationId, { personal: true });
    expect(made).toMatchObject({
      apiKey: { status: 'ACTIVE', personal: true, archived: false, owner: { id: memberIdOf(alice.memberId) } },
    });
    const id = textAt(made, 'apiKey.id');
    expect(await run('deactivateApiKey', { id }, 'apiKey { status }', alice.token)).toMatchObject({ apiKey: { status: 'INACTIVE' } });
    expect(await run('activateApiKey', { id }, 'apiKey { status }', alice.token)).toMatchObject({ apiKey: { status: 'ACTIVE' } });

    const team = await newTeam();
    const consent = await run('createJoinCode', { organizationId: team.organizationId }, 'joinCode expiresAt', alice.token);
    const joined = await run(
      'addMember',
      { organizationId: team.organizationId, role: 'MEMBER', joinCode: textAt(consent, 'joinCode') },
      'member { id role }',
      team.token,
    );
    expect(joined).toMatchObject({ member: { role: 'MEMBER' } });
    expect(await code(textAt(made, 'secret'))).toBe('INACTIVE');
    expect(await shown(id, alice.token)).toEqual({ status: 'INACTIVE', personal: true, archived: true });
    expect(await named({ archived: true })).toEqual([at(made, 'apiKey.name')]);
    expect(await named({ status: 'INACTIVE', personal: true, ownerId: memberIdOf(alice.memberId) })).toEqual([at(made, 'apiKey.name')]);
    expect(await run('activateApiKey', { id }, 'apiKey { status }', alice.token)).toMatchObject({ __typename: 'KeyArchived' });
    expect(await createKey(alice.token, server.organizationId, { personal: true })).toMatchObject({ __typename: 'KeyArchived' });

    const memberId = (idOf('Member', textAt(joined, 'member.id')) ?? '').split(':')[1] ?? '';
    const inTeam = await server.tokenOf({ memberId }, team.plainId);
    expect(at((await server.query('{ viewer { organization { team } } }', {}, inTeam.token)).data, 'viewer.organization.team')).toBe(true);
    expect(await createKey(inTeam.token, team.organizationId, { personal: true })).toMatchObject({ __typename: 'KeyArchived' });
    await run('leaveOrganization', {}, '', inTeam.token);
    expect(await code(textAt(made, 'secret'))).toBe('VALID');
    expect(await shown(id, alice.token)).toEqual({ status: 'ACTIVE', personal: true, archived: false });
    const { data } = await server.query(
      'query ($id: ID!) { node(id: $id) { ... on ApiKey { events(first: 20) { edges { node { type actorId } } } } } }',
      { id },
    );
    expect(listAt(data, 'node.events.edges').map((edge) => at(edge, 'node.type'))).toEqual([
      'KEY_CREATED',
      'DEACTIVATED',
      'ACTIVATED',
      'ARCHIVED',
      'RESTORED',
    ]);

    const log = `query ($o: ID!, $filter: LedgerEventFilter) { node(id: $o) { ... on Organization {
      ledgerEvents(first: 100, filter: $filter) { edges { node { type subjectId data } } } } } }`;
    const told = async (token: string, o: string, filter: unknown = null) =>
      listAt((await server.query(log, { o, filter }, token)).data, 'node.ledgerEvents.edges').map((edge) => textAt(edge, 'node.type'));
    const whole = await server.query(log, { o: server.organizationId });
    expect(whole.errors).toEqual([]);
    const added = listAt(whole.data, 'node.ledgerEvents.edges').find((edge) => at(edge, 'node.type') === 'PERSONAL_KEY_ADDED');
    const subjectIds = [textAt(added, 'node.subjectId')];
    expect(await told(server.ownerToken, server.organizationId, { subjectIds })).toEqual(['PERSONAL_KEY_ADDED']);
    expect(await told(team.token, team.organizationId)).toContain('TEAM_JOINED');
    expect(await told(team.token, team.organizationId, { subjectIds })).toEqual(['TEAM_JOINED', 'MEMBERSHIP_ENDED']);
  });

  async function shown(id: string, token: string): Promise<unknown> {
    return at(
      (await server.query('query ($id: ID!) { node(id: $id) { ... on ApiKey { status personal archived } } }', { id }, token)).data,
      'node',
    );
  }

  async function named(filter: unknown): Promise<readonly unknown[]> {
    const { data } = await server.query(
      'query ($filter: ApiKeyFilter) { viewer { organization { apiKeys(filter: $filter) { edges { node { name } } } } } }',
      { filter },
    );
    return listAt(data, 'viewer.organization.apiKeys.edges').map((edge) => at(edge, 'node.name'));
  }
});
