import type { LedgerDatabase } from './ledger-database.ts';

/** Verifications that passed, as the log has them and as the windows counted them. */
export async function sumOfAccepted({ owner }: LedgerDatabase): Promise<{ readonly logged: number; readonly charged: number }> {
  const { rows } = await owner.query<{ logged: number; charged: number }>(
    'SELECT (SELECT count(*)::float8 FROM usage_events WHERE kind = 1 AND code = 0) AS logged, (SELECT sum(total)::float8 FROM key_windows) AS charged',
  );
  return rows[0] ?? { logged: 0, charged: 0 };
}
