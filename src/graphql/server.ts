import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { execute, type DocumentNode, type ExecutionArgs } from 'graphql';
import { createYoga, type Plugin } from 'graphql-yoga';

import { serviceUnavailable, toClientError, unauthenticated } from './client-error.ts';
import { createContext, type GraphqlContext } from './context.ts';
import type { GraphqlDependencies } from './dependencies.ts';
import { applyCors, withBody, withinCap } from './http-adapter.ts';
import { DEFAULT_LIMITS, type GraphqlLimits } from './limits.ts';
import { createSubscribe, type Subscribe } from './live-subscribe.ts';
import { createPlainPost } from './plain-post.ts';
import { uncheckedToken } from './unchecked-token.ts';
import { createDocumentReader, type DocumentReader } from './operation.ts';
import { buildSchema } from './schema.ts';
import { createSessions } from './sessions.ts';
import { createWebSocketAdapter } from './ws-adapter.ts';
import { createWrittenLists, type WrittenLists } from './written-lists.ts';

export { buildSchema } from './schema.ts';
export type { GraphqlDependencies } from './dependencies.ts';

/** Everything at `/graphql`: queries, mutations and SSE over HTTP, WebSockets, and GraphiQL. */
export type GraphqlServer = {
  handle(req: IncomingMessage, res: ServerResponse): Promise<void>;
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Streams that are open now, over both transports. */
  subscriptions(): number;
  /** Ends sockets with 1001 and cancels streams. Requests that are under way are answered. */
  close(): Promise<void>;
};

export function createGraphqlServer(deps: GraphqlDependencies): GraphqlServer {
  const { config, logger } = deps;
  const limits: GraphqlLimits = { ...DEFAULT_LIMITS, ...config.limits };
  const schema = buildSchema();
  const reader = createDocumentReader(schema, limits);
  const sessions = createSessions({ ...deps, onError: (error) => logger.error({ err: error }, 'revocations can not be followed') });
  const { subscribe, open } = createSubscribe(sessions, logger);
  const sockets = createWebSocketAdapter({ deps, limits, schema, reader, subscribe, sessions });

  const yoga = createYoga<{ req: IncomingMessage; res: ServerResponse }, GraphqlContext>({
    schema,
    graphqlEndpoint: '/graphql',
    logging: false, // what is unexpected toClientError logs, once and with an id
    landingPage: false,
    multipart: false,
    batching: false,
    cors: false,
    maxRequestBodySize: false,
    parserAndValidationCache: false, // the reader has one, which the other transports share
    maskedErrors: { maskError: (error) => toClientError(error, logger) },
    graphiql: config.graphiql
      ? { title: 'keyledger', subscriptionsProtocol: 'WS', headers: JSON.stringify({ Authorization: 'Bearer <access token>' }) }
      : false,
    renderGraphiQL: async (options) => {
      // Nine megabytes of page: read by the first who wants it. The package's own page, since the built-in one loads from a CDN.
      const { renderGraphiQL } = await import('@graphql-yoga/render-graphiql');
      return renderGraphiQL(options);
    },
    context: ({ request }) => contextOf(request.headers.get('authorization') ?? undefined, request.signal),
    plugins: [operationPlugin(reader, subscribe)],
  });

  async function contextOf(
    authorization: string | undefined,
    disconnected?: AbortSignal,
    writtenLists?: WrittenLists,
  ): Promise<GraphqlContext> {
    const found = await deps.authenticate(authorization);
    if (found.kind === 'refused') throw unauthenticated(found.message, true);
    if (found.kind === 'unavailable') throw serviceUnavailable(found.message, 1);
    const actor = found.kind === 'actor' ? found.actor : null;
    return createContext({ deps, limits, actor, authorization, session: null, disconnected, writtenLists: writtenLists ?? null });
  }

  function uncheckedContextOf(authorization: string | undefined): GraphqlContext | null {
    const unchecked = uncheckedToken(deps.admission, authorization);
    return unchecked === null
      ? null
      : createContext({ deps, limits, actor: null, unchecked, authorization, session: null, disconnected: undefined });
  }

  const plain = createPlainPost({
    deps,
    limits,
    schema,
    reader,
    contextOf: (authorization) => contextOf(authorization, undefined, createWrittenLists()),
    uncheckedContextOf,
    full: async (req, res, body) => yoga(withBody(req, [body]), res),
  });

  return {
    async handle(req, res) {
      if (!applyCors(req, res, config.allowedOrigins)) return;
      if (plain.takes(req)) return plain.answer(req, res);
      const capped = await withinCap(req, res, config.maxBodyBytes);
      if (capped !== null) await yoga(capped, res);
    },
    handleUpgrade: sockets.handleUpgrade,
    subscriptions: open,
    async close() {
      sessions.close();
      await sockets.close();
      await yoga.dispose();
    },
  };
}

/** Yoga reads and runs operations as the sockets do. */
function operationPlugin(reader: DocumentReader, subscribe: Subscribe): Plugin {
  return {
    onParse: ({ setParseFn }) => setParseFn((source: string) => reader.parse(source)),
    onValidate: ({ setValidationFn }) => setValidationFn((_schema: unknown, document: DocumentNode) => reader.validate(document)),
    onExecute: ({ setExecuteFn }) => setExecuteFn((args: ExecutionArgs) => execute(args)),
    onSubscribe: ({ setSubscribeFn }) => setSubscribeFn((args: ExecutionArgs) => subscribe(args)),
  };
}
