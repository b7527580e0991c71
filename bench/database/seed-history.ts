import type { LedgerDatabase } from './ledger-database.ts';

const CHUNK = 500_000;

export type HistoryOptions = {
  readonly events: number;
  /** The history ends so many days ago; above 30, so that every window has forgotten it and only the total counts it. */
  readonly endDaysAgo: number;
  readonly startDaysAgo: number;
  readonly signal: AbortSignal;
  readonly onProgress: (line: string) => void;
};

/**
 * A past of verifications over all keys, in positions and moments that rise together, written by the owner. What `admit` would have kept stands beside it: each key's total.
 * The statistics are left to the projector, which folds it as it would any log.
 */
export async function seedHistory({ owner, organizationNumber }: LedgerDatabase, options: HistoryOptions): Promise<void> {
  const { rows } = await owner.query<{ head: string; first_key: number; keys: number }>(
    'SELECT head_position() AS head, (SELECT min(number) FROM api_keys) AS first_key, (SELECT count(*)::integer FROM api_keys) AS keys',
  );
  const [facts] = rows;
  if (facts === undefined) throw new Error('the ledger tells nothing of its keys');
  const spanSeconds = (options.startDaysAgo - options.endDaysAgo) * 86_400;
  for (let done = 0; done < options.events; done += CHUNK) {
    options.signal.throwIfAborted();
    const last = Math.min(done + CHUNK, options.events);
    // As in traffic, neighbours in the log are of different keys, and a key that is at work asks more than once a minute: twelve at a time, twenty requests each.
    await owner.query(
      `INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, ip, endpoint)
       SELECT $1::bigint + i, date_trunc('hour', clock_timestamp()) - make_interval(days => $2) + make_interval(secs => $3::float8 * i / $4), $5,
         $6::integer + abs(hashint8(i / 240 * 12 + i % 12) % $7::integer), 1, 1, 0, '203.0.113.7', 'GET /v1/models'
       FROM generate_series($8::bigint + 1, $9::bigint) AS i`,
      [facts.head, options.startDaysAgo, spanSeconds, options.events, organizationNumber, facts.first_key, facts.keys, done, last],
    );
    if (last % (4 * CHUNK) === 0) options.onProgress(`${last / 1e6} of ${options.events / 1e6} million usage events written`);
  }
  await owner.query('SELECT ensure_usage_partitions(2)');
  await owner.query(
    'UPDATE key_windows w SET total = u.total FROM (SELECT key, sum(credits) AS total FROM usage_events GROUP BY key) AS u WHERE u.key = w.key',
  );
  await owner.query('VACUUM ANALYZE usage_events, key_windows');
}
