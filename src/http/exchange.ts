import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

import type { Logger } from 'pino';

import type { HttpMetrics } from './metrics.ts';

/** As much of a request as can be told of one that node:http did not read; IncomingMessage is one. */
export type RequestHead = {
  readonly headers: Readonly<Pick<IncomingHttpHeaders, 'authorization' | 'content-type' | 'content-encoding'>>;
  readonly socket: Socket;
};

/** What an answer is sent by; ServerResponse is one. */
export type AnswerSink = {
  readonly headersSent: boolean;
  /** Nobody is there to be told. */
  readonly destroyed: boolean;
  /** Values are the server's own: not every sink looks at what is in them, so nothing from outside belongs there. */
  writeHead(status: number, fields: FieldList): unknown;
  end(body: string): unknown;
};

/** Names and values in turn. */
export type FieldList = (string | number)[];

/** One request with what its answer needs. Made once a request, so it stays small. */
export type Exchange<Request extends RequestHead = IncomingMessage> = {
  readonly request: Request;
  readonly response: AnswerSink;
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

export type PlainHandler = {
  /** A larger body is refused, and so left to node:http. */
  readonly maxBodyBytes: number;
  handle(exchange: Exchange<RequestHead>, body: Buffer): void | Promise<void>;
};

/** A path and method, and what answers there. A path that ends in `/*` stands for all below it; `ANY` is each method that no other route of the path has. `name` is its label in metrics. A promise that rejects is answered as {@link refuseError} says. */
export type Route = {
  readonly method: 'GET' | 'POST' | 'ANY';
  readonly path: string;
  readonly name: string;
  handle(exchange: Exchange): void | Promise<void>;
  /** The same for a request that has arrived whole and was not read by node:http ({@link readPlainRequest}), where the route can do with that little. */
  readonly plain?: PlainHandler;
};
