import { sql } from 'kysely';

import type { Database } from '../postgres/pool.ts';

export type BalanceRepairOutcome = { readonly compared: number; readonly repaired: number; readonly interrupted: boolean };

/** Makes every balance what its events add up to, while usage is settled; each is right when its turn is over, so a run that was stopped has done no harm. */
export async function repairBalances(
  { kysely: db }: Database,
  { signal }: { readonly signal?: AbortSignal },
): Promise<BalanceRepairOutcome> {
  const { rows: organizations } = await sql<{ number: number }>`
    SELECT o.number FROM events e JOIN organizations o ON o.id = e.organization_id WHERE e.type = 'BalanceEnabled'
    UNION SELECT organization FROM balances ORDER BY 1`.execute(db);
  let repaired = 0;
  for (const [compared, { number }] of organizations.entries()) {
    if (signal?.aborted === true) return { compared, repaired, interrupted: true };
    const { rows } = await sql<{ mended: boolean }>`SELECT repair_balance(${number}::integer) AS mended`.execute(db);
    if (rows[0]?.mended === true) repaired++;
  }
  return { compared: organizations.length, repaired, interrupted: false };
}
