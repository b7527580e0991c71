import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { Folded, FoldRequest, Projection } from '../projections/projection.ts';

/** Makes a delivery of each event for each endpoint that wants it. Never rebuilt: what was delivered once would be delivered again. `onMade`: there is something to do. */
export function webhookProjection(onMade: () => void): Projection {
  return { name: 'webhooks', tables: ['webhook_deliveries'], fold: (db, request) => makeDeliveries(db, request, onMade) };
}

/**
 * One statement: lock the checkpoint, read, insert, move the checkpoint. Right under concurrency as the fold of usage is (see there); the unique
 * (endpoint, event) makes it sure that nothing is ever delivered twice for one event.
 *
 * An endpoint gets what it wants at the moment of this fold, of what was recorded after it became active.
 */
async function makeDeliveries(db: Kysely<Tables>, request: FoldRequest, onMade: () => void): Promise<Folded | null> {
  const passed = await passUsage(db, request);
  if (passed !== 'events') return passed;
  const { state, limit } = request;
  const { rows } = await sql<{ position: bigint; head: bigint; made: bigint }>`
    WITH checkpoint AS MATERIALIZED (
      SELECT slot, position FROM projections WHERE name = 'webhooks' AND state = ${state} FOR UPDATE SKIP LOCKED
    ),
    bounds AS MATERIALIZED (
      SELECT slot, position AS after, least(position + ${limit}::bigint, head) AS up_to, head FROM checkpoint, head_position() AS head
    ),
    made AS (
      INSERT INTO webhook_deliveries (endpoint_id, organization_id, event_position, next_attempt_at, created_at)
      SELECT w.id, w.organization_id, e.position, e.recorded_at, e.recorded_at
      FROM events e JOIN webhook_endpoints w ON w.organization_id = e.organization_id AND w.state = 'active'
      WHERE e.position > (SELECT after FROM bounds) AND e.position <= (SELECT up_to FROM bounds)
        AND ((e.type = ANY (w.event_types) AND e.recorded_at > w.active_since) OR (e.type = 'WebhookTestRequested' AND e.stream = 'webhook:' || w.id))
      ON CONFLICT (endpoint_id, event_position) DO NOTHING
      RETURNING 1
    ),
    moved AS (
      UPDATE projections p SET position = b.up_to FROM bounds b
      WHERE p.name = 'webhooks' AND p.slot = b.slot AND b.up_to > b.after
    )
    SELECT greatest(b.after, b.up_to) AS position, b.head, (SELECT count(*) FROM made) AS made FROM bounds b`.execute(db);
  const row = rows[0];
  if (row === undefined) return null;
  if (row.made > 0n) onMade();
  return { position: row.position, head: row.head, parked: [] };
}

/**
 * Moves the checkpoint over what is usage alone, which is nearly all that a busy log has: to plan the other statement costs ten times as much. Null where another session is at it. What is up to the
 * head is visible in this snapshot, wherever the checkpoint is when its lock is won.
 */
async function passUsage(db: Kysely<Tables>, { state }: FoldRequest): Promise<Folded | 'events' | null> {
  const { rows } = await sql<{ position: bigint; head: bigint; events: boolean }>`
    WITH checkpoint AS MATERIALIZED (
      SELECT slot, position FROM projections WHERE name = 'webhooks' AND state = ${state} FOR UPDATE SKIP LOCKED
    ),
    bounds AS MATERIALIZED (
      SELECT c.slot, greatest(c.position, h.head) AS up_to, h.head, coalesce((SELECT max(position) FROM events) > c.position, false) AS events
      FROM checkpoint c, head_position() AS h (head)
    ),
    moved AS (
      UPDATE projections p SET position = b.up_to FROM bounds b
      WHERE p.name = 'webhooks' AND p.slot = b.slot AND p.position < b.up_to AND NOT b.events
    )
    SELECT up_to AS position, head, events FROM bounds`.execute(db);
  const row = rows[0];
  if (row === undefined) return null;
  return row.events ? 'events' : { position: row.position, head: row.head, parked: [] };
}
