import { sql } from 'kysely';

import { repeat, type Loop } from '../lib/repeat.ts';
import type { Database } from '../postgres/pool.ts';
import { asLeader } from './as-leader.ts';
import { raiseUnusualActivity } from './evaluate-activity.ts';
import type { RaiseAlerts } from './raise-alerts.ts';

const HOUR_MS = 60 * 60 * 1000;
/** Events by which statistics may be behind when an hour is judged; further behind, it waits. */
const MAX_LAG = 20_000;

export type ActivityLoopOptions = {
  readonly database: Database;
  readonly raise: RaiseAlerts;
  /** How often to look whether an hour has ended. */
  readonly intervalMs: number;
  readonly onError: (error: Error) => void;
};

/**
 * Judges each hour once it has ended and statistics have it. `alert_progress` holds the number of the last hour that was judged (since 1970); where servers
 * were down for longer, the hours that were missed are left alone, but for the last one.
 */
export function createActivityLoop({ database, raise, intervalMs, onError }: ActivityLoopOptions): Loop {
  async function round(signal: AbortSignal): Promise<void> {
    await asLeader(database, 'activity', async (tx) => {
      const { rows } = await sql<{ hour: bigint; judged: bigint; lag: bigint }>`
        SELECT floor(extract(epoch FROM ledger_now() - interval '10 seconds') / 3600)::bigint - 1 AS hour, p.position AS judged, head_position() - s.position AS lag
        FROM alert_progress p, projections s WHERE p.name = 'activity' AND s.name = 'usage' AND s.state = 'live'`.execute(tx);
      const found = rows[0];
      if (found === undefined || found.hour <= found.judged || found.lag > MAX_LAG) return;
      await raiseUnusualActivity(database.kysely, {
        raise,
        hour: new Date(Number(found.hour) * HOUR_MS),
        keepLeading: async () => void (await sql`SELECT`.execute(tx)),
        signal,
      });
      if (!signal.aborted) await sql`UPDATE alert_progress SET position = ${found.hour}::bigint WHERE name = 'activity'`.execute(tx);
    });
  }

  return repeat({ intervalMs, work: round, onError });
}
