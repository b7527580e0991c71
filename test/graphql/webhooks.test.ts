import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createProjector } from '../../src/projections/projector.ts';
import { compareStreams } from '../../src/projections/state-difference.ts';
import { createDeliverer, type Deliverer } from '../../src/webhooks/deliverer.ts';
import { webhookProjection } from '../../src/webhooks/delivery-projection.ts';
import { resolveHost } from '../../src/webhooks/resolve-host.ts';
import { subjectOfStream } from '../../src/graphql/global-id.ts';
import { openReceiver, status, type Receiver } from '../webhooks/receiver.ts';
import { LOOPBACK } from '../webhooks/webhook-ledger.ts';
import { at, listAt, textAt } from './at.ts';
import { eventually, openTestGraphql, type TestGraphql } from './graphql-server.ts';

const ENDPOINT = 'id url description eventTypes active inactiveReason failingSince createdBy { kind }';
const DELIVERY =
  'id webhookId eventType state nextAttemptAt finishedAt event { position } endpoint { id } attempts { status error durationMs responseBody }';

describe('6.3 webhooks in GraphQL', () => {
  let server: TestGraphql;
  let receiver: Receiver;
  let deliverer: Deliverer;
  let projector: ReturnType<typeof createProjector>;
  beforeAll(async () => {
    server = await openTestGraphql({ webhookAllowPrivate: LOOPBACK });
    receiver = await openReceiver();
    const { ledger } = server;
    deliverer = createDeliverer({
      database: ledger.database,
      peppers: ledger.peppers,
      policy: ledger.policy,
      resolve: resolveHost,
      commands: ledger.webhooks,
      subjectIdOf: subjectOfStream,
      pollMs: 20,
      onError: (error) => ledger.errors.push(error),
      schedule: [],
    });
    projector = createProjector({
      database: ledger.database,
      projections: [webhookProjection(() => deliverer.wake())],
      pollMs: 20,
      pauseMs: 5,
      onError: (error) => ledger.errors.push(error),
      onPoisoned: () => undefined,
    });
  });
  afterAll(async () => {
    await projector.stop();
    await deliverer.stop();
    await receiver.close();
    await server.close();
  });

  async function run(name: string, input: Readonly<Record<string, unknown>>, selection: string, token?: string) {
    const title = name.charAt(0).toUpperCase() + name.slice(1);
    const document = `mutation ($input: ${title}Input!) { ${name}(input: $input) { __typename ... on ${title}Payload { position ${selection} } ... on UserError { code message } ... on InvalidInput { field } ... on NotFound { field } } }`;
    const { data, errors } = await server.query(document, { input }, token ?? server.ownerToken);
    expect(errors).toEqual([]);
    return at(data, name);
  }

  const create = (input: Readonly<Record<string, unknown>> = {}, token?: string) =>
    run(
      'createWebhookEndpoint',
      { organizationId: server.organizationId, url: receiver.url, eventTypes: ['KEY_CREATED'], ...input },
      `secret endpoint { ${ENDPOINT} }`,
      token,
    );

  async function node(id: string, selection: string, token?: string) {
    const { data, errors } = await server.query(
      `query ($id: ID!) { node(id: $id) { __typename ${selection} } }`,
      { id },
      token ?? server.ownerToken,
    );
    expect(errors).toEqual([]);
    return at(data, 'node');
  }
  const deliveriesOf = async (id: string, args = '') =>
    listAt(await node(id, `... on WebhookEndpoint { deliveries${args} { edges { node { ${DELIVERY} } } } }`), 'deliveries.edges').map(
      (edge) => at(edge, 'node'),
    );

  it('an endpoint is created with its secret, changed, listed and deleted', async () => {
    const created = await create({ description: ' Our own  ', eventTypes: ['DEACTIVATED', 'KEY_CREATED', 'KEY_CREATED'] });
    expect(textAt(created, 'secret')).toMatch(/^whsec_/);
    expect(at(created, 'endpoint')).toMatchObject({
      url: receiver.url,
      description: 'Our own',
      eventTypes: ['DEACTIVATED', 'KEY_CREATED'],
      active: true,
      inactiveReason: null,
      createdBy: { kind: 'MEMBER' },
    });
    const id = textAt(created, 'endpoint.id');
    const updated = await run('updateWebhookEndpoint', { id, active: false, eventTypes: ['ALERT_RAISED'] }, `endpoint { ${ENDPOINT} }`);
    expect(at(updated, 'endpoint')).toMatchObject({
      url: receiver.url,
      active: false,
      inactiveReason: 'REQUESTED',
      eventTypes: ['ALERT_RAISED'],
    });
    const { data } = await server.query('{ viewer { organization { webhookEndpoints { edges { node { id } } } } } }');
    expect(listAt(data, 'viewer.organization.webhookEndpoints.edges')).toEqual([{ node: { id } }]);
    expect(await run('deleteWebhookEndpoint', { id }, 'deletedId')).toMatchObject({ deletedId: id });
    expect(await node(id, '')).toBeNull();
    expect(await run('deleteWebhookEndpoint', { id }, 'deletedId')).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('without event types it is told of alerts', async () => {
    const created = await create({ eventTypes: null });
    expect(at(created, 'endpoint.eventTypes')).toEqual(['ALERT_RAISED']);
    await run('deleteWebhookEndpoint', { id: textAt(created, 'endpoint.id') }, 'deletedId');
  });

  it('what came of each delivery is told, and it can be sent again', async () => {
    receiver.answer(status(500, {}, 'broken'));
    const created = await create();
    const id = textAt(created, 'endpoint.id');
    const { position } = await server.ledger.newKey();
    await eventually('it has failed', async () => at((await deliveriesOf(id))[0], 'state') === 'FAILED');
    const [delivery] = await deliveriesOf(id);
    expect(delivery).toMatchObject({
      eventType: 'KEY_CREATED',
      event: { position: String(position) },
      endpoint: { id },
      nextAttemptAt: null,
      attempts: [{ status: 500, error: 'The receiver answered 500.', responseBody: 'broken' }],
    });
    expect(textAt(await node(id, '... on WebhookEndpoint { failingSince }'), 'failingSince')).toMatch(/^20/);

    receiver.answer(status(200));
    const deliveryId = textAt(delivery, 'id');
    const input = { id: deliveryId, idempotencyKey: 'again' };
    expect(await run('redeliverWebhook', input, 'delivery { id }')).toMatchObject({ delivery: { id: deliveryId } });
    await run('redeliverWebhook', input, 'delivery { id }');
    await eventually(
      'it is delivered',
      async () => at(await node(deliveryId, '... on WebhookDelivery { state }'), 'state') === 'DELIVERED',
    );
    expect(at(await node(deliveryId, `... on WebhookDelivery { ${DELIVERY} }`), 'attempts')).toMatchObject([
      { status: 200 },
      { status: 500 },
    ]);
    expect(new Set(receiver.received.slice(-2).map(({ headers }) => headers['webhook-id']))).toEqual(
      new Set([textAt(delivery, 'webhookId')]),
    );
    expect(await deliveriesOf(id, '(state: FAILED)')).toEqual([]);
    expect(await deliveriesOf(id, '(state: DELIVERED)')).toHaveLength(1);
    await run('deleteWebhookEndpoint', { id }, 'deletedId');
  });

  it('a test message goes to its endpoint alone', async () => {
    const one = textAt(await create(), 'endpoint.id');
    const other = textAt(await create(), 'endpoint.id');
    const before = receiver.received.length;
    const sent = await run('sendTestWebhook', { id: one }, '');
    await eventually('it arrived', () => receiver.received.length > before);
    expect(JSON.parse(receiver.received.at(-1)?.body ?? '')).toMatchObject({
      type: 'WEBHOOK_TEST_REQUESTED',
      data: { position: textAt(sent, 'position'), subjectId: one },
    });
    expect(await deliveriesOf(one)).toHaveLength(1);
    expect(await deliveriesOf(other)).toEqual([]);
  });

  it('deliveries are paged, newest first, without repetition', async () => {
    const id = textAt(await create({ eventTypes: ['UPDATED'] }), 'endpoint.id');
    const { keyId } = await server.ledger.newKey();
    for (let change = 0; change < 5; change++) await server.ledger.keys.update(server.ledger.owner, { id: keyId, category: `c${change}` });
    await eventually('there are five', async () => (await deliveriesOf(id)).length === 5);
    const seen: string[] = [];
    let after: string | null = null;
    do {
      const page: unknown = await node(
        id,
        `... on WebhookEndpoint { deliveries(first: 2${after === null ? '' : `, after: "${after}"`}) { edges { cursor node { event { position } } } pageInfo { hasNextPage endCursor } } }`,
      );
      seen.push(...listAt(page, 'deliveries.edges').map((edge) => textAt(edge, 'node.event.position')));
      after = at(page, 'deliveries.pageInfo.hasNextPage') === true ? textAt(page, 'deliveries.pageInfo.endCursor') : null;
    } while (after !== null);
    expect(seen).toHaveLength(5);
    expect(seen).toEqual(
      seen
        .map(BigInt)
        .toSorted((a, b) => (a < b ? 1 : -1))
        .map(String),
    );
  });

  it.each([
    [{ url: 'nonsense' }, 'url', /whole URL/],
    [{ url: 'https://169.254.169.254/latest/meta-data' }, 'url', /no public address/],
    [{ url: 'https://me:secret@example.com/' }, 'url', /user name and password/],
    [{ eventTypes: [] }, 'eventTypes', /one event type/],
    [{ eventTypes: ['USAGE_RECORDED'] }, 'eventTypes.0', /usage is not delivered/],
    [{ description: 'x'.repeat(201) }, 'description', /200 characters/],
    [{ organizationId: 'x' }, 'organizationId', /no id/],
  ])('%j is refused, with the field and what would be right', async (input, field, message) => {
    const refused = await create(input);
    expect(refused).toMatchObject({ code: 'INVALID_INPUT', field });
    expect(textAt(refused, 'message')).toMatch(message);
  });

  it('an overlap in the past or too far ahead is refused', async () => {
    const id = textAt(await create(), 'endpoint.id');
    for (const overlapUntil of ['2020-01-01T00:00:00Z', '2099-01-01T00:00:00Z'])
      expect(await run('rotateWebhookSecret', { id, overlapUntil }, '')).toMatchObject({ code: 'INVALID_INPUT', field: 'overlapUntil' });
  });

  it('another organization sees and changes nothing of it', async () => {
    const id = textAt(await create(), 'endpoint.id');
    await run('sendTestWebhook', { id }, '');
    await eventually('there is a delivery', async () => (await deliveriesOf(id)).length === 1);
    const delivery = textAt((await deliveriesOf(id))[0], 'id');
    const other = await server.ledger.newOrganization('Stranger');
    const { token } = await server.tokenOf({ memberId: other.owner.memberId }, other.id);
    for (const one of [id, delivery]) expect(await node(one, '', token)).toBeNull();
    for (const [name, input] of [
      ['updateWebhookEndpoint', { id, active: false }],
      ['rotateWebhookSecret', { id }],
      ['sendTestWebhook', { id }],
      ['redeliverWebhook', { id: delivery }],
      ['deleteWebhookEndpoint', { id }],
      ['createWebhookEndpoint', { organizationId: server.organizationId, url: receiver.url }],
    ] as const)
      expect(await run(name, input, '', token)).toMatchObject({ code: 'NOT_FOUND' });
    const { data } = await server.query('{ viewer { organization { webhookEndpoints { edges { node { id } } } } } }', {}, token);
    expect(listAt(data, 'viewer.organization.webhookEndpoints.edges')).toEqual([]);
    const before = receiver.received.length;
    await server.ledger.newKey({}, other.owner);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(receiver.received.length).toBe(before);
  });

  it('nobody has more delivered than they may read', async () => {
    const { token } = await server.tokenOf({ permissions: ['webhooks:write', 'alerts:read'] });
    const document = 'mutation ($input: CreateWebhookEndpointInput!) { createWebhookEndpoint(input: $input) { __typename } }';
    const input = { organizationId: server.organizationId, url: receiver.url };
    const refused = await server.query(document, { input: { ...input, eventTypes: ['KEY_CREATED'] } }, token);
    expect(at(refused.errors[0], 'extensions')).toMatchObject({ code: 'FORBIDDEN', permission: 'log:read' });
    const allowed = await server.query(document, { input }, token);
    expect(allowed.data).toEqual({ createWebhookEndpoint: { __typename: 'CreateWebhookEndpointPayload' } });
  });

  it('its rows are what the log says', async () => {
    const { folded, differences } = await compareStreams(server.ledger.database, 'webhook', { after: null, limit: 100 });
    expect(folded.length).toBeGreaterThan(5);
    expect(differences).toEqual([]);
    expect(server.ledger.errors).toEqual([]);
    expect(server.logLines).toEqual([]);
  });
});
