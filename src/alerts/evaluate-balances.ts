import { sql, type Kysely } from 'kysely';

import type { AlertFinding } from '../domain/alert.ts';
import { balanceFindings } from '../domain/balance-alerts.ts';
import type { Tables } from '../postgres/tables.ts';
import type { LogPage } from './follow-log-pages.ts';
import { loadRules } from './load-rules.ts';

type Row = { readonly id: string; readonly micros: bigint; readonly funded_at: bigint };

/** What the balances raise of those organizations whose keys a page of the log has used, or whose rules it has changed. */
export async function evaluateBalances(db: Kysely<Tables>, { after, upTo }: LogPage): Promise<readonly AlertFinding[]> {
  const { rows } = await sql<Row>`
    WITH touched AS MATERIALIZED (
      SELECT DISTINCT u.organization FROM usage_events u WHERE u.position > ${after}::bigint AND u.position <= ${upTo}::bigint
    UNION
      SELECT o.number FROM events e JOIN organizations o ON o.id = e.organization_id
      WHERE e.position > ${after}::bigint AND e.position <= ${upTo}::bigint AND e.type = 'AlertRuleSet'
    )
    SELECT o.id, b.micros, coalesce(f.position, 0) AS funded_at
    FROM touched t JOIN balances b ON b.organization = t.organization JOIN organizations o ON o.number = t.organization
    LEFT JOIN LATERAL (
      SELECT e.position FROM events e WHERE e.stream = 'organization:' || o.id AND e.type = 'FundsAdded' ORDER BY e.version DESC LIMIT 1) AS f ON true`.execute(
    db,
  );
  const rules = await loadRules(
    db,
    rows.map(({ id }) => id),
  );
  return rows.flatMap(({ id, micros, funded_at: fundedAt }) =>
    balanceFindings({ organizationId: id, micros, fundedAt }, rules.get(id) ?? []),
  );
}
