import { sql, type Kysely } from 'kysely';

import type { AlertFinding } from '../domain/alert.ts';
import { balanceFindings } from '../domain/balance-alerts.ts';
import type { Tables } from '../postgres/tables.ts';
import { loadRules } from './load-rules.ts';
import type { Touched } from './read-touched.ts';

type Row = { readonly id: string; readonly micros: bigint; readonly funded_at: bigint };

/** What the balances raise of those organizations whose keys a page of the log has used, or whose rules it has changed. */
export async function evaluateBalances(
  db: Kysely<Tables>,
  { usedOrganizations, ruledOrganizations }: Touched,
): Promise<readonly AlertFinding[]> {
  if (usedOrganizations.length + ruledOrganizations.length === 0) return [];
  const { rows } = await sql<Row>`
    SELECT o.id, b.micros, coalesce(f.position, 0) AS funded_at
    FROM balances b JOIN organizations o ON o.number = b.organization
    LEFT JOIN LATERAL (
      SELECT e.position FROM events e WHERE e.stream = 'organization:' || o.id AND e.type IN ('FundsAdded', 'BalanceDisabled') ORDER BY e.version DESC LIMIT 1) AS f ON true
    WHERE b.organization = ANY(${[...usedOrganizations]}::integer[]) OR o.id = ANY(${[...ruledOrganizations]}::uuid[])`.execute(db);
  if (rows.length === 0) return [];
  const rules = await loadRules(
    db,
    rows.map(({ id }) => id),
  );
  return rows.flatMap(({ id, micros, funded_at: fundedAt }) =>
    balanceFindings({ organizationId: id, micros, fundedAt }, rules.get(id) ?? []),
  );
}
