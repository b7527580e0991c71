import { sql, type Kysely, type RawBuilder } from 'kysely';

import { capsInUse, type CapColumns } from '../admission/read-windows.ts';
import type { KeyWindowFacts, OrganizationWindowFacts } from '../domain/window-alerts.ts';
import type { Tables } from '../postgres/tables.ts';

type KeyRow = CapColumns & {
  readonly number: number;
  readonly id: string;
  readonly organization_id: string;
  readonly name: string;
  readonly category: string;
};
type OrganizationRow = {
  readonly number: number;
  readonly id: string;
  readonly cap: bigint | null;
  readonly used: bigint | null;
  readonly micros: bigint | null;
  readonly funded_at: bigint | null;
};

/** A key that was used, as its windows stand. */
export type UsedKey = KeyWindowFacts & { readonly number: number };
/** What is counted of an organization as a whole. */
export type OrganizationFacts = {
  readonly number: number;
  readonly organizationId: string;
  readonly minute: OrganizationWindowFacts | null;
  /** Whether its plan has a limit of which nothing is counted yet; the next request begins to. */
  readonly uncounted: boolean;
  readonly balance: { readonly organizationId: string; readonly micros: bigint; readonly fundedAt: bigint } | null;
};

/** Keys by number, but for those that are deleted. */
export async function usedKeys(db: Kysely<Tables>, numbers: readonly number[]): Promise<readonly UsedKey[]> {
  return numbers.length === 0 ? [] : readKeys(db, sql`k.number = ANY(${[...numbers]}::integer[])`);
}

/**
 * Keys that were changed, and those of organizations whose rules were: a cap that is lowered can be reached without a request, and so can a threshold. Only
 * those with at least a hundredth of some cap used, which is the least that a rule can ask for.
 */
export async function changedKeys(
  db: Kysely<Tables>,
  keyIds: readonly string[],
  organizationIds: readonly string[],
): Promise<readonly KeyWindowFacts[]> {
  const near = sql`(
    100 * w.total >= k.quota_total OR 100 * (w.day_closed + w.half_hour_count) >= k.quota_daily OR 100 * (w.week_closed + w.quarter_count) >= k.quota_weekly
    OR 100 * (w.month_closed + w.quarter_count) >= k.quota_monthly OR 100 * (w.minute_closed + w.second_count) >= k.requests_per_minute
    OR 100 * (w.token_closed + w.token_count) >= k.tokens_per_minute)`;
  return [
    ...(keyIds.length > 0 ? await readKeys(db, sql`k.id = ANY(${[...keyIds]}::uuid[]) AND ${near}`) : []),
    ...(organizationIds.length > 0 ? await readKeys(db, sql`k.organization_id = ANY(${[...organizationIds]}::uuid[]) AND ${near}`) : []),
  ];
}

/**
 * Windows' rows are read as they stand: whoever touched them brought them to that moment in the transaction that made the event, and what has left them since
 * is for the next touch.
 */
async function readKeys(db: Kysely<Tables>, among: RawBuilder<unknown>): Promise<readonly UsedKey[]> {
  const { rows } = await sql<KeyRow>`
    SELECT k.number, k.id, k.organization_id, k.name, k.category,
      k.quota_total, k.quota_daily, k.quota_weekly, k.quota_monthly, k.requests_per_minute, k.tokens_per_minute,
      w.total, w.day_closed + w.half_hour_count AS day, w.week_closed + w.quarter_count AS week, w.month_closed + w.quarter_count AS month,
      w.minute_closed + w.second_count AS minute, w.token_closed + w.token_count AS tokens
    FROM api_keys k JOIN key_windows w ON w.key = k.number
    WHERE ${among} AND k.state <> 'deleted'`.execute(db);
  return rows.map((row) => ({
    number: row.number,
    organizationId: row.organization_id,
    keyId: row.id,
    name: row.name,
    category: row.category,
    ...capsInUse(row),
  }));
}

/** The minutes of organizations that were used, and the balances of those and of the ones whose rules were changed. */
export async function readOrganizations(
  db: Kysely<Tables>,
  numbers: readonly number[],
  ruledIds: readonly string[],
): Promise<readonly OrganizationFacts[]> {
  if (numbers.length + ruledIds.length === 0) return [];
  const { rows } = await sql<OrganizationRow>`
    SELECT o.number, o.id, o.requests_per_minute AS cap, w.minute_closed + w.second_count AS used, b.micros,
      CASE WHEN b.micros IS NOT NULL THEN (
        SELECT e.position FROM events e WHERE e.stream = 'organization:' || o.id AND e.type IN ('FundsAdded', 'BalanceDisabled') ORDER BY e.version DESC LIMIT 1
      ) END AS funded_at
    FROM organizations o LEFT JOIN organization_windows w ON w.organization = o.number LEFT JOIN balances b ON b.organization = o.number
    WHERE o.number = ANY(${[...numbers]}::integer[]) OR o.id = ANY(${[...ruledIds]}::uuid[])`.execute(db);
  const used = new Set(numbers);
  return rows.map(({ number, id: organizationId, cap, used: count, micros, funded_at: fundedAt }) => ({
    number,
    organizationId,
    minute: cap === null || count === null || !used.has(number) ? null : { organizationId, used: count, limit: cap },
    uncounted: cap !== null && count === null,
    balance: micros === null ? null : { organizationId, micros, fundedAt: fundedAt ?? 0n },
  }));
}
