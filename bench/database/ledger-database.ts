import { randomBytes } from 'node:crypto';

import pg from 'pg';

import { createOrganizationCommands } from '../../src/commands/organization-commands.ts';
import { createTokenCommands } from '../../src/commands/token-commands.ts';
import { isRefusal } from '../../src/domain/refusals.ts';
import { newAccessToken } from '../../src/identity/access-token.ts';
import { createPeppers } from '../../src/identity/pepper.ts';
import { sealingKeysOf } from '../../src/identity/sealing-keys.ts';
import type { Outcome } from '../../src/ledger/run-command.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { createTurns } from '../../src/lib/turns.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import type { BenchPostgres } from './bench-postgres.ts';
import { seedKeys, type SeededKey } from './seed-keys.ts';

export type LedgerDatabase = {
  readonly name: string;
  /** The environment of a server on it. */
  readonly env: Readonly<Record<string, string>>;
  readonly organizationNumber: number;
  /** Access token of a service that may verify and report. */
  readonly gatewayToken: string;
  /** Access token of a service that may read all of it. */
  readonly readerToken: string;
  readonly organizationId: string;
  /** As many of its keys as were asked for, the first ones made. */
  readonly keys: readonly SeededKey[];
  /** The owner's connection, for what the server may not do. */
  readonly owner: pg.Client;
  close(): Promise<void>;
};

export type LedgerDatabaseOptions = {
  readonly keys: number;
  /** So many days lie between the making of the organization and its keys and now. */
  readonly ageDays?: number;
  readonly categoryOf?: (index: number) => string;
  readonly onProgress: (line: string) => void;
};

/** A migrated database with an organization, a gateway's token and keys, each with a daily quota and a limit a minute, too high to be reached. */
export async function createLedgerDatabase(postgres: BenchPostgres, name: string, options: LedgerDatabaseOptions): Promise<LedgerDatabase> {
  const { ownerUrl, serverUrl } = await postgres.createDatabase(name);
  await migrate({ ownerUrl });
  const owner = new pg.Client(
    clientConfig({ connectionString: ownerUrl, applicationName: 'keyledger bench', role: null, statementTimeoutMs: 0 }),
  );
  owner.on('error', () => undefined);
  await owner.connect();
  const pepper = randomBytes(32);
  const peppers = createPeppers([{ id: 'bench', key: pepper }]);
  const database = openDatabase({
    connectionString: serverUrl,
    applicationName: 'keyledger bench',
    maxConnections: 2,
    statementTimeoutMs: 0,
    onError: () => undefined,
  });
  try {
    if (options.ageDays !== undefined) await setClock(owner, `clock_timestamp() - interval '${options.ageDays} days'`);
    const context = { db: database.kysely, sealingKeys: sealingKeysOf(peppers), turns: createTurns() };
    const { organizationId } = done(await createOrganizationCommands(context).create(null, { name: 'Bench' }));
    const token = newAccessToken(randomBytes(32));
    const permissions = ['keys:verify', 'usage:write'];
    done(await createTokenCommands(context).create(null, { organizationId, name: 'Gateway', permissions }, token));
    const reader = newAccessToken(randomBytes(32));
    const reading = ['organization:read', 'keys:read', 'keys:write', 'usage:read', 'alerts:read', 'log:read'];
    done(await createTokenCommands(context).create(null, { organizationId, name: 'Console', permissions: reading }, reader));
    const { categoryOf, onProgress } = options;
    const keys = await seedKeys(database, { organizationId, peppers, count: options.keys, categoryOf, onProgress });
    await setClock(owner, 'clock_timestamp()');
    // What autovacuum would have done while the keys were made one by one. It leaves the empty usage tables alone, and so does this.
    await owner.query('VACUUM ANALYZE events, api_keys, key_verifiers, key_windows, key_window_buckets');
    const numbers = await owner.query<{ number: number }>('SELECT number FROM organizations WHERE id = $1', [organizationId]);
    return {
      name,
      env: {
        DATABASE_URL: serverUrl.reveal(),
        MIGRATION_DATABASE_URL: ownerUrl.reveal(),
        KEY_PEPPERS: `bench:${pepper.toString('base64')}`,
        BOOTSTRAP_TOKEN: randomBytes(32).toString('hex'),
        KEY_OPERATIONS_PER_HOUR: '0',
        LOG_LEVEL: 'error',
        SHUTDOWN_GRACE_SECONDS: '2',
      },
      organizationNumber: numbers.rows[0]?.number ?? 0,
      gatewayToken: token.reveal(),
      readerToken: reader.reveal(),
      organizationId,
      keys,
      owner,
      close: () => owner.end(),
    };
  } catch (error) {
    await owner.end();
    throw error;
  } finally {
    await database.close();
  }
}

/** The one clock that decides anything (migration 0001), moved so that a seeded history reads as if it had happened. */
async function setClock(owner: pg.Client, expression: string): Promise<void> {
  await owner.query(
    `CREATE OR REPLACE FUNCTION ledger_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT ${expression.replaceAll("'", "''")}'`,
  );
}

function done<Result>(outcome: Outcome<Result>): Result {
  if (isRefusal(outcome)) throw new Error(`${outcome.code}: ${outcome.message}`);
  return outcome.result;
}
