import { sql } from 'kysely';

import type { Database } from '../postgres/pool.ts';
import type { CheckStep } from './finding.ts';

type Row = { readonly expected: bigint | null; readonly found: bigint | null };

/** Every balance is what was added less what usage has cost since it was enabled; log and balance of one organization are read at one moment. */
export async function checkBalances({ kysely: db }: Database, { report, progress, signal }: CheckStep): Promise<void> {
  const { rows: organizations } = await sql<{ number: number }>`
    SELECT o.number FROM events e JOIN organizations o ON o.id = e.organization_id WHERE e.type = 'BalanceEnabled'
    UNION SELECT organization FROM balances ORDER BY 1`.execute(db);
  for (const [index, { number }] of organizations.entries()) {
    if (signal?.aborted === true) return;
    const { rows } = await sql<Row>`SELECT expected, found FROM balance_difference(${number}::integer)`.execute(db);
    for (const { expected, found } of rows) {
      report({
        kind: 'balance-differs',
        subject: `balance of organization number ${number}`,
        expected: micros(expected),
        found: micros(found),
      });
    }
    progress(index + 1, organizations.length);
  }
}

function micros(amount: bigint | null): string {
  return amount === null ? 'none' : `${amount} micros`;
}
