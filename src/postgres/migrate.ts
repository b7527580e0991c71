import pg from 'pg';

import type { Secret } from '../lib/secret.ts';
import { assertDurableSettings } from './boot-checks.ts';
import { clientConfig, SCHEMA, SERVER_ROLE } from './client-config.ts';
import {
  type AppliedMigration,
  compareMigrations,
  type MigrationFile,
  type MigrationState,
  MIGRATIONS_DIRECTORY,
  readMigrationFiles,
} from './migration-files.ts';
import type { Database } from './pool.ts';
import { ensureServerRole } from './server-role.ts';

/** Two int4, so that it can't meet a lock of the ledger's, which are one int8. The number has no meaning. */
const MIGRATION_LOCK = [0x6b6c, 1] as const;

export type MigrateOptions = {
  /** A login that owns the schema, or may create it. */
  readonly ownerUrl: Secret;
  readonly directory?: string;
  readonly onProgress?: (line: string) => void;
};

/** The database can't be brought to the state of this code; the message says what to do. */
export class MigrationRefused extends Error {
  override readonly name = 'MigrationRefused';
}

/**
 * Applies what is missing, in order, each file in a transaction of its own. Servers that start at once wait for each other. Forward only.
 * Throws {@link MigrationRefused} when the database is newer than the code or an applied file was changed, and `UnsafeDatabase` where it would not keep a log.
 */
export async function migrate(options: MigrateOptions): Promise<{ readonly applied: readonly string[] }> {
  const files = await readMigrationFiles(options.directory ?? MIGRATIONS_DIRECTORY);
  const client = new pg.Client(
    clientConfig({ connectionString: options.ownerUrl, applicationName: 'keyledger migrate', role: null, statementTimeoutMs: 0 }),
  );
  client.on('error', () => undefined);
  try {
    await client.connect();
    await assertDurableSettings(client);
    // Held by the session, not by a transaction: it spans them all, and goes with the connection.
    await client.query("SET lock_timeout = '10min'");
    await client.query('SELECT pg_advisory_lock($1, $2)', [...MIGRATION_LOCK]);
    const applied = await readApplied(client);
    const state = compareMigrations(files, applied);
    const refusal = refusalOf(state);
    if (refusal !== undefined) throw new MigrationRefused(refusal);
    await ensureServerRole(client);
    await ensureSchema(client);
    const pending = state.kind === 'behind' ? state.pending : [];
    for (const file of pending) {
      await apply(client, file);
      options.onProgress?.(`applied ${file.name}`);
    }
    return { applied: pending.map(({ name }) => name) };
  } finally {
    await client.end();
  }
}

/** How the database stands to this code's migrations, asked as the server, which may not change it. */
export async function migrationState(database: Database, directory: string = MIGRATIONS_DIRECTORY): Promise<MigrationState> {
  const files = await readMigrationFiles(directory);
  return compareMigrations(files, await readApplied(database.pool));
}

/** Why a database in this state can't be used or migrated; undefined when it can. */
export function refusalOf(state: MigrationState): string | undefined {
  switch (state.kind) {
    case 'current':
    case 'behind':
      return undefined;
    case 'newer':
      return `The database is newer than this keyledger: it has ${state.unknown.join(', ')}, which this version does not know. Start the version that made it, or a later one.`;
    case 'changed':
      return `${state.names.join(', ')} was changed after it had been applied. Put the file back as it was released; a change of the schema is a new migration.`;
    case 'outOfOrder':
      return `${state.names.join(', ')} has a lower number than a migration that was already applied. Give it the next free number.`;
    default:
      return state satisfies never;
  }
}

async function readApplied(client: Pick<pg.ClientBase, 'query'> | Database['pool']): Promise<readonly AppliedMigration[]> {
  const exists = await client.query<{ found: boolean }>('SELECT to_regclass($1) IS NOT NULL AS found', [`${SCHEMA}.migrations`]);
  if (exists.rows[0]?.found !== true) return [];
  return (await client.query<AppliedMigration>(`SELECT name, sha256 FROM ${SCHEMA}.migrations ORDER BY name`)).rows;
}

async function ensureSchema(client: pg.Client): Promise<void> {
  const { rowCount } = await client.query('SELECT FROM pg_namespace WHERE nspname = $1', [SCHEMA]);
  // Asked first: IF NOT EXISTS wants the right to create schemas even where there is nothing to create.
  if (rowCount === 0) await client.query(`CREATE SCHEMA ${SCHEMA}`);
  await client.query(`
    CREATE TABLE IF NOT EXISTS ${SCHEMA}.migrations (
      name       text PRIMARY KEY,
      sha256     text NOT NULL,
      applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )`);
  await client.query(`GRANT USAGE ON SCHEMA ${SCHEMA} TO ${SERVER_ROLE}`);
  await client.query(`GRANT SELECT ON ${SCHEMA}.migrations TO ${SERVER_ROLE}`);
}

async function apply(client: pg.Client, file: MigrationFile): Promise<void> {
  await client.query('BEGIN');
  try {
    await client.query(file.sql);
    if (client.getTransactionStatus() !== 'T')
      throw new Error('it ends the transaction it runs in; a migration has no COMMIT or ROLLBACK of its own');
    await client.query(`INSERT INTO ${SCHEMA}.migrations (name, sha256) VALUES ($1, $2)`, [file.name, file.sha256]);
    await client.query('COMMIT');
  } catch (cause) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw new Error(
      `Migration ${file.name}${lineOf(cause, file.sql)} failed, nothing of it was kept: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
}

function lineOf(error: unknown, sql: string): string {
  if (!(error instanceof Error) || !('position' in error)) return '';
  const position = Number(error.position);
  return Number.isInteger(position) ? ` (line ${sql.slice(0, position).split('\n').length})` : '';
}
