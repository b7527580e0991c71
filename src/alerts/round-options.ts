import type { RaiseAlerts } from './raise-alerts.ts';

/** What an evaluation that goes over many keys is given. */
export type RoundOptions = {
  readonly raise: RaiseAlerts;
  /** To be called now and then, so that the leader's transaction doesn't look idle. */
  readonly keepLeading: () => Promise<void>;
  readonly signal: AbortSignal;
};
