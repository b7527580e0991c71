import { EVENT_TYPES, type EventType } from '../domain/event.ts';
import { INACTIVE_REASONS } from '../domain/webhook-endpoint.ts';
import type { ActorRef } from './actor.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';
import type { GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { encodeGlobalId, idOf } from './global-id.ts';
import { pageOf, pageSizeOf, type Page } from './paging.ts';
import type { TypeRefs } from './type-refs.ts';
import { listDeliveries, listEndpoints, readAttempts, type AttemptRow, type EndpointRow } from './webhook-reading.ts';

export function addWebhook(builder: Builder, enums: Enums, types: TypeRefs, actor: ActorRef): void {
  const inactiveReason = builder.enumType('WebhookInactiveReason', {
    description: 'Switched off by the organization, by the receiver (410 Gone), or by the product after five days without one success.',
    values: INACTIVE_REASONS,
  });
  const state = builder.enumType('WebhookDeliveryState', {
    description: 'FAILED: the schedule is used up, or the receiver is gone. CANCELLED: the endpoint was switched off while it waited.',
    values: {
      PENDING: { value: 'pending' },
      DELIVERED: { value: 'delivered' },
      FAILED: { value: 'failed' },
      CANCELLED: { value: 'cancelled' },
    } as const,
  });
  const attempt = builder.objectRef<AttemptRow>('WebhookAttempt').implement({
    description: 'One request to the receiver.',
    fields: (t) => ({
      at: t.field({ type: 'DateTime', resolve: (row) => row.at }),
      durationMs: t.int({ resolve: (row) => row.duration_ms }),
      status: t.int({ nullable: true, description: 'Null where no answer came.', resolve: (row) => row.status }),
      error: t.string({ nullable: true, description: 'Null after a success.', resolve: (row) => row.error }),
      responseBody: t.string({ nullable: true, description: 'The first 1,024 bytes.', resolve: (row) => row.response_head }),
    }),
  });
  types.webhookDelivery.implement({
    description: 'What became of one event for one endpoint.',
    fields: (t) => ({
      endpoint: t.field({ type: types.webhookEndpoint, resolve: (row) => row.endpoint_id }),
      webhookId: t.string({ description: 'The `webhook-id` of its messages: the id of the event.', resolve: (row) => row.event_id }),
      eventType: t.field({ type: enums.eventType, resolve: (row) => knownType(row.event_type) }),
      event: t.field({ type: types.ledgerEvent, resolve: (row) => row.event_position.toString() }),
      state: t.field({ type: state, resolve: (row) => row.state }),
      createdAt: t.field({ type: 'DateTime', resolve: (row) => row.created_at }),
      nextAttemptAt: t.field({ type: 'DateTime', nullable: true, resolve: (row) => row.next_attempt_at }),
      finishedAt: t.field({ type: 'DateTime', nullable: true, resolve: (row) => row.finished_at }),
      attempts: t.field({
        type: [attempt],
        description: 'The newest 20, newest first.',
        resolve: (row, _args, context) => readAttempts(context, row.id),
      }),
    }),
  });
  const deliveries = builder.connectionObject({ type: types.webhookDelivery, name: 'WebhookDeliveryConnection' });
  types.webhookEndpoint.implement({
    description: 'Where events of the organization are delivered, signed as of Standard Webhooks 1.0.0. See docs/webhooks.md.',
    fields: (t) => ({
      url: t.exposeString('url'),
      description: t.exposeString('description'),
      eventTypes: t.field({ type: [enums.eventType], resolve: (row) => row.event_types.filter(isKnownType) }),
      active: t.boolean({ resolve: (row) => row.state === 'active' }),
      inactiveReason: t.field({ type: inactiveReason, nullable: true, resolve: (row) => row.inactive_reason }),
      failingSince: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'Nothing was delivered since then, though it was tried. After five days of it the endpoint is switched off.',
        resolve: (row) => row.failing_since,
      }),
      createdAt: t.field({ type: 'DateTime', resolve: (row) => row.created_at }),
      createdBy: t.field({ type: actor, resolve: (row) => ({ actorId: row.created_by, organizationId: row.organization_id }) }),
      secretCreatedAt: t.field({ type: 'DateTime', resolve: (row) => row.secret_created_at }),
      deliveries: t.field({
        type: deliveries,
        description: 'Newest first; finished ones are kept for 30 days.',
        args: { first: t.arg.int(), after: t.arg.string(), state: t.arg({ type: state }) },
        resolve: async (row, args, context) => {
          const size = pageSizeOf(args.first);
          const before = afterId(args.after, 'WebhookDelivery');
          const rows = await listDeliveries(context, row.id, { before, state: args.state ?? null, limit: size + 1 });
          return pageOf(rows, size, (delivery) => encodeGlobalId('WebhookDelivery', delivery.id), args.after != null);
        },
      }),
    }),
  });
  const endpoints = builder.connectionObject({ type: types.webhookEndpoint, name: 'WebhookEndpointConnection' });
  builder.objectField(types.organization, 'webhookEndpoints', (t) =>
    t.field({
      type: endpoints,
      authScopes: { permission: 'webhooks:read' },
      args: { first: t.arg.int(), after: t.arg.string() },
      resolve: (_organization, args, context) => readEndpoints(context, args),
    }),
  );
}

/** A page of the caller's endpoints, in the order of their creation. */
async function readEndpoints(
  context: GraphqlContext,
  args: { readonly first?: number | null | undefined; readonly after?: string | null | undefined },
): Promise<Page<EndpointRow>> {
  const size = pageSizeOf(args.first);
  const rows = await listEndpoints(context, afterId(args.after, 'WebhookEndpoint'), size + 1);
  return pageOf(rows, size, (endpoint) => encodeGlobalId('WebhookEndpoint', endpoint.id), args.after != null);
}

function afterId(cursor: string | null | undefined, type: 'WebhookEndpoint' | 'WebhookDelivery'): string | null {
  if (cursor == null) return null;
  const id = idOf(type, cursor);
  if (id === null) throw badUserInput("'after' is no cursor of this list.");
  return id;
}

function isKnownType(type: string): type is EventType {
  return (EVENT_TYPES as readonly string[]).includes(type);
}

function knownType(type: string): EventType {
  if (!isKnownType(type)) throw new Error(`The log holds an event of type '${type}', which this version does not know; upgrade.`);
  return type;
}
