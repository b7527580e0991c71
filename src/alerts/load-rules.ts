import { sql, type Kysely } from 'kysely';

import { defaultRules, type AlertRule } from '../domain/alert-rule.ts';
import { alertConditionSchema } from '../domain/alert-schemas.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';

export type RuleRow = {
  readonly id: string;
  readonly organization_id: string;
  readonly condition: JsonValue;
  readonly enabled: boolean;
  readonly category: string | null;
  readonly key_id: string | null;
};

/** The rules that hold in each of some organizations, disabled ones included: those that it has set, and of the defaults those that it has not. */
export async function loadRules(
  db: Kysely<Tables>,
  organizationIds: readonly string[],
): Promise<ReadonlyMap<string, readonly AlertRule[]>> {
  if (organizationIds.length === 0) return new Map();
  const rows: readonly RuleRow[] = await db
    .selectFrom('alert_rules')
    .select(['id', 'organization_id', 'condition', 'enabled', 'category', 'key_id'])
    .where('organization_id', '=', sql<string>`ANY(${[...new Set(organizationIds)]}::uuid[])`)
    .where('deleted', '=', false)
    .orderBy('id')
    .execute();
  const settings = await db
    .selectFrom('organizations')
    .select(['id', 'alert_quota_thresholds', 'alert_expiring_within_days', 'alert_unused_for_days'])
    .where('id', '=', sql<string>`ANY(${[...new Set(organizationIds)]}::uuid[])`)
    .execute();
  const set = Map.groupBy(rows, (row) => row.organization_id);
  return new Map(
    settings.map(({ id: organizationId, ...columns }) => {
      const own = (set.get(organizationId) ?? []).map(ruleOf);
      const chosen = {
        quotaThresholds: columns.alert_quota_thresholds,
        expiringWithinDays: columns.alert_expiring_within_days,
        unusedForDays: columns.alert_unused_for_days,
      };
      const defaults = defaultRules(organizationId, chosen).filter((rule) => !own.some(({ ruleId }) => ruleId === rule.ruleId));
      return [organizationId, [...defaults, ...own]];
    }),
  );
}

/** A rule as its row has it. */
export function ruleOf(row: RuleRow): AlertRule {
  return {
    ruleId: row.id,
    condition: alertConditionSchema.parse(row.condition),
    enabled: row.enabled,
    category: row.category,
    keyId: row.key_id,
  };
}
