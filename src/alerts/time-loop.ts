import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';

import { repeat, type Loop } from '../lib/repeat.ts';
import type { Database } from '../postgres/pool.ts';
import { asLeader } from './as-leader.ts';
import { raiseByTime } from './evaluate-times.ts';
import type { RaiseAlerts } from './raise-alerts.ts';

export type TimeLoopOptions = {
  readonly database: Database;
  readonly raise: RaiseAlerts;
  readonly intervalMs: number;
  readonly onError: (error: Error) => void;
};

/** Looks again and again for keys of which time alone has made something. A round that takes long is followed by a pause of four times as long. */
export function createTimeLoop({ database, raise, intervalMs, onError }: TimeLoopOptions): Loop {
  return repeat({
    intervalMs,
    onError,
    work: async (signal) => {
      const began = performance.now();
      await asLeader(database, 'times', (tx) =>
        raiseByTime(database.kysely, { raise, signal, keepLeading: async () => void (await sql`SELECT`.execute(tx)) }),
      );
      await sleep(Math.max(0, 4 * (performance.now() - began) - intervalMs), undefined, { signal });
    },
  });
}
