import type { ObjectFieldsShape } from '@pothos/core';

import type { Done } from '../ledger/run-command.ts';
import type { WebhookResult } from '../webhooks/webhook-commands.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import type { Enums } from './enums.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';
import { loadDeliveries, loadEndpoints } from './webhook-reading.ts';

type WebhookDone = Done<WebhookResult>;
type Payload = ObjectFieldsShape<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>, WebhookDone>;

export function addWebhookMutations(builder: Builder, enums: Enums, types: TypeRefs, refusals: RefusalTypes): void {
  const endpoint: Payload = (t) => ({
    endpoint: t.field({
      type: types.webhookEndpoint,
      nullable: true,
      description: 'Null where it has been deleted since.',
      resolve: async ({ result }, _args, context) => (await loadEndpoints(context, [result.endpointId]))[0] ?? null,
    }),
  });
  const withSecret =
    (description: string): Payload =>
    (t) => ({ ...endpoint(t), secret: t.string({ nullable: true, description, resolve: ({ secret }) => secret?.reveal() ?? null }) });
  addMutation<WebhookDone>(builder, refusals, {
    name: 'createWebhookEndpoint',
    description: 'Delivers events from now on to a URL. Alerts need `alerts:read` as well, all else `log:read`, since it delivers the log.',
    permissions: ['webhooks:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      url: t.string({ required: true, description: 'https, without user name and password, on a public address.' }),
      description: t.string(),
      eventTypes: t.field({ type: [enums.eventType], description: 'By default raised alerts alone. Usage can not be delivered.' }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: withSecret('What messages are signed with, shown this once; null in a replayed answer after an hour.'),
    run: (caller, input, { deps }) => deps.webhooks.create(caller, input),
  });
  addMutation<WebhookDone>(builder, refusals, {
    name: 'updateWebhookEndpoint',
    description: 'What is left out stays. `active: true` switches an endpoint on again; what happened meanwhile is not delivered.',
    permissions: ['webhooks:write'],
    input: (t) => ({
      id: t.id({ required: true }),
      url: t.string(),
      description: t.string(),
      eventTypes: t.field({ type: [enums.eventType] }),
      active: t.boolean(),
    }),
    ids: { id: 'WebhookEndpoint' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: endpoint,
    run: (caller, input, { deps }) => deps.webhooks.update(caller, input),
  });
  addMutation<WebhookDone>(builder, refusals, {
    name: 'rotateWebhookSecret',
    description: 'Messages carry two signatures until the overlap ends, so that receivers can change over without losing one.',
    permissions: ['webhooks:write'],
    input: (t) => ({
      id: t.id({ required: true }),
      overlapUntil: t.field({ type: 'DateTime', description: 'Until when the old secret signs, too; by default for 24 hours.' }),
    }),
    ids: { id: 'WebhookEndpoint' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: withSecret('The new one, shown this once; null in a replayed answer after an hour.'),
    run: (caller, input, { deps }) => deps.webhooks.rotateSecret(caller, input),
  });
  addMutation<WebhookDone>(builder, refusals, {
    name: 'sendTestWebhook',
    description: 'A message of type WEBHOOK_TEST_REQUESTED to this endpoint alone, signed and retried as any other.',
    permissions: ['webhooks:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'WebhookEndpoint' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'WEBHOOK_INACTIVE', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      ...endpoint(t),
      position: t.field({ type: 'Position', description: 'Of the event that is delivered.', resolve: (done) => done.position }),
    }),
    run: (caller, input, { deps }) => deps.webhooks.sendTest(caller, input),
  });
  addMutation<WebhookDone>(builder, refusals, {
    name: 'redeliverWebhook',
    description: 'Sends a delivery again, at once and with the same `webhook-id`; the schedule of retries begins anew.',
    permissions: ['webhooks:write'],
    input: (t) => ({ id: t.id({ required: true, description: "The delivery's." }) }),
    ids: { id: 'WebhookDelivery' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'WEBHOOK_INACTIVE', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      delivery: t.field({
        type: types.webhookDelivery,
        nullable: true,
        description: 'Null where it is no longer kept.',
        resolve: async ({ result }, _args, context) =>
          result.deliveryId === null ? null : ((await loadDeliveries(context, [result.deliveryId]))[0] ?? null),
      }),
    }),
    run: (caller, input, { deps }) => deps.webhooks.redeliver(caller, input),
  });
  addMutation<WebhookDone>(builder, refusals, {
    name: 'deleteWebhookEndpoint',
    description: 'For good: what still waits is not delivered, and the secret is erased.',
    permissions: ['webhooks:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'WebhookEndpoint' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      deletedId: t.id({ resolve: ({ result }) => encodeGlobalId('WebhookEndpoint', result.endpointId) }),
    }),
    run: (caller, input, { deps }) => deps.webhooks.delete(caller, input),
  });
}
