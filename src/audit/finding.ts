/** What `keyledger check` can find. */
export type FindingKind =
  | 'position-missing'
  | 'position-double'
  | 'time-backwards'
  | 'stream-gap'
  | 'stream-unreadable'
  | 'row-missing'
  | 'row-differs'
  | 'row-unaccounted'
  | 'verifier-missing'
  | 'verifier-differs'
  | 'verifier-unexpected'
  | 'settlement-differs'
  | 'window-differs'
  | 'balance-differs'
  | 'archived-differs'
  | 'counter-differs'
  | 'last-used-differs'
  | 'event-parked'
  | 'projection-ahead';

/** Where a read model, or the log itself, is not what it must be. */
export type Finding = {
  readonly kind: FindingKind;
  /** What it is about, e.g. `api_keys <id> permissions`. */
  readonly subject: string;
  readonly expected: string;
  readonly found: string;
};

/** What every step of a check is given. */
export type CheckStep = {
  readonly report: (finding: Finding) => void;
  /** `done` of `total`, in the unit of the step. */
  readonly progress: (done: number, total: number) => void;
  readonly signal: AbortSignal | undefined;
};
