import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import { WAITING_ENDPOINTS } from './waiting-endpoints.ts';

/** For how many seconds the delivery that waits longest has been due; 0 where none is. */
export type DeliveryLag = {
  readonly healthy: number;
  /** Of endpoints whose last attempt failed or was slow: they wait for themselves. */
  readonly troubled: number;
};

/** One look into an index for each endpoint that something waits for. Those that asked to be left alone wait for nobody here. */
export async function readDeliveryLag(db: Kysely<Tables>): Promise<DeliveryLag> {
  const { rows } = await sql<{ troubled: boolean; seconds: number }>`
    WITH RECURSIVE waiting (endpoint_id) AS (${WAITING_ENDPOINTS}),
    clock AS MATERIALIZED (SELECT ledger_now() AS now)
    SELECT h.troubled, greatest(max(extract(epoch FROM c.now - d.next_attempt_at)), 0)::float8 AS seconds
    FROM clock c CROSS JOIN waiting w
    JOIN webhook_endpoints e ON e.id = w.endpoint_id AND e.state = 'active'
    JOIN webhook_health h ON h.endpoint_id = e.id AND coalesce(h.rests_until <= c.now, true)
    CROSS JOIN LATERAL (
      SELECT p.next_attempt_at FROM webhook_deliveries p WHERE p.endpoint_id = e.id AND p.state = 'pending' ORDER BY p.next_attempt_at LIMIT 1) AS d
    GROUP BY h.troubled`.execute(db);
  const secondsOf = (wanted: boolean): number => rows.find(({ troubled }) => troubled === wanted)?.seconds ?? 0;
  return { healthy: secondsOf(false), troubled: secondsOf(true) };
}
