import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';

import { withoutCredentials } from '../lib/without-credentials.ts';
import { answerBrokenRequest } from './broken-request.ts';
import { createClientAddress } from './client-address.ts';
import type { HttpScope, Route } from './exchange.ts';
import type { HttpMetrics } from './metrics.ts';
import { createOutageLog } from './outage-log.ts';
import { createPlainConnections } from './plain-connections.ts';
import { createRouter, pathOf } from './router.ts';

const SECOND_MS = 1000;
/** Above the 60 seconds after which load balancers let idle connections go: theirs must be the end that closes. */
const KEEP_ALIVE_MS = 65 * SECOND_MS;
const GRAPHQL_PATH = '/graphql';

/** What answers below `/graphql`; it reads and limits its own bodies. */
export type GraphqlEndpoint = {
  handle(request: IncomingMessage, response: ServerResponse): void | Promise<void>;
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
};

export type HttpServerOptions = {
  readonly host: string;
  /** 0 for any that is free. */
  readonly port: number;
  readonly routes: readonly Route[];
  readonly graphql: GraphqlEndpoint | null;
  readonly logger: Logger;
  readonly metrics: HttpMetrics;
  /** CIDRs whose X-Forwarded-For is believed, for the log. */
  readonly trustedProxies: readonly string[];
  /** How long a request may take to arrive whole. 30 seconds unless told. */
  readonly requestTimeoutMs?: number;
};

export type HttpServer = {
  /** Rejects with the server's own error, such as EADDRINUSE. */
  listen(): Promise<{ readonly port: number; /** As a client on this machine reaches it. */ readonly url: string }>;
  /**
   * Stops: takes no new connection, tells `/readyz` so, lets open requests end for `graceMs`, ends connections as they fall idle, and then destroys what is left (subscriptions, sockets, slow clients).
   */
  drain(graceMs: number): Promise<void>;
};

/** The one server of the process: the data plane by its routes, GraphQL by its own handler. */
export function createHttpServer(options: HttpServerOptions): HttpServer {
  const { host, port, graphql, logger, metrics, requestTimeoutMs = 30 * SECOND_MS } = options;
  let draining: Promise<void> | undefined;
  const scope: HttpScope = { logger, metrics, reportOutage: createOutageLog(logger), isDraining: () => draining !== undefined };
  const route = createRouter(options.routes, scope);
  const clientAddress = createClientAddress(options.trustedProxies);
  // Node forgets a socket that was upgraded; it still has to end with the server.
  const upgraded = new Set<Duplex>();

  const headersTimeoutMs = Math.min(requestTimeoutMs, 15 * SECOND_MS);
  const server = createServer(
    {
      noDelay: true,
      keepAliveTimeout: KEEP_ALIVE_MS,
      headersTimeout: headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      connectionsCheckingInterval: Math.min(requestTimeoutMs, 5 * SECOND_MS),
      maxHeaderSize: 16 * 1024,
    },
    (request, response) => {
      const path = pathOf(request.url ?? '');
      if (draining !== undefined) response.setHeader('connection', 'close');
      if (logger.isLevelEnabled('debug')) logWhenAnswered(request, response, path);
      if (path === GRAPHQL_PATH && graphql !== null) handOver(graphql, request, response);
      else route(request, response, path);
    },
  );

  function handOver(endpoint: GraphqlEndpoint, request: IncomingMessage, response: ServerResponse): void {
    const startedMs = performance.now();
    response.once('close', () => {
      metrics.answered('graphql', response.statusCode, performance.now() - startedMs);
    });
    // An async function, so that what it throws at once and what it rejects with come to the same place.
    const handled = (async () => endpoint.handle(request, response))();
    handled.catch((error: unknown) => {
      logger.error({ err: error }, 'the GraphQL endpoint failed');
      response.destroy();
    });
  }

  /** Path without query, and no header: neither may bring a secret into the log, and nor may a path that holds one by mistake. */
  function logWhenAnswered(request: IncomingMessage, response: ServerResponse, path: string): void {
    const startedMs = performance.now();
    response.once('close', () => {
      const durationMs = Math.round((performance.now() - startedMs) * 1000) / 1000;
      logger.debug(
        {
          requestId: sentRequestId(request),
          method: request.method,
          path: withoutCredentials(path),
          status: response.statusCode,
          durationMs,
          client: clientAddress(request),
        },
        'answered',
      );
    });
  }

  // What node:http does with a new connection, and now only with one that is not plain.
  const [byNode] = server.listeners('connection');
  if (byNode === undefined) throw new Error('node:http listens to its connections in another way now.');
  const serveWithNode = (socket: Socket): void => void byNode.call(server, socket);
  const plain = createPlainConnections({
    routes: options.routes,
    scope,
    handOver: serveWithNode,
    silence: { firstMs: headersTimeoutMs, bodyMs: requestTimeoutMs, keepAliveMs: KEEP_ALIVE_MS },
    onBroken: answerBrokenRequest,
  });
  server.removeAllListeners('connection').on('connection', (socket: Socket) => {
    // A log of all requests tells more of each than is read of plain ones.
    if (logger.isLevelEnabled('debug')) serveWithNode(socket);
    else plain.serve(socket);
  });
  server.on('clientError', answerBrokenRequest);
  server.on('upgrade', (request, socket: Socket, head) => {
    socket.on('error', () => socket.destroy());
    if (graphql === null || draining !== undefined || pathOf(request.url ?? '') !== GRAPHQL_PATH) {
      socket.end(
        `HTTP/1.1 ${draining === undefined ? '404 Not Found' : '503 Service Unavailable'}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`,
      );
      return;
    }
    upgraded.add(socket);
    socket.once('close', () => upgraded.delete(socket));
    graphql.handleUpgrade(request, socket, head);
  });

  async function stop(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const deadline = performance.now() + graceMs;
    let open = true;
    void closed.then(() => (open = false));
    // A connection falls idle when its answer has gone out; Node closes only those that are idle when asked.
    while (open && performance.now() < deadline) {
      server.closeIdleConnections();
      plain.closeIdle();
      await Promise.race([closed, sleep(25)]);
    }
    server.closeAllConnections();
    plain.closeAll();
    for (const socket of upgraded) socket.destroy();
    await closed;
  }

  return {
    async listen() {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(port, host, () => {
          server.off('error', reject);
          resolve();
        });
      });
      const bound = (server.address() as AddressInfo).port;
      return { port: bound, url: `http://${reachable(host)}:${bound}` };
    },
    drain: (graceMs) => (draining ??= stop(graceMs)),
  };
}

const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

/** The id that a proxy gave the request, to find it in both logs. */
function sentRequestId(request: IncomingMessage): string | undefined {
  const sent = request.headers['x-request-id'];
  return typeof sent === 'string' && REQUEST_ID.test(sent) ? sent : undefined;
}

/** A server that listens on all addresses is reached by one of them. */
function reachable(host: string): string {
  if (host === '0.0.0.0' || host === '::') return 'localhost';
  return host.includes(':') ? `[${host}]` : host;
}
