import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Logger } from 'pino';

import type { HttpMetrics } from './metrics.ts';

/** One request with what its answer needs. Made once a request, so it stays small. */
export type Exchange = {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly route: string;
  /** `performance.now()` at its arrival. */
  readonly startedMs: number;
  readonly scope: HttpScope;
};

/** What all exchanges of a server share. */
export type HttpScope = {
  readonly logger: Logger;
  readonly metrics: HttpMetrics;
  /** Logs, but not for each request, that the database could not be asked. */
  reportOutage(error: unknown, route: string): void;
  isDraining(): boolean;
};

/** A path and method, and what answers there. A path that ends in `/*` stands for all below it; `ANY` is each method that no other route of the path has. `name` is its label in metrics. A promise that rejects is answered as {@link refuseError} says. */
export type Route = {
  readonly method: 'GET' | 'POST' | 'ANY';
  readonly path: string;
  readonly name: string;
  handle(exchange: Exchange): void | Promise<void>;
};
