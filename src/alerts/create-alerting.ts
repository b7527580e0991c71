import type { Database } from '../postgres/pool.ts';
import { createActivityLoop } from './activity-loop.ts';
import { evaluateBalances } from './evaluate-balances.ts';
import { evaluateStatistics, STATISTICS_POSITION } from './evaluate-statistics.ts';
import { raiseByChange } from './evaluate-times.ts';
import { evaluateWindows } from './evaluate-windows.ts';
import { followLogPages } from './follow-log-pages.ts';
import { createRaiseAlerts } from './raise-alerts.ts';
import { readTouched } from './read-touched.ts';
import { createTimeLoop } from './time-loop.ts';

/** Everything that raises alerts. Any number of servers run it. */
export type Alerting = {
  /** The log has grown, or may have. */
  wake(): void;
  stop(): Promise<void>;
};

export type AlertingOptions = {
  readonly database: Database;
  /** How often to look at the log without having been woken. */
  readonly pollMs: number;
  /** How often to look for what time alone brings; a minute unless told. */
  readonly timeMs?: number;
  readonly onError: (error: Error) => void;
};

const SECOND_MS = 1000;
/** At 5,000 requests/s a look then takes some hundreds of them, and an alert is with its reader well within a second. */
const WINDOWS_PAUSE_MS = 100;
/** A report has statistics folded within 600 ms, however much comes besides; together that stays within a second, too. */
const STATISTICS_PAUSE_MS = 200;

export function createAlerting({ database, pollMs, timeMs = 60 * SECOND_MS, onError }: AlertingOptions): Alerting {
  const raise = createRaiseAlerts(database.kysely);
  const closing = new AbortController();
  const failed = (what: string) => (error: Error) => {
    onError(new Error(`Alerts of ${what} could not be evaluated; it is tried again.`, { cause: error }));
  };
  const windows = followLogPages({
    database,
    name: 'windows',
    pollMs,
    pauseMs: WINDOWS_PAUSE_MS,
    work: async (db, page) => {
      const touched = await readTouched(db, page);
      await raise(await evaluateWindows(db, touched));
      await raise(await evaluateBalances(db, touched));
      await raiseByChange(db, touched, { raise, signal: closing.signal, keepLeading: () => Promise.resolve() });
    },
    onError: failed('quotas, limits and balances'),
  });
  const statistics = followLogPages({
    database,
    name: 'statistics',
    limit: STATISTICS_POSITION,
    pollMs,
    pauseMs: STATISTICS_PAUSE_MS,
    work: async (db, page) => void (await raise(await evaluateStatistics(db, page))),
    onError: failed('errors and spending'),
  });
  const times = createTimeLoop({ database, raise, intervalMs: timeMs, onError: failed('expiry, rotation and disuse') });
  const activity = createActivityLoop({ database, raise, intervalMs: timeMs, onError: failed('unusual activity') });
  return {
    wake() {
      windows.wake();
      statistics.wake();
    },
    async stop() {
      closing.abort();
      await Promise.all([windows.stop(), statistics.stop(), times.stop(), activity.stop()]);
    },
  };
}
