import { setTimeout as sleep } from 'node:timers/promises';

import type { Logger } from 'pino';

import type { Admission } from './admission/admission.ts';
import { createAdmission } from './admission/create-admission.ts';
import { readWindows } from './admission/read-windows.ts';
import { createBalanceCommands } from './commands/balance-commands.ts';
import { createAlerting } from './alerts/create-alerting.ts';
import { readAlertLag } from './alerts/read-alert-lag.ts';
import { createExpiryLoop } from './commands/expire-due-keys.ts';
import { createAlertCommands } from './commands/alert-commands.ts';
import { createFirstOwner, type FirstOwner } from './commands/first-owner.ts';
import { createHousekeepingLoop } from './commands/housekeeping.ts';
import { createImportCommands } from './commands/import-commands.ts';
import { createKeyCommands } from './commands/key-commands.ts';
import { createOrganizationCommands } from './commands/organization-commands.ts';
import { createProfileCommands } from './commands/profile-commands.ts';
import { createTokenCommands } from './commands/token-commands.ts';
import type { Config } from './config.ts';
import { subjectOfStream } from './graphql/global-id.ts';
import { createGraphqlServer } from './graphql/server.ts';
import { createMetrics } from './http/metrics.ts';
import { httpRoutes } from './http/routes.ts';
import { createHttpServer } from './http/server.ts';
import { createArgon2Verifiers } from './identity/argon2-verifier.ts';
import { createAuthenticate } from './identity/authenticate.ts';
import { createOidcVerifier } from './identity/oidc.ts';
import { createPeppers } from './identity/pepper.ts';
import { loadOrCreatePepper } from './identity/pepper-file.ts';
import { sealingKeysOf } from './identity/sealing-keys.ts';
import { createTurns } from './lib/turns.ts';
import { headPosition } from './ledger/append.ts';
import { openKeyUses } from './ledger/key-uses.ts';
import { openTail } from './ledger/tail.ts';
import { listenForAppends } from './ledger/wake.ts';
import { assertDurableSettings } from './postgres/boot-checks.ts';
import { choosePostgres } from './postgres/choose-postgres.ts';
import { clientConfig } from './postgres/client-config.ts';
import { explainingFailure } from './postgres/connection-failure.ts';
import { migrate } from './postgres/migrate.ts';
import { openDatabase } from './postgres/pool.ts';
import { createProjector } from './projections/projector.ts';
import { USAGE_PROJECTION } from './projections/usage-fold.ts';
import { createAddressPolicy } from './webhooks/address-policy.ts';
import { createDeliverer } from './webhooks/deliverer.ts';
import { webhookProjection } from './webhooks/delivery-projection.ts';
import { readDeliveryLag } from './webhooks/read-delivery-lag.ts';
import { resolveHost } from './webhooks/resolve-host.ts';
import { createWebhookCommands } from './webhooks/webhook-commands.ts';

const SECOND_MS = 1000;
/** A start waits so long at most for what is read ahead. */
const PRELOAD_MS = SECOND_MS;
const POLL_MS = 500;
const EXPIRY_MS = SECOND_MS;
const HOUSEKEEPING_MS = 60 * SECOND_MS;
/** Statistics are allowed to lag by so much under load, and are folded so much more cheaply for it. */
const STATISTICS_PAUSE_MS = 200;
/** What followers are told is later by so much at most, and at 5,000 requests/s some 250 of them are read together. */
const LIVE_PAUSE_MS = 50;
const MAX_PROJECTOR_LAG = 5_000_000;
const OIDC_TIMEOUT_MS = 5 * SECOND_MS;
const APPLICATION_NAME = 'keyledger';

export type RunningServer = {
  /** As a client on this machine reaches it. */
  readonly url: string;
  readonly port: number;
  readonly postgres: 'embedded' | 'external';
  readonly applied: readonly string[];
  /** On the first start alone. */
  readonly firstOwner: FirstOwner | null;
  /** Resolves with the reason when the server can't go on by itself. */
  readonly failed: Promise<string>;
  /** Drains and releases everything, in reverse order of how it was acquired. */
  close(): Promise<void>;
};

export type StartOptions = { readonly logger: Logger; readonly signal: AbortSignal; readonly onProgress: (line: string) => void };

/** The composition root: builds pools, loops and servers from the settings, and ties their ends together. Leaves nothing half-made where it throws. */
export async function startServer(config: Config, { logger, signal, onProgress }: StartOptions): Promise<RunningServer> {
  await using acquired = new AsyncDisposableStack();
  const failed = Promise.withResolvers<string>();
  const onError = (error: unknown): void => logger.error({ err: error }, 'background work failed; it goes on');

  const postgres = await choosePostgres(config, {
    onLog: (line) => logger.debug({ postgres: line }, 'postgres'),
    onUnexpectedExit: (reason) => failed.resolve(`The embedded Postgres ended: ${reason}`),
    signal,
  });
  acquired.defer(() => postgres.stop());
  const { applied } = await explainingFailure(postgres.ownerUrl, () => migrate({ ownerUrl: postgres.ownerUrl, onProgress }));
  signal.throwIfAborted();

  const connection = { connectionString: postgres.serverUrl, applicationName: APPLICATION_NAME };
  const database = openDatabase({ ...connection, maxConnections: config.databasePoolSize, onError });
  acquired.defer(() => database.close());
  await explainingFailure(postgres.serverUrl, () => assertDurableSettings(database.pool));

  const peppers = createPeppers(config.keyPeppers ?? (await loadOrCreatePepper(config.dataDir)));
  const argon2 = createArgon2Verifiers({ concurrency: 1, queueLimit: 64 });
  acquired.defer(() => argon2.close());
  const oidc = config.oidc === undefined ? null : createOidcVerifier({ ...config.oidc, fetchTimeoutMs: OIDC_TIMEOUT_MS });
  const authenticate = createAuthenticate({ db: database.kysely, oidc });

  const context = { db: database.kysely, sealingKeys: sealingKeysOf(peppers), turns: createTurns() };
  const keyOperationsPerHour = config.keyOperationsPerHour === 0 ? null : config.keyOperationsPerHour;
  const keys = createKeyCommands({ ...context, peppers, argon2, keyOperationsPerHour });
  const organizations = createOrganizationCommands(context);
  const balances = createBalanceCommands(context);
  const imports = createImportCommands({ ...context, keyOperationsPerHour });
  const tokens = createTokenCommands(context);
  const alerts = createAlertCommands(context);
  const policy = createAddressPolicy(config.webhookAllowPrivate);
  const webhooks = createWebhookCommands({ ...context, peppers, policy });
  const profiles = createProfileCommands(context);

  const admission = createAdmission({
    database,
    connection: clientConfig(connection),
    peppers,
    argon2,
    replaceVerifier: imports.replaceVerifier,
    onError,
  });
  acquired.defer(() => admission.close());
  const expiry = createExpiryLoop({ database, keys, intervalMs: EXPIRY_MS, onError });
  acquired.defer(() => expiry.stop());
  const housekeeping = createHousekeepingLoop({ database, intervalMs: HOUSEKEEPING_MS, onError });
  acquired.defer(() => housekeeping.stop());
  const tail = openTail({ db: database.kysely, pollMs: POLL_MS, pauseMs: LIVE_PAUSE_MS, onError });
  acquired.defer(() => tail.close());
  const keyUses = openKeyUses({ database, pollMs: POLL_MS, pauseMs: LIVE_PAUSE_MS, onError });
  acquired.defer(() => keyUses.close());
  const deliverer = createDeliverer({
    database,
    peppers,
    policy,
    resolve: resolveHost,
    commands: webhooks,
    subjectIdOf: subjectOfStream,
    pollMs: POLL_MS,
    onError,
    onAttempt: (outcome, durationMs) => metrics.webhookAttempted(outcome, durationMs),
  });
  acquired.defer(() => deliverer.stop());
  const projector = createProjector({
    database,
    projections: [USAGE_PROJECTION, webhookProjection(() => deliverer.wake())],
    pollMs: POLL_MS,
    pauseMs: STATISTICS_PAUSE_MS,
    onError,
    onPoisoned: (event, projection) => logger.error({ event, projection }, 'an event could not be applied and was set aside'),
  });
  acquired.defer(() => projector.stop());
  const alerting = createAlerting({ database, pollMs: POLL_MS, onError });
  acquired.defer(() => alerting.stop());
  // Alerts of errors and spending follow the statistics, and only a report can raise one.
  const recording: Admission = {
    ...admission,
    async recordUsage(...given) {
      const outcome = await admission.recordUsage(...given);
      projector.hurry();
      return outcome;
    },
  };
  const wake = listenForAppends({
    config: clientConfig(connection),
    onWake: () => {
      tail.wake();
      keyUses.wake();
      projector.wake();
      alerting.wake();
    },
    onError,
  });
  acquired.defer(() => wake.close());

  const graphql = createGraphqlServer({
    database,
    keys,
    organizations,
    balances,
    imports,
    tokens,
    alerts,
    webhooks,
    profiles,
    admission: recording,
    windows: (keyNumbers) => readWindows(database.kysely, keyNumbers),
    onStatisticsRead: () => projector.hurry(),
    tail,
    keyUses,
    authenticate,
    config: { allowedOrigins: config.allowedOrigins, maxBodyBytes: config.maxBodyBytes, graphiql: true },
    logger,
  });
  const metrics = createMetrics({
    pool: database.pool,
    admission: admission.gauges,
    positions: async () => ({ head: await headPosition(database.kysely), projectors: knownPositions(projector) }),
    lags: async () => ({ alerts: await readAlertLag(database.kysely), deliveries: await readDeliveryLag(database.kysely) }),
    subscriptions: () => graphql.subscriptions(),
  });
  const projectorLag = async (): Promise<number> => {
    const head = await headPosition(database.kysely);
    return Math.max(0, ...knownPositions(projector).map(({ position }) => Number(head - position)));
  };
  const http = createHttpServer({
    host: config.host,
    port: config.port,
    routes: httpRoutes({
      admission: recording,
      authenticate,
      database,
      metrics,
      maxUsageBodyBytes: config.maxUsageBodyBytes,
      trustedProxies: config.trustedProxies,
      projectorLag,
      maxProjectorLag: MAX_PROJECTOR_LAG,
    }),
    graphql,
    logger,
    metrics,
    trustedProxies: config.trustedProxies,
  });
  // Goes on behind it where there is much to read.
  await Promise.race([admission.preload(), sleep(PRELOAD_MS, undefined, { ref: false })]);
  const { port, url } = await http.listen();
  // Sockets and streams end by word of the product, not by the end of the grace.
  acquired.defer(async () => void (await Promise.all([graphql.close(), http.drain(config.shutdownGraceSeconds * SECOND_MS)])));
  // Last, when nothing can come between the token and its being shown: a start that failed over its port would have used it up.
  const firstOwner = await createFirstOwner({ ...context, organizations }, config.bootstrapToken);

  const release = acquired.move();
  return { url, port, postgres: postgres.kind, applied, firstOwner, failed: failed.promise, close: () => release.disposeAsync() };
}

function knownPositions(projector: ReturnType<typeof createProjector>) {
  return projector.progress().flatMap(({ name, position }) => (position === null ? [] : [{ name, position }]));
}
