import { sql, type Kysely, type RawBuilder } from 'kysely';

import { capsInUse, type CapColumns } from '../admission/read-windows.ts';
import type { AlertFinding } from '../domain/alert.ts';
import {
  keyWindowFindings,
  organizationWindowFindings,
  type KeyWindowFacts,
  type OrganizationWindowFacts,
} from '../domain/window-alerts.ts';
import type { Tables } from '../postgres/tables.ts';
import { loadRules } from './load-rules.ts';
import type { Touched } from './read-touched.ts';

type KeyRow = CapColumns & { readonly id: string; readonly organization_id: string; readonly name: string; readonly category: string };

/** What the windows of the keys and organizations raise that a page of the log has touched. */
export async function evaluateWindows(db: Kysely<Tables>, touched: Touched): Promise<readonly AlertFinding[]> {
  const { usedKeys, usedOrganizations, changedKeys, ruledOrganizations } = touched;
  const keys = [
    ...(usedKeys.length > 0 ? await keysNearCaps(db, sql`k.number = ANY(${[...usedKeys]}::integer[])`) : []),
    // A cap that is lowered can be reached without a request, and so can a threshold.
    ...(changedKeys.length > 0 ? await keysNearCaps(db, sql`k.id = ANY(${[...changedKeys]}::uuid[])`) : []),
    ...(ruledOrganizations.length > 0 ? await keysNearCaps(db, sql`k.organization_id = ANY(${[...ruledOrganizations]}::uuid[])`) : []),
  ];
  const organizations = usedOrganizations.length > 0 ? await organizationsNearCaps(db, usedOrganizations) : [];
  const rules = await loadRules(
    db,
    [...keys, ...organizations].map(({ organizationId }) => organizationId),
  );
  return [
    ...keys.flatMap((key) => keyWindowFindings(key, rules.get(key.organizationId) ?? [])),
    ...organizations.flatMap((organization) => organizationWindowFindings(organization, rules.get(organization.organizationId) ?? [])),
  ];
}

/**
 * Keys with at least a hundredth of some cap used, which is the least that a rule can ask for. Their windows' rows are read as they stand: whoever touched
 * them brought them to that moment in the transaction that made the event, and what has left them since is for the next touch.
 */
async function keysNearCaps(db: Kysely<Tables>, among: RawBuilder<unknown>): Promise<readonly KeyWindowFacts[]> {
  const { rows } = await sql<KeyRow>`
    SELECT k.id, k.organization_id, k.name, k.category, k.quota_total, k.quota_daily, k.quota_weekly, k.quota_monthly, k.requests_per_minute, k.tokens_per_minute,
      w.total, w.day_closed + w.half_hour_count AS day, w.week_closed + w.quarter_count AS week, w.month_closed + w.quarter_count AS month,
      w.minute_closed + w.second_count AS minute, w.token_closed + w.token_count AS tokens
    FROM api_keys k JOIN key_windows w ON w.key = k.number
    WHERE ${among} AND k.state <> 'deleted' AND (
      100 * w.total >= k.quota_total OR 100 * (w.day_closed + w.half_hour_count) >= k.quota_daily OR 100 * (w.week_closed + w.quarter_count) >= k.quota_weekly
      OR 100 * (w.month_closed + w.quarter_count) >= k.quota_monthly OR 100 * (w.minute_closed + w.second_count) >= k.requests_per_minute
      OR 100 * (w.token_closed + w.token_count) >= k.tokens_per_minute)`.execute(db);
  return rows.map((row) => ({
    organizationId: row.organization_id,
    keyId: row.id,
    name: row.name,
    category: row.category,
    ...capsInUse(row),
  }));
}

async function organizationsNearCaps(db: Kysely<Tables>, numbers: readonly number[]): Promise<readonly OrganizationWindowFacts[]> {
  const { rows } = await sql<{ id: string; used: bigint; cap: bigint }>`
    SELECT o.id, w.minute_closed + w.second_count AS used, o.requests_per_minute AS cap
    FROM organizations o JOIN organization_windows w ON w.organization = o.number
    WHERE o.number = ANY(${[...numbers]}::integer[]) AND 100 * (w.minute_closed + w.second_count) >= o.requests_per_minute`.execute(db);
  return rows.map(({ id, used, cap }) => ({ organizationId: id, used, limit: cap }));
}
