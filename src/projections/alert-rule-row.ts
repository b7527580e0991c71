import { sql } from 'kysely';

import type { AlertRuleState } from '../domain/alert-rule.ts';
import { canonicalJson } from '../lib/canonical-json.ts';
import type { Effect } from '../ledger/append.ts';

type Existing = Exclude<AlertRuleState, { kind: 'absent' }>;

/** The row of `alert_rules` that a state folds to; also what `keyledger check` compares. */
export function alertRuleRow({ kind, rule }: Existing) {
  return {
    id: rule.ruleId,
    kind: rule.condition.kind,
    condition: canonicalJson(rule.condition),
    enabled: rule.enabled,
    category: rule.category,
    key_id: rule.keyId,
    deleted: kind === 'deleted',
  } as const;
}

/** The effect that writes a rule's row in the statement that appends. */
export function writeAlertRuleRow(state: Existing, organizationId: string, version: number): Effect {
  const row = alertRuleRow(state);
  const statement = sql`
    INSERT INTO alert_rules (id, organization_id, kind, condition, enabled, category, key_id, deleted, created_at, version)
    SELECT ${row.id}::uuid, ${organizationId}::uuid, ${row.kind}, ${row.condition}::json, ${row.enabled}::boolean, ${row.category}, ${row.key_id}::uuid,
           ${row.deleted}::boolean, appended.recorded_at, ${version}::integer FROM appended
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, condition = excluded.condition, enabled = excluded.enabled, category = excluded.category,
      key_id = excluded.key_id, deleted = excluded.deleted, version = excluded.version`;
  return { name: 'alert_rule_row', statement };
}
