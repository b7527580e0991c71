import { Kysely, PostgresDialect, type Transaction } from 'kysely';

import { clientConfig, type ConnectionSettings } from './client-config.ts';
import { GuardedClient } from './guarded-client.ts';
import { GuardedPool } from './guarded-pool.ts';
import type { Tables } from './tables.ts';

export type Database = {
  readonly pool: GuardedPool;
  readonly kysely: Kysely<Tables>;
  /** Ends every connection; waits for borrowed ones to come back. */
  close(): Promise<void>;
};

export type DatabaseOptions = ConnectionSettings & {
  readonly maxConnections: number;
  /** An idle connection broke. The pool replaces it; this is to be logged. */
  readonly onError: (error: Error) => void;
};

/** Opens no connection yet; the first query does. */
export function openDatabase(options: DatabaseOptions): Database {
  const config = clientConfig(options);
  const pool = new GuardedPool({ ...config, max: options.maxConnections, idleTimeoutMillis: 30_000 }, options.onError);
  const controlClient = class extends GuardedClient {
    constructor() {
      super(config);
    }
  };
  const kysely = new Kysely<Tables>({ dialect: new PostgresDialect({ pool, controlClient }) });
  let closing: Promise<void> | undefined;
  return { pool, kysely, close: () => (closing ??= pool.endAll()) };
}

/**
 * Runs `work` in one transaction and resolves only after a COMMIT that was one and left the connection idle ({@link GuardedClient} checks both).
 * When it rejects with an error of the server the transaction is rolled back. When the connection broke during COMMIT nobody knows:
 * repeat with the same idempotency key.
 */
export function inTransaction<T>(database: Database, work: (tx: Transaction<Tables>) => Promise<T>): Promise<T> {
  return database.kysely.transaction().execute(work);
}
