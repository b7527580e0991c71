import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';

import type { LedgerDatabase } from './ledger-database.ts';

const DEADLINE_MS = 15 * 60_000;
const POLL_MS = 50;

export type Quiet = {
  /** Events that the statistics had not folded when the load ended. */
  readonly lagEvents: number;
  /** Until they had, and no autovacuum was at work. */
  readonly seconds: number;
};

/** Waits until what a slot left behind is done, so that the next slot doesn't pay for it. */
export async function awaitQuiet(admin: pg.Client, { name, owner }: LedgerDatabase, signal: AbortSignal): Promise<Quiet> {
  const startMs = performance.now();
  let lagEvents: number | undefined;
  for (;;) {
    signal.throwIfAborted();
    const { rows } = await owner.query<{ lag: number }>(
      "SELECT (head_position() - position)::float8 AS lag FROM projections WHERE name = 'usage' AND state = 'live'",
    );
    const lag = rows[0]?.lag ?? 0;
    lagEvents ??= lag;
    const busy = await admin.query("SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'");
    if (lag <= 0 && busy.rowCount === 0) return { lagEvents, seconds: (performance.now() - startMs) / 1000 };
    if (performance.now() - startMs > DEADLINE_MS)
      throw new Error(`${name} does not come to rest: its statistics are ${lag} events behind`);
    await sleep(POLL_MS);
  }
}
