import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';

import type { Tables } from '../../src/postgres/tables.ts';

/** How balances are often kept, and must not be: what is left is read, and less of it written when the usage has been recorded. */
export async function chargeReadThenWrite(
  db: Kysely<Tables>,
  report: { readonly organization: number; readonly key: number; readonly costMicros: number },
): Promise<void> {
  const { micros } = await db
    .selectFrom('balances')
    .select('micros')
    .where('organization', '=', report.organization)
    .executeTakeFirstOrThrow();
  await sleep(2);
  await sql`
    WITH charged AS (UPDATE balances SET micros = ${micros - BigInt(report.costMicros)} WHERE organization = ${report.organization})
    INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, cost_micros)
    SELECT first_position, recorded_at, ${report.organization}, ${report.key}, 1, 2, 0, ${report.costMicros} FROM reserve_positions()`.execute(
    db,
  );
}
