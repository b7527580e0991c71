import { ConfigError, readConfig } from '../config.ts';
import { UnsafeDatabase } from '../postgres/boot-checks.ts';
import { explainConnectionFailure } from '../postgres/connection-failure.ts';
import { MigrationRefused } from '../postgres/migrate.ts';

/** What an operator is told of a command that failed: one sentence with its remedy, no stack. */
export function explainFailure(error: unknown, env: NodeJS.ProcessEnv): string {
  if (error instanceof ConfigError || error instanceof UnsafeDatabase || error instanceof MigrationRefused) return error.message;
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
  const { databaseUrl } = readConfig(env, { needsPeppers: false });
  const message = error instanceof Error ? error.message : String(error);
  if (databaseUrl !== undefined && code !== undefined && isAboutConnecting(code, message))
    return explainConnectionFailure(error, databaseUrl);
  if (code === '42P01') return 'The database has no ledger in it yet. Run: keyledger migrate';
  return message;
}

/** Node's own codes (ECONNREFUSED), and the server's refusals of a session: classes 08, 28, 3D, 53 and 57P, and a role or database that may not be used. */
function isAboutConnecting(code: string, message: string): boolean {
  if (code === '22023' || code === '42501') return /\b(?:role|database)\b/.test(message);
  return /^E[A-Z]{3,}/.test(code) || /^(?:08|28|3D|53|57P)/.test(code);
}
