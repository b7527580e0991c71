import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { ClaimedDelivery } from './claim-deliveries.ts';
import type { Posted } from './post-message.ts';

/** What follows from an attempt. */
export type Verdict =
  | { readonly kind: 'delivered' }
  | { readonly kind: 'retry'; readonly delayMs: number }
  /** The schedule is used up, or the receiver is gone. */
  | { readonly kind: 'failed' };

export type Recorded = {
  /** Null unless the endpoint fails: since when, without one success in between. */
  readonly failingForMs: number | null;
};

/** Slower than this and an endpoint is kept apart from the quick ones. */
export const SLOW_MS = 2000;

/**
 * Writes the delivery log, the delivery's fate and the endpoint's health in one statement. A server that comes back after its claim has lapsed adds to the log
 * alone, unless it brings a success: that counts whoever brings it.
 */
export async function recordAttempt(db: Kysely<Tables>, delivery: ClaimedDelivery, posted: Posted, verdict: Verdict): Promise<Recorded> {
  const delivered = verdict.kind === 'delivered';
  const delay = sql`make_interval(secs => ${(verdict.kind === 'retry' ? verdict.delayMs : 0) / 1000}::double precision)`;
  const rest = posted.retryAfterMs !== null && verdict.kind === 'retry' ? sql`c.now + ${delay}` : sql`NULL::timestamptz`;
  const { rows } = await sql<{ failing_ms: number | null }>`
    WITH clock AS MATERIALIZED (SELECT ledger_now() AS now),
    attempt AS (
      INSERT INTO webhook_attempts (delivery_id, at, duration_ms, status, error, response_head)
      SELECT ${delivery.deliveryId}::uuid, now - make_interval(secs => ${posted.durationMs / 1000}::double precision), ${posted.durationMs}::integer,
             ${posted.status}::smallint, ${posted.error}, ${posted.responseHead}
      FROM clock
    ),
    fate AS (
      UPDATE webhook_deliveries d SET
        state = ${verdict.kind === 'retry' ? 'pending' : verdict.kind},
        failures = CASE WHEN ${delivered}::boolean THEN 0 ELSE d.failures + 1 END,
        next_attempt_at = CASE WHEN ${verdict.kind === 'retry'}::boolean THEN c.now + ${delay} END,
        finished_at = CASE WHEN ${verdict.kind !== 'retry'}::boolean THEN c.now END
      FROM clock c
      WHERE d.id = ${delivery.deliveryId}::uuid AND d.state = 'pending' AND (d.claims = ${delivery.claim}::integer OR ${delivered}::boolean)
    )
    UPDATE webhook_health h SET
      failing_since = CASE WHEN ${delivered}::boolean THEN NULL ELSE coalesce(h.failing_since, c.now) END,
      troubled = ${!delivered || posted.durationMs > SLOW_MS}::boolean,
      rests_until = coalesce(${rest}, h.rests_until)
    FROM clock c WHERE h.endpoint_id = ${delivery.endpointId}::uuid
    RETURNING (extract(epoch FROM c.now - h.failing_since) * 1000)::double precision AS failing_ms`.execute(db);
  return { failingForMs: rows[0]?.failing_ms ?? null };
}
