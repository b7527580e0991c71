import { readConfig, type Config } from '../config.ts';
import type { CommandContext } from '../ledger/run-command.ts';
import { connectEmbedded, hasEmbeddedCluster } from '../postgres/connect-embedded.ts';
import { explainingFailure } from '../postgres/connection-failure.ts';
import { migrate, migrationState, refusalOf } from '../postgres/migrate.ts';
import { openDatabase, type Database } from '../postgres/pool.ts';
import type { Secret } from '../lib/secret.ts';
import { createTurns } from '../lib/turns.ts';
import type { CliIo } from './command.ts';

/** A ledger that is migrated and can be worked on. */
export type OpenLedger = {
  readonly database: Database;
  readonly config: Config;
  /** For commands that remember no secret under an idempotency key, which are all of the command line's. */
  readonly context: CommandContext;
  /** Releases what was acquired; an embedded Postgres that was started here is stopped. */
  close(): Promise<void>;
};

/**
 * Opens the ledger that the environment names: DATABASE_URL, or the embedded Postgres of DATA_DIR, that of a running server or one started now.
 * `create`: an empty DATA_DIR is made a ledger. Throws an Error whose message says what to do.
 */
export async function openLedger(io: CliIo, { create }: { readonly create: boolean }): Promise<OpenLedger> {
  await using acquired = new AsyncDisposableStack();
  const { config, ownerUrl, serverUrl, owned, stop } = await connect(io, create);
  acquired.defer(stop);
  if (owned) await migrate({ ownerUrl, onProgress: io.err });
  const database = openDatabase({
    connectionString: serverUrl,
    applicationName: 'keyledger cli',
    maxConnections: 4,
    // A check or a rebuild may well take minutes; Ctrl-C ends it.
    statementTimeoutMs: 0,
    onError: (error) => io.err(error.message),
  });
  acquired.defer(() => database.close());
  const state = await explainingFailure(serverUrl, () => migrationState(database));
  const refusal = refusalOf(state);
  if (refusal !== undefined) throw new Error(refusal);
  if (state.kind === 'behind') {
    throw new Error(`The database lacks ${state.pending.map(({ name }) => name).join(', ')} of this version. Run: keyledger migrate`);
  }
  const releases = acquired.move();
  return {
    database,
    config,
    context: { db: database.kysely, sealingKeys: NO_SEALING_KEYS, turns: createTurns() },
    close: () => releases.disposeAsync(),
  };
}

type Connected = {
  readonly config: Config;
  readonly ownerUrl: Secret;
  readonly serverUrl: Secret;
  readonly owned: boolean;
  readonly stop: () => Promise<void>;
};

/** The Postgres that the environment names; `owned`: it is ours and nobody else uses it. */
export async function connect(io: CliIo, create: boolean): Promise<Connected> {
  const config = readConfig(io.env, { needsPeppers: false });
  if (config.databaseUrl !== undefined) {
    return {
      config,
      ownerUrl: config.migrationDatabaseUrl ?? config.databaseUrl,
      serverUrl: config.databaseUrl,
      owned: false,
      stop: () => Promise.resolve(),
    };
  }
  if (!create && !(await hasEmbeddedCluster(config.dataDir))) {
    throw new Error(
      `There is no ledger in ${config.dataDir} yet. Start one with: keyledger serve; or set DATA_DIR or DATABASE_URL to where it is.`,
    );
  }
  const postgres = await connectEmbedded({ dataDir: config.dataDir, onLog: () => undefined, signal: io.signal });
  return { config, ownerUrl: postgres.ownerUrl, serverUrl: postgres.serverUrl, owned: postgres.started, stop: () => postgres.stop() };
}

const NO_SEALING_KEYS: CommandContext['sealingKeys'] = {
  get current(): never {
    throw new Error('The command line gives no idempotency keys with what makes secrets, so it has nothing to seal.');
  },
  get: () => undefined,
};
