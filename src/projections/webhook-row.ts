import { sql } from 'kysely';

import type { WebhookEvent } from '../domain/event.ts';
import type { WebhookState } from '../domain/webhook-endpoint.ts';
import type { Effect } from '../ledger/append.ts';

type Existing = Exclude<WebhookState, { kind: 'absent' }>;

/** The columns of an endpoint's row that its state alone decides. */
export function webhookRow(state: Existing) {
  const { endpointId, url, description, eventTypes, inactiveReason } = state;
  return {
    id: endpointId,
    url,
    description,
    event_types: [...eventTypes],
    state: state.kind === 'deleted' ? 'deleted' : inactiveReason === null ? 'active' : 'inactive',
    inactive_reason: inactiveReason,
  } as const;
}

/** The effect that writes an endpoint's row in the statement that appends. */
export function writeWebhookRow(
  state: Existing,
  facts: { readonly organizationId: string; readonly actorId: string; readonly version: number; readonly events: readonly WebhookEvent[] },
): Effect {
  const row = webhookRow(state);
  const activated = facts.events.some(({ type, data }) => type === 'WebhookEndpointUpdated' && data.active === true);
  const rotated = facts.events.some(({ type }) => type === 'WebhookEndpointSecretRotated');
  const statement = sql`
    INSERT INTO webhook_endpoints AS kept (id, organization_id, url, description, event_types, state, inactive_reason, active_since, created_at, created_by,
      secret_created_at, version)
    SELECT ${row.id}::uuid, ${facts.organizationId}::uuid, ${row.url}, ${row.description}, ${row.event_types}::text[], ${row.state}, ${row.inactive_reason},
           appended.recorded_at, appended.recorded_at, ${facts.actorId}, appended.recorded_at, ${facts.version}::integer FROM appended
    ON CONFLICT (id) DO UPDATE SET url = excluded.url, description = excluded.description, event_types = excluded.event_types, state = excluded.state,
      inactive_reason = excluded.inactive_reason, version = excluded.version,
      active_since = CASE WHEN ${activated}::boolean THEN excluded.active_since ELSE kept.active_since END,
      secret_created_at = CASE WHEN ${rotated}::boolean THEN excluded.secret_created_at ELSE kept.secret_created_at END`;
  return { name: 'webhook_row', statement };
}
