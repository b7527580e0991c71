import { sql } from 'kysely';

/** The terms of a recursive query `waiting (endpoint_id)`. Steps from endpoint to endpoint that has something pending, so that a million deliveries waiting for one cost the others nothing. */
export const WAITING_ENDPOINTS = sql`
  (SELECT endpoint_id FROM webhook_deliveries WHERE state = 'pending' ORDER BY endpoint_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.endpoint_id FROM webhook_deliveries d WHERE d.state = 'pending' AND d.endpoint_id > w.endpoint_id ORDER BY d.endpoint_id LIMIT 1)
  FROM waiting w WHERE w.endpoint_id IS NOT NULL`;
