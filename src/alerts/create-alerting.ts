import type { Database } from '../postgres/pool.ts';
import { createActivityLoop } from './activity-loop.ts';
import { evaluateStatistics, STATISTICS_POSITION } from './evaluate-statistics.ts';
import { followLogPages } from './follow-log-pages.ts';
import { followUses } from './follow-uses.ts';
import { createRaiseAlerts } from './raise-alerts.ts';
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
const WINDOWS_PAUSE_MS = 150;
/** A report has statistics folded within 600 ms, however much comes besides; together that stays within a second, too. */
const STATISTICS_PAUSE_MS = 200;

export function createAlerting({ database, pollMs, timeMs = 60 * SECOND_MS, onError }: AlertingOptions): Alerting {
  const raise = createRaiseAlerts(database.kysely);
  const failed = (what: string) => (error: Error) => {
    onError(new Error(`Alerts of ${what} could not be evaluated; it is tried again.`, { cause: error }));
  };
  const uses = followUses({ database, raise, pollMs, pauseMs: WINDOWS_PAUSE_MS, onError: failed('quotas, limits and balances') });
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
      uses.wake();
      statistics.wake();
    },
    async stop() {
      await Promise.all([uses.stop(), statistics.stop(), times.stop(), activity.stop()]);
    },
  };
}
