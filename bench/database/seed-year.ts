import type { LedgerDatabase } from './ledger-database.ts';

const CHUNK = 500_000;
export const YEAR_DAYS = 365;

/**
 * A year of usage up to now over all keys, written by the owner: a tenth of it by the first key, the rest by twelve others at a time, twenty requests each. Some are refused, some
 * were reported with tokens, cost and model. The statistics are left to the projector; windows and totals are not kept beside it, since nothing here is verified.
 */
export async function seedYear(
  { owner, organizationNumber }: LedgerDatabase,
  options: { readonly events: number; readonly signal: AbortSignal; readonly onProgress: (line: string) => void },
): Promise<void> {
  const { rows } = await owner.query<{ head: string; first_key: number; keys: number }>(
    'SELECT head_position() AS head, (SELECT min(number) FROM api_keys) AS first_key, (SELECT count(*)::integer FROM api_keys) AS keys',
  );
  const [facts] = rows;
  if (facts === undefined) throw new Error('the ledger tells nothing of its keys');
  for (let done = 0; done < options.events; done += CHUNK) {
    options.signal.throwIfAborted();
    const last = Math.min(done + CHUNK, options.events);
    await owner.query(
      `INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, status, duration_ms, cost_micros, tokens_in, tokens_out, ip, endpoint, model)
       SELECT $1::bigint + i, clock_timestamp() - make_interval(days => $2) + make_interval(days => $2) * (i::float8 / $3), $4,
         $5::integer + CASE WHEN i % 10 = 0 THEN 0 ELSE abs(hashint8(i / 240 * 12 + i % 12) % $6::integer) END, 1, CASE WHEN refused THEN 1 ELSE 2 END,
         CASE WHEN refused THEN 11 ELSE 0 END, CASE WHEN NOT refused THEN CASE WHEN i % 61 = 0 THEN 500 ELSE 200 END END, CASE WHEN NOT refused THEN 40 END,
         CASE WHEN NOT refused THEN 1250 END, CASE WHEN NOT refused THEN 300 END, CASE WHEN NOT refused THEN 120 END, '203.0.113.7', 'GET /v1/models',
         CASE WHEN NOT refused THEN 'm-' || i % 2 END
       FROM generate_series($7::bigint + 1, $8::bigint) AS i, LATERAL (SELECT i % 37 = 0 AS refused) AS r`,
      [facts.head, YEAR_DAYS, options.events, organizationNumber, facts.first_key, facts.keys, done, last],
    );
    if (last % (4 * CHUNK) === 0) options.onProgress(`${last / 1e6} of ${options.events / 1e6} million usage events written`);
  }
  await owner.query('SELECT ensure_usage_partitions(2)');
  await owner.query('VACUUM ANALYZE usage_events');
}
