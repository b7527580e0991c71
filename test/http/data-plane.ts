import { Writable } from 'node:stream';

import { pino } from 'pino';

import { readAlertLag } from '../../src/alerts/read-alert-lag.ts';
import type { Permission } from '../../src/domain/permissions.ts';
import { createMetrics } from '../../src/http/metrics.ts';
import { httpRoutes, type HttpRoutesOptions } from '../../src/http/routes.ts';
import { createHttpServer, type GraphqlEndpoint, type HttpServerOptions } from '../../src/http/server.ts';
import { createAuthenticate } from '../../src/identity/authenticate.ts';
import type { OidcVerifier } from '../../src/identity/oidc.ts';
import { headPosition } from '../../src/ledger/append.ts';
import { readDeliveryLag } from '../../src/webhooks/read-delivery-lag.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

export type Answer = {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** The body as JSON, to be looked into by tests. */
  readonly body: Readonly<Record<string, unknown>>;
};

export type DataPlaneOptions = Partial<Pick<HttpServerOptions, 'requestTimeoutMs' | 'trustedProxies'>> &
  Partial<Pick<HttpRoutesOptions, 'admission' | 'maxUsageBodyBytes' | 'projectorLag' | 'database'>> & {
    readonly on?: TestLedger;
    readonly graphql?: GraphqlEndpoint;
    readonly oidc?: OidcVerifier;
    readonly logLevel?: string;
  };

/** A ledger on a database of its own with a server in front of it, listening on a free port. */
export async function openDataPlane(options: DataPlaneOptions = {}) {
  const ledger = options.on ?? (await openTestLedger());
  const database = options.database ?? ledger.database;
  const logged: string[] = [];
  const sink = new Writable({
    write(chunk: Buffer, _encoding, next) {
      logged.push(chunk.toString());
      next();
    },
  });
  const logger = pino({ level: options.logLevel ?? 'info' }, sink);
  const authenticate = createAuthenticate({ db: database.kysely, oidc: options.oidc ?? null });
  const admission = options.admission ?? ledger.admission;
  const metrics = createMetrics({
    pool: database.pool,
    admission: ledger.admission.gauges,
    positions: async () => ({ head: await headPosition(database.kysely), projectors: [{ name: 'usage', position: 0n }] }),
    lags: async () => ({ alerts: await readAlertLag(database.kysely), deliveries: await readDeliveryLag(database.kysely) }),
    subscriptions: () => 3,
  });
  const routes = httpRoutes({
    admission,
    authenticate,
    database,
    metrics,
    maxUsageBodyBytes: options.maxUsageBodyBytes ?? 4 * 1024 * 1024,
    trustedProxies: options.trustedProxies ?? [],
    projectorLag: options.projectorLag ?? (() => Promise.resolve(0)),
    maxProjectorLag: 1000,
  });
  const { requestTimeoutMs } = options;
  const server = createHttpServer({
    host: '127.0.0.1',
    port: 0,
    routes,
    graphql: options.graphql ?? null,
    logger,
    metrics,
    trustedProxies: options.trustedProxies ?? [],
    ...(requestTimeoutMs === undefined ? {} : { requestTimeoutMs }),
  });
  const { port, url } = await server.listen();

  async function ask(path: string, init: RequestInit = {}): Promise<Answer> {
    const response = await fetch(url + path, init);
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.startsWith('application/json') === true && text !== '';
    return { status: response.status, headers: response.headers, text, body: isJson ? (JSON.parse(text) as Answer['body']) : {} };
  }

  return {
    ledger,
    server,
    url,
    port,
    logged,
    ask,
    /** A POST with a body that is sent as it stands where it is text, and as JSON otherwise. */
    post(path: string, body: unknown, { token, type = 'application/json', headers }: PostOptions = {}): Promise<Answer> {
      return ask(path, {
        method: 'POST',
        body: typeof body === 'string' ? body : JSON.stringify(body),
        headers: { 'content-type': type, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...headers },
      });
    },
    /** Issues a service token and answers its secret text. */
    async newToken(permissions: readonly Permission[]): Promise<{ readonly tokenId: string; readonly secret: string }> {
      const outcome = done(
        await ledger.tokens.create(ledger.owner, {
          organizationId: ledger.organization.id,
          name: 'gateway',
          permissions: [...permissions],
        }),
      );
      if (outcome.secret === null) throw new Error('the new token has no secret');
      return { tokenId: outcome.result.tokenId, secret: outcome.secret.reveal() };
    },
    async close() {
      await server.drain(0);
      if (options.on === undefined) await ledger.close();
    },
  };
}

export type PostOptions = { readonly token?: string; readonly type?: string; readonly headers?: Readonly<Record<string, string>> };
export type DataPlane = Awaited<ReturnType<typeof openDataPlane>>;
