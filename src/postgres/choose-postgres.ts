import type { Secret } from '../lib/secret.ts';
import { startEmbeddedPostgres } from './embedded.ts';

/** A Postgres to work on, ours or the operator's. Nothing above the pool needs to know which. */
export type ChosenPostgres = {
  readonly kind: 'embedded' | 'external';
  /** Owns the tables; for migrations. */
  readonly ownerUrl: Secret;
  readonly serverUrl: Secret;
  stop(): Promise<void>;
};

export type PostgresChoice = {
  readonly databaseUrl: Secret | undefined;
  readonly migrationDatabaseUrl: Secret | undefined;
  readonly dataDir: string;
};

/** The database of DATABASE_URL, or an embedded one below `dataDir`, started now. Throws as {@link startEmbeddedPostgres} does. */
export async function choosePostgres(
  choice: PostgresChoice,
  options: { readonly onLog: (line: string) => void; readonly onUnexpectedExit: (reason: string) => void; readonly signal: AbortSignal },
): Promise<ChosenPostgres> {
  if (choice.databaseUrl === undefined)
    return { kind: 'embedded', ...(await startEmbeddedPostgres({ dataDir: choice.dataDir, ...options })) };
  return {
    kind: 'external',
    serverUrl: choice.databaseUrl,
    ownerUrl: choice.migrationDatabaseUrl ?? choice.databaseUrl,
    stop: () => Promise.resolve(),
  };
}
