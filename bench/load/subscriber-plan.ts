export type SubscriberPlan = {
  readonly port: number;
  readonly token: string;
  /** Global id. */
  readonly organization: string;
  /** Of each socket, the global ids of the keys that it follows. */
  readonly keys: readonly (readonly string[])[];
};

type Figures = { readonly count: number; readonly p50Ms: number; readonly p99Ms: number; readonly maxMs: number };

export type SubscriberReport = {
  readonly sockets: number;
  readonly updates: number;
  /** From the moment at which the newest request of an update was recorded, just before it was committed, to the client. Whole milliseconds, one clock. */
  readonly used: Figures;
  readonly alerts: Figures;
  readonly failures: number;
  readonly sampleFailure: string | null;
};

export type ToSubscribers =
  | { readonly kind: 'open'; readonly plan: SubscriberPlan }
  | { readonly kind: 'reset' }
  | { readonly kind: 'report' }
  | { readonly kind: 'close' };

export type FromSubscribers =
  | { readonly kind: 'opened' }
  | { readonly kind: 'closed' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'report'; readonly report: SubscriberReport };
