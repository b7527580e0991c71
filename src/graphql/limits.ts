const SECOND_MS = 1000;

/** What one client can ask of the server at once. All are ceilings that no honest client meets. */
export type GraphqlLimits = {
  /** Lexical tokens in a document. */
  readonly maxTokens: number;
  /** Fields with an alias in a document. */
  readonly maxAliases: number;
  readonly maxDepth: number;
  /** Fields that an operation can resolve, each page counted at the size it asks for. */
  readonly maxComplexity: number;
  /** The largest message of a WebSocket client. */
  readonly maxMessageBytes: number;
  readonly maxOperationsPerSocket: number;
  readonly maxSockets: number;
  /** So long a socket may stay open without `connection_init`. */
  readonly connectionInitMs: number;
  /** How often a socket is pinged; one that leaves a ping unanswered until the next is ended. */
  readonly pingEveryMs: number;
  /** A subscription that had caught up and then falls behind by more events is ended with the place to resume from. */
  readonly maxLagEvents: number;
};

export const DEFAULT_LIMITS: GraphqlLimits = {
  maxTokens: 2000,
  maxAliases: 50,
  maxDepth: 15,
  maxComplexity: 10_000,
  maxMessageBytes: 256 * 1024,
  maxOperationsPerSocket: 100,
  maxSockets: 10_000,
  connectionInitMs: 5 * SECOND_MS,
  pingEveryMs: 15 * SECOND_MS,
  maxLagEvents: 1_000_000,
};

/** Nodes in a page, and ids in `nodes`. */
export const MAX_PAGE = 100;
export const DEFAULT_PAGE = 20;
