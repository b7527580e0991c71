/** Requests that are ready to be sent: whole HTTP/1.1 messages, so that the generator spends nothing on making them. */
export type LoadTarget = { readonly port: number; readonly requests: readonly string[] };

export type LoadPlan = {
  /** Connections are dealt out over the targets in turn. */
  readonly targets: readonly LoadTarget[];
  /** Each has one request under way at a time. */
  readonly connections: number;
  /** Load without measuring, in front. */
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Sends each request of each target once and stops; everything is measured, `measureMs` is then the limit. */
  readonly once: boolean;
  /** Requests a second in all, evenly spread, where the connections could send more; undefined: as many as they can. */
  readonly perSecond?: number | undefined;
  /** What an answer that counts as a success has in it. */
  readonly expect: string;
};

export type LoadResult = {
  /** Answers within the measured time. */
  readonly requests: number;
  readonly seconds: number;
  /** Over the whole run, warm-up and what was under way at its end included: every answer that was read. */
  readonly succeeded: number;
  readonly failed: number;
  /** Requests that were sent and never answered. */
  readonly lost: number;
  /** The first answer that was no success. */
  readonly sampleFailure: string | null;
  /** From the moment at which a request was due, where its connection was still busy then. */
  readonly p50Us: number;
  readonly p99Us: number;
  readonly maxUs: number;
};

export type FromGenerator =
  | { readonly kind: 'measuring' }
  | { readonly kind: 'measured' }
  | { readonly kind: 'done'; readonly result: LoadResult };
