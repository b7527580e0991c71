import { sql } from 'kysely';

import { actorOf, type GraphqlContext } from './context.ts';

export type EndpointRow = {
  readonly id: string;
  readonly organization_id: string;
  readonly url: string;
  readonly description: string;
  readonly event_types: readonly string[];
  readonly state: 'active' | 'inactive';
  readonly inactive_reason: 'REQUESTED' | 'GONE' | 'FAILING' | null;
  readonly failing_since: Date | null;
  readonly created_at: Date;
  readonly created_by: string;
  readonly secret_created_at: Date;
};
export type DeliveryState = 'pending' | 'delivered' | 'failed' | 'cancelled';
export type DeliveryRow = {
  readonly id: string;
  readonly endpoint_id: string;
  readonly event_id: string;
  readonly event_type: string;
  readonly event_position: bigint;
  readonly state: DeliveryState;
  readonly created_at: Date;
  readonly next_attempt_at: Date | null;
  readonly finished_at: Date | null;
};
export type AttemptRow = {
  readonly at: Date;
  readonly duration_ms: number;
  readonly status: number | null;
  readonly error: string | null;
  readonly response_head: string | null;
};

const FIRST_UUID = '00000000-0000-0000-0000-000000000000';
const LAST_UUID = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
const ATTEMPTS_SHOWN = 20;

const ENDPOINT = sql`
  SELECT w.id, w.organization_id, w.url, w.description, w.event_types, w.state, w.inactive_reason, h.failing_since, w.created_at, w.created_by, w.secret_created_at
  FROM webhook_endpoints w LEFT JOIN webhook_health h ON h.endpoint_id = w.id`;
const DELIVERY = sql`
  SELECT d.id, d.endpoint_id, e.id AS event_id, e.type AS event_type, d.event_position, d.state, d.created_at, d.next_attempt_at, d.finished_at
  FROM webhook_deliveries d JOIN events e ON e.position = d.event_position`;

/** Endpoints by their ids, of the caller's organization; deleted ones are gone. */
export async function loadEndpoints(context: GraphqlContext, ids: readonly string[]): Promise<readonly (EndpointRow | null)[]> {
  const { rows } = await sql<EndpointRow>`
    ${ENDPOINT} WHERE w.organization_id = ${actorOf(context).organizationId}::uuid AND w.state <> 'deleted' AND w.id = ANY(${[...ids]}::uuid[])`.execute(
    context.deps.database.kysely,
  );
  return ids.map((id) => rows.find((row) => row.id === id) ?? null);
}

export async function listEndpoints(context: GraphqlContext, after: string | null, limit: number): Promise<readonly EndpointRow[]> {
  const { rows } = await sql<EndpointRow>`
    ${ENDPOINT} WHERE w.organization_id = ${actorOf(context).organizationId}::uuid AND w.state <> 'deleted' AND w.id > ${after ?? FIRST_UUID}::uuid
    ORDER BY w.id LIMIT ${limit}`.execute(context.deps.database.kysely);
  return rows;
}

/** Deliveries by their ids, of the caller's organization; those of a deleted endpoint went with it. */
export async function loadDeliveries(context: GraphqlContext, ids: readonly string[]): Promise<readonly (DeliveryRow | null)[]> {
  const { rows } = await sql<DeliveryRow>`
    ${DELIVERY} JOIN webhook_endpoints w ON w.id = d.endpoint_id AND w.state <> 'deleted'
    WHERE d.organization_id = ${actorOf(context).organizationId}::uuid AND d.id = ANY(${[...ids]}::uuid[])`.execute(
    context.deps.database.kysely,
  );
  return ids.map((id) => rows.find((row) => row.id === id) ?? null);
}

/** Newest first: ids are UUIDv7, so that their order is that of creation. */
export async function listDeliveries(
  context: GraphqlContext,
  endpointId: string,
  { before, state, limit }: { readonly before: string | null; readonly state: DeliveryState | null; readonly limit: number },
): Promise<readonly DeliveryRow[]> {
  const { rows } = await sql<DeliveryRow>`
    ${DELIVERY}
    WHERE d.organization_id = ${actorOf(context).organizationId}::uuid AND d.endpoint_id = ${endpointId}::uuid AND d.id < ${before ?? LAST_UUID}::uuid
      AND (${state}::text IS NULL OR d.state = ${state})
    ORDER BY d.id DESC LIMIT ${limit}`.execute(context.deps.database.kysely);
  return rows;
}

export async function readAttempts(context: GraphqlContext, deliveryId: string): Promise<AttemptRow[]> {
  return context.deps.database.kysely
    .selectFrom('webhook_attempts')
    .select(['at', 'duration_ms', 'status', 'error', 'response_head'])
    .where('delivery_id', '=', deliveryId)
    .orderBy('id', 'desc')
    .limit(ATTEMPTS_SHOWN)
    .execute();
}
