import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import {
  type ExecutionArgs,
  execute,
  GraphQLError,
  getOperationAST,
  type ExecutionResult,
  type FormattedExecutionResult,
  type GraphQLSchema,
} from 'graphql';
import { CloseCode, handleProtocols, makeServer, type Context } from 'graphql-ws';
import { WebSocketServer, type WebSocket } from 'ws';

import { badUserInput, serviceUnavailable, toClientError, topLevelError } from './client-error.ts';
import { createContext, type PushResult, type Session } from './context.ts';
import type { GraphqlDependencies } from './dependencies.ts';
import { isAllowedOrigin } from './http-adapter.ts';
import type { GraphqlLimits } from './limits.ts';
import type { Subscribe } from './live-subscribe.ts';
import type { DocumentReader } from './operation.ts';
import { freeIdsInOrder } from './operation-ids.ts';
import { plainFrame } from './plain-frame.ts';
import type { Sessions } from './sessions.ts';
import type { Actor } from '../domain/actor.ts';

export type WebSocketAdapter = {
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  close(): Promise<void>;
};

/** Of one socket: who speaks, and until when. Set at `connection_init`. */
type Extra = {
  caller: { readonly actor: Actor | null; readonly authorization: string | undefined; readonly session: Session | null } | null;
  readonly gone: AbortController;
  readonly socket: WebSocket;
  readonly push: (id: string) => PushResult;
};
type Parts = {
  readonly deps: GraphqlDependencies;
  readonly limits: GraphqlLimits;
  readonly schema: GraphQLSchema;
  readonly reader: DocumentReader;
  readonly subscribe: Subscribe;
  readonly sessions: Sessions;
};

/** graphql-transport-ws over `ws`. Every message is awaited until the socket took it, so that a reader that is stuck stops its stream and costs no memory. */
export function createWebSocketAdapter({ deps, limits, schema, reader, subscribe, sessions }: Parts): WebSocketAdapter {
  const { logger } = deps;
  const wss = new WebSocketServer({
    noServer: true,
    maxPayload: limits.maxMessageBytes,
    perMessageDeflate: false,
    handleProtocols,
    clientTracking: true,
  });

  const server = makeServer<Record<string, unknown>, Extra>({
    schema,
    connectionInitWaitTimeout: limits.connectionInitMs,
    onConnect: async (context) => connect(context),
    onSubscribe: (context, id, { query, operationName, variables }) =>
      prepare(context, id, query, operationName ?? undefined, variables ?? undefined),
    execute: (args) => execute(args),
    subscribe: (args) => subscribe(args),
    onNext: (_context, _id, _payload, _args, result) => formatted(result as ExecutionResult),
    onError: (_context, _id, _payload, errors) => errors.map((error) => visible(error)),
  });

  async function connect({ connectionParams, extra }: Context<Record<string, unknown>, Extra>): Promise<boolean> {
    const authorization = connectionParams?.['authorization'] ?? connectionParams?.['Authorization'];
    const header = typeof authorization === 'string' ? authorization : undefined;
    try {
      const found = await deps.authenticate(header);
      if (found.kind === 'unavailable') return closed(extra.socket, 1013, found.message);
      if (found.kind !== 'actor') return closed(extra.socket, CloseCode.Unauthorized, 'Unauthorized');
      const session = await sessions.open(found.actor, header);
      if (session === null) return closed(extra.socket, CloseCode.Unauthorized, 'Unauthorized');
      if (extra.gone.signal.aborted) {
        session.release();
        return false;
      }
      extra.caller = { actor: found.actor, authorization: header, session };
      session.signal.addEventListener('abort', () => endWith(extra.socket, session.signal.reason), { once: true });
      if (session.signal.aborted) endWith(extra.socket, session.signal.reason);
      return true;
    } catch (error) {
      const told = toClientError(error, logger);
      return closed(
        extra.socket,
        told.extensions['code'] === 'SERVICE_UNAVAILABLE' ? 1013 : CloseCode.InternalServerError,
        'Try again later',
      );
    }
  }

  /** Errors are returned, not thrown: a document that can't be read is the affair of one operation, not of the socket. */
  async function prepare(
    { extra, subscriptions }: Context<Record<string, unknown>, Extra>,
    id: string,
    query: string,
    operationName: string | undefined,
    variableValues: Record<string, unknown> | undefined,
  ): Promise<ExecutionArgs | readonly GraphQLError[]> {
    const { caller } = extra;
    if (caller === null) return [badUserInput('connection_init comes first.')];
    if (Object.keys(subscriptions).length > limits.maxOperationsPerSocket) {
      return [topLevelError('RATE_LIMITED', `A socket can have ${limits.maxOperationsPerSocket} operations at once.`)];
    }
    const document = reader.read(query);
    if (!('kind' in document)) return document.map((error) => toClientError(error, logger));
    if (getOperationAST(document, operationName) == null)
      return [badUserInput("The document does not have the one operation that 'operationName' asks for.")];
    try {
      // A credential holds for each operation, not for the life of the socket.
      const still = await deps.authenticate(caller.authorization);
      if (still.kind === 'unavailable') return [serviceUnavailable(still.message, 1)];
      if (still.kind !== 'actor') {
        extra.socket.close(CloseCode.Forbidden, 'Forbidden');
        return [topLevelError('FORBIDDEN', 'Your credentials no longer hold.')];
      }
      const contextValue = createContext({
        deps,
        limits,
        ...caller,
        actor: still.actor,
        disconnected: extra.gone.signal,
        push: extra.push(id),
      });
      return {
        schema,
        document,
        contextValue,
        ...(operationName === undefined ? {} : { operationName }),
        ...(variableValues === undefined ? {} : { variableValues }),
      };
    } catch (error) {
      return [toClientError(error, logger)];
    }
  }

  function formatted(result: ExecutionResult): FormattedExecutionResult {
    const { errors, ...rest } = result;
    return errors === undefined
      ? (rest as FormattedExecutionResult)
      : ({ ...rest, errors: errors.map(visible) } as FormattedExecutionResult);
  }

  function visible(error: GraphQLError) {
    const { extensions, ...rest } = toClientError(error, logger).toJSON();
    const { http: _, ...told } = extensions ?? {};
    return { ...rest, extensions: told };
  }

  function adopt(socket: WebSocket, connection: Duplex): void {
    const extra: Extra = { caller: null, gone: new AbortController(), socket, push: createPush(socket, connection) };
    let answered = true;
    const pinging = setInterval(() => {
      if (!answered) return socket.terminate();
      answered = false;
      socket.ping();
    }, limits.pingEveryMs).unref();
    const onClosed = server.opened(
      {
        protocol: socket.protocol,
        send: (text) =>
          new Promise((resolve, reject) => {
            if (socket.readyState !== socket.OPEN) return resolve();
            socket.send(text, (error) =>
              error === undefined || error === null || socket.readyState !== socket.OPEN ? resolve() : reject(error),
            );
          }),
        close: (code, reason) => socket.close(code, reason),
        onMessage: (take) => {
          const takeInOrder = freeIdsInOrder(take);
          socket.on('message', (data: Buffer) => {
            takeInOrder(data.toString('utf8')).catch((error: unknown) => {
              toClientError(error, logger);
              socket.close(CloseCode.InternalServerError, 'Internal server error');
            });
          });
        },
      },
      extra,
    );
    socket.on('pong', () => {
      answered = true;
    });
    // Such as a message above the limit; ws closes the socket itself.
    socket.on('error', (error) => logger.debug({ err: error }, 'a GraphQL socket failed'));
    socket.once('close', (code, reason) => {
      clearInterval(pinging);
      extra.gone.abort();
      extra.caller?.session?.release();
      onClosed(code, reason.toString('utf8')).catch((error: unknown) => toClientError(error, logger));
    });
  }

  return {
    handleUpgrade(req, socket, head) {
      const { origin, host } = req.headers;
      if (origin !== undefined && !isAllowedOrigin(origin, host, deps.config.allowedOrigins)) return refuseUpgrade(socket, '403 Forbidden');
      if (wss.clients.size >= limits.maxSockets) return refuseUpgrade(socket, '503 Service Unavailable');
      wss.handleUpgrade(req, socket, head, (adopted) => adopt(adopted, socket));
    },
    async close() {
      const open = [...wss.clients];
      for (const socket of open) socket.close(1001, 'Going away');
      // Who does not answer the closing handshake is not waited for.
      const impatient = setTimeout(() => open.forEach((socket) => socket.terminate()), CLOSE_WITHIN_MS);
      await Promise.all(
        open.map(
          (socket) => new Promise((resolve) => (socket.readyState === socket.CLOSED ? resolve(null) : socket.once('close', resolve))),
        ),
      );
      clearTimeout(impatient);
      await new Promise((resolve) => wss.close(resolve));
    },
  };
}

const CLOSE_WITHIN_MS = 1000;
/** What a socket may have been given and not yet have sent, when results are pushed to it: above that its stream stops until it has. */
const MAX_UNSENT_BYTES = 16 * 1024;

/** Pushes results to the operations of one socket; those of one turn are written together. */
function createPush(socket: WebSocket, connection: Duplex): (id: string) => PushResult {
  let corked = false;
  function uncork(): void {
    corked = false;
    connection.uncork();
  }
  return (id) => {
    // The protocol's `Next` message, as graphql-ws writes it.
    const head = `{"id":${JSON.stringify(id)},"type":"next","payload":`;
    return (result) => {
      if (socket.readyState !== socket.OPEN || socket.bufferedAmount > MAX_UNSENT_BYTES) return false;
      if (!corked) {
        corked = true;
        connection.cork();
        queueMicrotask(uncork);
      }
      const text = `${head}${JSON.stringify(result)}}`;
      const frame = plainFrame(text);
      if (frame === null) socket.send(text);
      else connection.write(frame, 'latin1');
      return true;
    };
  };
}

function closed(socket: WebSocket, code: number, reason: string): false {
  socket.close(code, reason);
  return false;
}

/** 4401 and 4403 tell graphql-ws clients not to try again with what they have. */
function endWith(socket: WebSocket, reason: unknown): void {
  const code = reason instanceof GraphQLError ? reason.extensions['code'] : undefined;
  if (code === 'FORBIDDEN') socket.close(CloseCode.Forbidden, 'Forbidden');
  else if (code === 'UNAUTHENTICATED') socket.close(CloseCode.Unauthorized, 'Unauthorized');
  else socket.close(1001, 'Going away');
}

function refuseUpgrade(socket: Duplex, status: string): void {
  socket.once('error', () => socket.destroy());
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}
