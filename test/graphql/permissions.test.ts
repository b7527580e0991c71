import { getNamedType, isInterfaceType, isLeafType, isObjectType } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createRaiseAlerts } from '../../src/alerts/raise-alerts.ts';
import { defaultRuleId } from '../../src/domain/alert-rule.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { buildSchema } from '../../src/graphql/schema.ts';
import { done } from '../support/ledger.ts';
import { at, listAt } from './at.ts';
import { eventually, openTestGraphql, randomName, type Answer, type TestGraphql } from './graphql-server.ts';

const CALLERS = ['OWNER', 'ADMIN', 'MEMBER', 'AUDITOR', 'GATEWAY', 'CREATOR', 'OPERATOR', 'ANONYMOUS'] as const;
type Caller = (typeof CALLERS)[number];

const EVERYONE = 'OWNER ADMIN MEMBER AUDITOR GATEWAY CREATOR OPERATOR';
const ids = { key: encodeGlobalId('ApiKey', crypto.randomUUID()), member: '', token: encodeGlobalId('AccessToken', crypto.randomUUID()) };
const mutation = (name: string, input: string) => `mutation { ${name}(input: ${input}) { __typename } }`;

/** Who may use a field at all. Ids in the documents name nothing, so a caller who may is refused with NOT_FOUND at most. */
const ROOT_FIELDS: Readonly<Record<string, { readonly document: string; readonly may: string }>> = {
  'Query.viewer': { document: '{ viewer { actorId } }', may: EVERYONE },
  'Query.node': { document: `{ node(id: "${ids.key}") { id } }`, may: 'OWNER ADMIN MEMBER AUDITOR' },
  'Query.nodes': { document: `{ nodes(ids: ["${ids.key}"]) { id } }`, may: 'OWNER ADMIN MEMBER AUDITOR' },
  'Mutation.createApiKey': {
    document: mutation('createApiKey', '{ organizationId: "x", name: "abc", type: SECRET }'),
    may: 'OWNER ADMIN MEMBER',
  },
  'Mutation.updateApiKey': { document: mutation('updateApiKey', '{ id: "x" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.activateApiKey': { document: mutation('activateApiKey', '{ id: "x" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.deactivateApiKey': { document: mutation('deactivateApiKey', '{ id: "x" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.regenerateApiKey': { document: mutation('regenerateApiKey', '{ id: "x" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.deleteApiKey': { document: mutation('deleteApiKey', '{ id: "x", confirmName: "x" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.importApiKeys': { document: mutation('importApiKeys', '{ organizationId: "x", keys: [] }'), may: 'OWNER ADMIN' },
  'Mutation.verifyApiKey': { document: mutation('verifyApiKey', '{ key: "sk_live_nothing" }'), may: 'OWNER ADMIN GATEWAY' },
  'Mutation.recordUsage': {
    document: mutation('recordUsage', '{ items: [{ endpoint: "GET /", status: 1, durationMs: 1 }] }'),
    may: 'OWNER ADMIN',
  },
  'Mutation.createOrganization': { document: mutation('createOrganization', '{ name: "" }'), may: 'CREATOR' },
  'Mutation.changePlan': { document: mutation('changePlan', '{ organizationId: "x", plan: FREE }'), may: 'OPERATOR' },
  'Mutation.enableBalance': { document: mutation('enableBalance', '{ organizationId: "x" }'), may: 'OPERATOR' },
  'Mutation.disableBalance': { document: mutation('disableBalance', '{ organizationId: "x" }'), may: 'OPERATOR' },
  'Mutation.addFunds': { document: mutation('addFunds', '{ organizationId: "x", micros: 1 }'), may: 'OPERATOR' },
  'Mutation.renameOrganization': { document: mutation('renameOrganization', '{ organizationId: "x", name: "x" }'), may: 'OWNER' },
  'Mutation.changeOrganizationTeam': { document: mutation('changeOrganizationTeam', '{ organizationId: "x", team: true }'), may: 'OWNER' },
  'Mutation.updateOrganizationSettings': {
    document: mutation('updateOrganizationSettings', '{ organizationId: "x", quotaStatus: 401 }'),
    may: 'OWNER',
  },
  'Mutation.addMember': { document: mutation('addMember', '{ organizationId: "x", role: MEMBER }'), may: 'OWNER ADMIN' },
  'Mutation.changeMemberRole': { document: mutation('changeMemberRole', '{ id: "x", role: MEMBER }'), may: 'OWNER ADMIN' },
  'Mutation.removeMember': { document: mutation('removeMember', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.leaveOrganization': { document: mutation('leaveOrganization', '{ idempotencyKey: "" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.createJoinCode': { document: mutation('createJoinCode', '{ organizationId: "x" }'), may: 'OWNER ADMIN MEMBER' },
  'Mutation.createProfile': { document: mutation('createProfile', '{ organizationId: "x", name: "x", settings: {} }'), may: 'OWNER ADMIN' },
  'Mutation.updateProfile': { document: mutation('updateProfile', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.deleteProfile': { document: mutation('deleteProfile', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.createAccessToken': { document: mutation('createAccessToken', '{ organizationId: "x", name: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.revokeAccessToken': { document: mutation('revokeAccessToken', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.createAlertRule': {
    document: mutation('createAlertRule', '{ organizationId: "x", kind: QUOTA_THRESHOLD }'),
    may: 'OWNER ADMIN',
  },
  'Mutation.updateAlertRule': { document: mutation('updateAlertRule', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.deleteAlertRule': { document: mutation('deleteAlertRule', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.acknowledgeAlert': { document: mutation('acknowledgeAlert', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Subscription.alertRaised': {
    document: 'subscription ($o: ID!) { alertRaised(organizationId: $o) { position } }',
    may: 'OWNER ADMIN MEMBER AUDITOR',
  },
  'Mutation.createWebhookEndpoint': {
    document: mutation('createWebhookEndpoint', '{ organizationId: "x", url: "x" }'),
    may: 'OWNER ADMIN',
  },
  'Mutation.updateWebhookEndpoint': { document: mutation('updateWebhookEndpoint', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.rotateWebhookSecret': { document: mutation('rotateWebhookSecret', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.sendTestWebhook': { document: mutation('sendTestWebhook', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.redeliverWebhook': { document: mutation('redeliverWebhook', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Mutation.deleteWebhookEndpoint': { document: mutation('deleteWebhookEndpoint', '{ id: "x" }'), may: 'OWNER ADMIN' },
  'Subscription.apiKeyChanged': {
    document: 'subscription ($o: ID!) { apiKeyChanged(organizationId: $o) { position } }',
    may: 'OWNER ADMIN MEMBER AUDITOR',
  },
  'Subscription.keyUsed': {
    document: 'subscription ($o: ID!) { keyUsed(organizationId: $o) { position } }',
    may: 'OWNER ADMIN MEMBER AUDITOR',
  },
  'Subscription.ledgerEvents': {
    document: 'subscription ($o: ID!) { ledgerEvents(organizationId: $o) { position } }',
    may: 'OWNER ADMIN AUDITOR',
  },
};

/** Raises an alert about a key, as an evaluation would. */
async function raiseAlert(ledger: TestGraphql['ledger'], keyId: string): Promise<string> {
  const rule = { ruleId: defaultRuleId(ledger.organization.id, 'EXPIRING_SOON'), kind: 'EXPIRING_SOON', severity: 'WARNING' } as const;
  const finding = { ...rule, organizationId: ledger.organization.id, keyId, message: 'soon', details: {}, series: 'test', windowMs: null };
  await createRaiseAlerts(ledger.db)([finding]);
  return (await ledger.db.selectFrom('alerts').select('id').executeTakeFirstOrThrow()).id;
}

const PERIOD = 'from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z"';
/** Fields of an organization that need more than being in it. */
const ORGANIZATION_FIELDS: Readonly<Record<string, { readonly selection: string; readonly may: string }>> = {
  settings: { selection: 'settings { quotaStatus }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  caps: { selection: 'caps { requestsPerMinute }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  balance: { selection: 'balance { micros }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  members: { selection: 'members { edges { node { id } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  accessTokens: { selection: 'accessTokens { edges { node { id } } }', may: 'OWNER ADMIN AUDITOR' },
  apiKeys: { selection: 'apiKeys { totalCount edges { node { id } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  profiles: { selection: 'profiles { edges { node { id } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  ledgerEvents: { selection: 'ledgerEvents { edges { node { id } } }', may: 'OWNER ADMIN AUDITOR' },
  usage: { selection: `usage(${PERIOD}) { totals { requests } }`, may: 'OWNER ADMIN MEMBER AUDITOR' },
  requestLog: { selection: 'requestLog { edges { node { requestId } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  alerts: { selection: 'alerts { edges { node { id } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  alertRules: { selection: 'alertRules { id }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  asOf: { selection: 'asOf(position: "1") { name }', may: 'OWNER ADMIN AUDITOR' },
  webhookEndpoints: {
    selection: 'webhookEndpoints { edges { node { id deliveries { edges { node { id } } } } } }',
    may: 'OWNER ADMIN AUDITOR',
  },
};
const KEY_FIELDS: Readonly<Record<string, { readonly selection: string; readonly may: string }>> = {
  usage: { selection: `usage(${PERIOD}) { totals { requests } }`, may: 'OWNER ADMIN MEMBER AUDITOR' },
  requestLog: { selection: 'requestLog { edges { node { requestId } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  alerts: { selection: 'alerts { edges { node { id } } }', may: 'OWNER ADMIN MEMBER AUDITOR' },
  asOf: { selection: 'asOf(position: "1") { name }', may: 'OWNER ADMIN AUDITOR' },
  events: { selection: 'events { edges { node { id } } }', may: 'OWNER ADMIN AUDITOR' },
};
const NODES: Readonly<Record<string, string>> = {
  ApiKey: 'OWNER ADMIN MEMBER AUDITOR',
  Organization: 'OWNER ADMIN MEMBER AUDITOR',
  Member: 'OWNER ADMIN MEMBER AUDITOR',
  AccessToken: 'OWNER ADMIN AUDITOR',
  Profile: 'OWNER ADMIN MEMBER AUDITOR',
  LedgerEvent: 'OWNER ADMIN AUDITOR',
  Alert: 'OWNER ADMIN MEMBER AUDITOR',
  AlertRule: 'OWNER ADMIN MEMBER AUDITOR',
  WebhookEndpoint: 'OWNER ADMIN AUDITOR',
  WebhookDelivery: 'OWNER ADMIN AUDITOR',
};

describe('permissions', () => {
  let server: TestGraphql;
  const tokens = {} as Record<Caller, string | null>;
  let foreign = '';
  let keyId = '';
  const nodeIds: Record<string, string> = {};

  beforeAll(async () => {
    server = await openTestGraphql();
    const { id } = server.ledger.organization;
    for (const role of ['ADMIN', 'MEMBER', 'AUDITOR'] as const) tokens[role] = (await server.newMember(role)).token;
    tokens.OWNER = server.ownerToken;
    tokens.ANONYMOUS = null;
    const gateway = await server.tokenOf({ permissions: ['keys:verify'] });
    tokens.GATEWAY = gateway.token;
    tokens.CREATOR = (await server.tokenOf({ permissions: ['organizations:create'] })).token;
    tokens.OPERATOR = (await server.tokenOf({ permissions: ['plans:write', 'balance:write'] })).token;
    const other = await server.ledger.newOrganization('Other');
    foreign = (await server.tokenOf({ memberId: other.owner.memberId }, other.id)).token;
    const key = await server.ledger.newKey();
    keyId = key.keyId;
    const webhook = done(
      await server.ledger.webhooks.create(server.ledger.owner, {
        organizationId: id,
        url: 'https://example.com/',
        eventTypes: ['KeyCreated'],
      }),
    );
    const delivery = await server.ledger.db
      .insertInto('webhook_deliveries')
      .values({
        endpoint_id: webhook.result.endpointId,
        organization_id: id,
        event_position: key.position,
        state: 'delivered',
        next_attempt_at: null,
        failures: 0,
        claims: 1,
        created_at: new Date(),
        finished_at: new Date(),
      })
      .returning('id')
      .executeTakeFirstOrThrow();
    const { result: profile } = done(
      await server.ledger.profiles.create(server.ledger.owner, { organizationId: id, name: 'A profile', settings: {} }),
    );
    Object.assign(nodeIds, {
      ApiKey: encodeGlobalId('ApiKey', keyId),
      Organization: server.organizationId,
      Member: encodeGlobalId('Member', `${id}:${server.ledger.owner.memberId}`),
      AccessToken: encodeGlobalId('AccessToken', gateway.id),
      Profile: encodeGlobalId('Profile', profile.profileId),
      LedgerEvent: encodeGlobalId('LedgerEvent', key.position),
      Alert: encodeGlobalId('Alert', await raiseAlert(server.ledger, keyId)),
      AlertRule: encodeGlobalId('AlertRule', defaultRuleId(id, 'EXPIRING_SOON')),
      WebhookEndpoint: encodeGlobalId('WebhookEndpoint', webhook.result.endpointId),
      WebhookDelivery: encodeGlobalId('WebhookDelivery', delivery.id),
    });
  });
  afterAll(() => server.close());

  const outcome = (answer: Pick<Answer, 'errors'>) => (answer.errors[0]?.extensions?.['code'] as string | undefined) ?? 'allowed';
  const expected = (may: string, caller: Caller) =>
    caller === 'ANONYMOUS' ? 'UNAUTHENTICATED' : may.split(' ').includes(caller) ? 'allowed' : 'FORBIDDEN';

  it('the table has every root field', () => {
    const schema = buildSchema();
    const fields = [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()].flatMap((type) =>
      Object.keys(type?.getFields() ?? {}).map((field) => `${type?.name}.${field}`),
    );
    expect(Object.keys(ROOT_FIELDS).toSorted()).toEqual(fields.toSorted());
    const node = schema.getType('Node');
    expect(Object.keys(NODES).toSorted()).toEqual(
      (isInterfaceType(node) ? schema.getPossibleTypes(node) : []).map((type) => type.name).toSorted(),
    );
    for (const [name, table] of [
      ['Organization', ORGANIZATION_FIELDS],
      ['ApiKey', KEY_FIELDS],
    ] as const) {
      const type = schema.getType(name);
      // Of an organization all but what it is called: an object of its own, or what takes arguments.
      const guarded = isObjectType(type)
        ? Object.values(type.getFields()).filter(
            (field) => field.args.length > 0 || (name === 'Organization' && !isLeafType(getNamedType(field.type))),
          )
        : [];
      expect(guarded.map((field) => field.name).filter((field) => !(field in table))).toEqual([]);
    }
  });

  for (const [field, { document, may }] of Object.entries(ROOT_FIELDS)) {
    it(`3.1 ${field} is for ${may}`, async () => {
      const found: Partial<Record<Caller, string>> = {};
      const wanted: Partial<Record<Caller, string>> = {};
      for (const caller of CALLERS) {
        wanted[caller] = expected(may, caller);
        found[caller] = document.startsWith('subscription')
          ? await subscribed(document, tokens[caller])
          : outcome(await server.query(document, {}, tokens[caller]));
      }
      expect(found).toEqual(wanted);
    });
  }

  async function subscribed(document: string, token: string | null): Promise<string> {
    const abort = new AbortController();
    const response = await fetch(server.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'text/event-stream',
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify({ query: document, variables: { o: server.organizationId } }),
      signal: abort.signal,
    });
    let text = '';
    const reading = (async () => {
      if (response.body === null) return;
      for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) text += chunk;
    })().catch(() => undefined);
    await eventually('the stream is open or refused', () => server.followers() === 2 || text.includes('"code"'));
    const code = /"code":"(\w+)"/.exec(text)?.[1] ?? 'allowed';
    abort.abort();
    await reading;
    await eventually('the stream is gone', () => server.followers() === 0);
    return code;
  }

  for (const [field, { selection, may }] of Object.entries(ORGANIZATION_FIELDS)) {
    it(`Organization.${field} is for ${may}`, async () => {
      for (const caller of CALLERS)
        expect(`${caller} ${outcome(await server.query(`{ viewer { organization { ${selection} } } }`, {}, tokens[caller]))}`).toBe(
          `${caller} ${expected(may, caller)}`,
        );
    });
  }

  for (const [field, { selection, may }] of Object.entries(KEY_FIELDS)) {
    it(`ApiKey.${field} is for ${may}`, async () => {
      const query = `query ($id: ID!) { node(id: $id) { ... on ApiKey { ${selection} } } }`;
      for (const caller of CALLERS)
        expect(`${caller} ${outcome(await server.query(query, { id: nodeIds['ApiKey'] }, tokens[caller]))}`).toBe(
          `${caller} ${expected(may, caller)}`,
        );
    });
  }

  for (const [type, may] of Object.entries(NODES)) {
    it(`a node of type ${type} is for ${may}, and for nobody of another organization`, async () => {
      const query = 'query ($id: ID!) { node(id: $id) { __typename id } nodes(ids: [$id]) { __typename } }';
      for (const caller of CALLERS) {
        const answer = await server.query(query, { id: nodeIds[type] }, tokens[caller]);
        expect(`${caller} ${outcome(answer)}`).toBe(`${caller} ${expected(may, caller)}`);
        if (expected(may, caller) === 'allowed')
          expect(answer.data).toEqual({ node: { __typename: type, id: nodeIds[type] }, nodes: [{ __typename: type }] });
        else
          expect(answer.data ?? null).toSatisfy(
            (data: Answer['data']) => data == null || (data['node'] === null && (data['nodes'] === null || at(data, 'nodes.0') === null)),
          );
      }
      const elsewhere = await server.query(query, { id: nodeIds[type] }, foreign);
      expect(elsewhere.errors).toEqual([]);
      expect(elsewhere.data).toEqual({ node: null, nodes: [null] });
    });
  }

  it('a personal key is for its owner and for who manages keys or audits', async () => {
    const mine = await server.newMember('MEMBER');
    const me = { ...server.ledger.owner, id: `member:${mine.memberId}`, memberId: mine.memberId };
    const { result } = done(
      await server.ledger.keys.create(me, {
        organizationId: server.ledger.organization.id,
        type: 'SECRET',
        name: randomName(),
        personal: true,
      }),
    );
    const id = encodeGlobalId('ApiKey', result.keyId);
    const sees = async (token: string | null) => {
      const { data } = await server.query(
        'query ($id: ID!) { node(id: $id) { id } viewer { organization { apiKeys(first: 100) { edges { node { id } } } } } }',
        { id },
        token,
      );
      const listed = listAt(data, 'viewer.organization.apiKeys.edges').some((edge) => at(edge, 'node.id') === id);
      expect(data?.['node'] !== null).toBe(listed);
      return listed;
    };
    expect(await sees(mine.token)).toBe(true);
    expect(await sees(tokens.MEMBER)).toBe(false);
    for (const caller of ['OWNER', 'ADMIN', 'AUDITOR'] as const) expect(await sees(tokens[caller])).toBe(true);
    expect(outcome(await server.query(mutation('deactivateApiKey', `{ id: "${id}" }`), {}, tokens.MEMBER))).toBe('FORBIDDEN');
    expect(outcome(await server.query(mutation('deactivateApiKey', `{ id: "${nodeIds['ApiKey']}" }`), {}, mine.token))).toBe('FORBIDDEN');
    expect(outcome(await server.query(mutation('deactivateApiKey', `{ id: "${id}" }`), {}, mine.token))).toBe('allowed');
  });

  it('a subscription to another organization is refused', async () => {
    const abort = new AbortController();
    const stream = server.events(
      'subscription ($o: ID!) { apiKeyChanged(organizationId: $o) { position } }',
      { o: server.organizationId },
      abort.signal,
      foreign,
    );
    const first = await stream.next();
    expect(at(first.value, 'errors.0.extensions.code')).toBe('NOT_FOUND');
  });

  it('credentials that are no good refuse the whole request with 401', async () => {
    const answer = await server.query('{ __typename }', {}, 'kl_at_wrong');
    expect(answer.status).toBe(401);
    expect(answer.headers.get('www-authenticate')).toBe('Bearer');
    expect(outcome(answer)).toBe('UNAUTHENTICATED');
  });
});
