import { isDatabaseUnavailable } from '../postgres/database-unavailable.ts';

/** What an operator is told of a command that failed: one sentence with its remedy, no stack. Most errors come with theirs. */
export function explainFailure(error: unknown): string {
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
  const message = error instanceof Error ? error.message : String(error);
  if (code === '42P01') return 'The database has no ledger in it yet. Run: keyledger migrate';
  if (isDatabaseUnavailable(error)) return `The database went away meanwhile (${message || code}). Run the command again when it is back.`;
  return message;
}
