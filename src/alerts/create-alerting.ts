import type { Database } from '../postgres/pool.ts';
import { evaluateWindows } from './evaluate-windows.ts';
import { followLogPages } from './follow-log-pages.ts';
import { createRaiseAlerts } from './raise-alerts.ts';

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
  readonly onError: (error: Error) => void;
};

const WINDOWS_LOCK = 1_801_812_341;
/** At 5,000 requests/s a look then takes some 750 of them, and an alert is with its reader well within a second. */
const WINDOWS_PAUSE_MS = 150;

export function createAlerting({ database, pollMs, onError }: AlertingOptions): Alerting {
  const raise = createRaiseAlerts(database.kysely);
  const failed = (what: string) => (error: Error) => {
    onError(new Error(`Alerts of ${what} could not be evaluated; it is tried again.`, { cause: error }));
  };
  const windows = followLogPages({
    database,
    name: 'windows',
    leaderLock: WINDOWS_LOCK,
    pollMs,
    pauseMs: WINDOWS_PAUSE_MS,
    work: async (db, page) => void (await raise(await evaluateWindows(db, page))),
    onError: failed('quotas and limits'),
  });
  return {
    wake: () => windows.wake(),
    stop: () => windows.stop(),
  };
}
