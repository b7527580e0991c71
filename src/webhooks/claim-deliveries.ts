import { sql, type Kysely } from 'kysely';

import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';
import type { DeliveredEvent } from './payload.ts';
import { WAITING_ENDPOINTS } from './waiting-endpoints.ts';
import type { SealedSecret } from './webhook-secret.ts';

/** A claim lapses after so long: longer than any attempt, so that only who died is overtaken. */
export const CLAIM_MS = 60_000;
/** Pending deliveries of endpoints that are no longer active, taken back in one go. */
const CANCEL_BATCH = 1000;

/** What this server has room for. */
export type Room = {
  /** Attempts at endpoints whose last one went well and quickly. */
  readonly healthy: number;
  /** Attempts at the others, which have room of their own: whoever hangs delays only his like. */
  readonly troubled: number;
  /** Attempts at a time at one healthy endpoint; a troubled one gets one. */
  readonly perEndpoint: number;
  /** Attempts under way, by endpoint. */
  readonly underWay: ReadonlyMap<string, number>;
};

export type ClaimedDelivery = {
  readonly deliveryId: string;
  /** The claim's number; who records the outcome shows it. */
  readonly claim: number;
  readonly endpointId: string;
  readonly organizationId: string;
  readonly url: string;
  readonly troubled: boolean;
  /** In a row, before this attempt. */
  readonly failures: number;
  readonly eventId: string;
  readonly event: DeliveredEvent;
  /** The current one and those that still overlap with it, the current one first. */
  readonly secrets: readonly SealedSecret[];
};

type Row = {
  readonly id: string;
  readonly claims: number;
  readonly endpoint_id: string;
  readonly organization_id: string;
  readonly url: string;
  readonly troubled: boolean;
  readonly failures: number;
  readonly event_id: string;
  readonly position: bigint;
  readonly type: string;
  readonly stream: string;
  readonly actor: string;
  readonly recorded_at: Date;
  readonly data: JsonValue;
  readonly secrets: readonly { readonly fingerprint: string; readonly pepper_id: string; readonly sealed: string }[] | null;
};

/** Whether anything waits at all, for whomever. To plan what claims it costs ten times as much as to see that there is nothing. */
export async function anythingWaits(db: Kysely<Tables>): Promise<boolean> {
  const { rows } = await sql`SELECT FROM webhook_deliveries WHERE state = 'pending' ORDER BY endpoint_id LIMIT 1`.execute(db);
  return rows.length > 0;
}

/**
 * Claims what is due, in turn by endpoint: each one's oldest before anybody's second. Any number of servers do this at once: the rows are locked with SKIP LOCKED,
 * and a row that another has claimed since the snapshot is no longer due when it is looked at under the lock.
 */
export async function claimDeliveries(db: Kysely<Tables>, room: Room): Promise<readonly ClaimedDelivery[]> {
  const { rows } = await sql<Row>`
    WITH RECURSIVE waiting (endpoint_id) AS (${WAITING_ENDPOINTS}),
    clock AS MATERIALIZED (SELECT ledger_now() AS now),
    ready AS MATERIALIZED (
      SELECT e.id AS endpoint_id, h.troubled, CASE WHEN h.troubled THEN 1 ELSE ${room.perEndpoint}::integer END - coalesce(b.attempts, 0) AS room
      FROM waiting w
      JOIN webhook_endpoints e ON e.id = w.endpoint_id AND e.state = 'active'
      JOIN webhook_health h ON h.endpoint_id = e.id
      LEFT JOIN unnest(${[...room.underWay.keys()]}::uuid[], ${[...room.underWay.values()]}::integer[]) AS b (endpoint_id, attempts) ON b.endpoint_id = e.id
      WHERE coalesce(h.rests_until <= (SELECT now FROM clock), true)
    ),
    ranked AS MATERIALIZED (
      SELECT d.id, r.troubled, row_number() OVER (PARTITION BY r.troubled ORDER BY d.nth, d.next_attempt_at) AS rank
      FROM ready r CROSS JOIN LATERAL (
        SELECT p.*, row_number() OVER (ORDER BY p.next_attempt_at) AS nth
        FROM (
          SELECT id, next_attempt_at FROM webhook_deliveries
          WHERE endpoint_id = r.endpoint_id AND state = 'pending' AND next_attempt_at <= (SELECT now FROM clock)
          ORDER BY next_attempt_at LIMIT greatest(r.room, 0)
        ) AS p
      ) AS d
    ),
    locked AS MATERIALIZED (
      SELECT d.id, r.troubled FROM ranked r JOIN webhook_deliveries d ON d.id = r.id
      WHERE r.rank <= CASE WHEN r.troubled THEN ${room.troubled}::integer ELSE ${room.healthy}::integer END
        AND d.state = 'pending' AND d.next_attempt_at <= (SELECT now FROM clock)
      FOR UPDATE OF d SKIP LOCKED
    ),
    claimed AS (
      UPDATE webhook_deliveries d SET claims = d.claims + 1, next_attempt_at = (SELECT now FROM clock) + make_interval(secs => ${CLAIM_MS / 1000})
      FROM locked l WHERE d.id = l.id
      RETURNING d.*, l.troubled
    )
    SELECT c.id, c.claims, c.endpoint_id, c.organization_id, w.url, c.troubled, c.failures,
           e.id AS event_id, e.position, e.type, e.stream, e.actor, e.recorded_at, e.data,
           (SELECT json_agg(json_build_object('fingerprint', s.fingerprint, 'pepper_id', s.pepper_id, 'sealed', encode(s.sealed, 'base64'))
                            ORDER BY s.expires_at DESC NULLS FIRST)
            FROM webhook_secrets s WHERE s.endpoint_id = c.endpoint_id AND coalesce(s.expires_at > (SELECT now FROM clock), true)) AS secrets
    FROM claimed c JOIN events e ON e.position = c.event_position JOIN webhook_endpoints w ON w.id = c.endpoint_id`.execute(db);
  return rows.map((row) => ({
    deliveryId: row.id,
    claim: row.claims,
    endpointId: row.endpoint_id,
    organizationId: row.organization_id,
    url: row.url,
    troubled: row.troubled,
    failures: row.failures,
    eventId: row.event_id,
    event: {
      position: row.position,
      type: row.type,
      stream: row.stream,
      actorId: row.actor,
      recordedAt: row.recorded_at,
      data: row.data,
    },
    secrets: (row.secrets ?? []).map((secret) => ({
      fingerprint: secret.fingerprint,
      pepperId: secret.pepper_id,
      sealed: Buffer.from(secret.sealed, 'base64'),
    })),
  }));
}

/** Gives up what waits for endpoints that were deactivated or deleted: in small steps and here, since whoever deactivates holds the log's lock. */
export async function cancelOrphans(db: Kysely<Tables>): Promise<void> {
  await sql`
    WITH RECURSIVE waiting (endpoint_id) AS (${WAITING_ENDPOINTS}),
    picked AS MATERIALIZED (
      SELECT d.id FROM waiting w JOIN webhook_endpoints e ON e.id = w.endpoint_id AND e.state <> 'active'
      JOIN webhook_deliveries d ON d.endpoint_id = e.id AND d.state = 'pending'
      LIMIT ${CANCEL_BATCH} FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE webhook_deliveries d SET state = 'cancelled', next_attempt_at = NULL, finished_at = ledger_now() FROM picked p WHERE d.id = p.id`.execute(
    db,
  );
}

/** Gives claims back whose attempt was broken off, so that another server takes them up at once. */
export async function returnClaim(db: Kysely<Tables>, { deliveryId, claim }: ClaimedDelivery): Promise<void> {
  await sql`
    UPDATE webhook_deliveries SET next_attempt_at = ledger_now() WHERE id = ${deliveryId}::uuid AND claims = ${claim}::integer AND state = 'pending'`.execute(
    db,
  );
}
