import { sql, type Kysely, type RawBuilder } from 'kysely';

import { loadRules } from '../alerts/load-rules.ts';
import { visible } from '../commands/visible-keys.ts';
import type { Actor } from '../domain/actor.ts';
import { defaultRuleId, type AlertRule } from '../domain/alert-rule.ts';
import type { AlertKind, AlertSeverity } from '../domain/alert-schemas.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';

export type AlertRow = {
  readonly id: string;
  readonly organization_id: string;
  readonly rule_id: string;
  readonly kind: AlertKind;
  readonly key_id: string | null;
  readonly severity: AlertSeverity;
  readonly message: string;
  readonly details: JsonValue;
  readonly position: bigint;
  readonly raised_at: Date;
  readonly acknowledged_at: Date | null;
  readonly acknowledged_by: string | null;
};
export type AlertRuleNode = AlertRule & { readonly organizationId: string; readonly isDefault: boolean };

export type AlertFilter = {
  readonly kinds?: readonly AlertKind[] | null | undefined;
  readonly severities?: readonly AlertSeverity[] | null | undefined;
  readonly acknowledged?: boolean | null | undefined;
  /** A key's uuid. */
  readonly keyId?: string | null | undefined;
};

const COLUMNS = sql`a.id, a.organization_id, a.rule_id, a.kind, a.key_id, a.severity, a.message, a.details, a.position, a.raised_at, a.acknowledged_at, a.acknowledged_by`;

/** Alerts of the caller's organization; of those about keys only where it may see the key. */
function readable(actor: Actor): RawBuilder<boolean> {
  return sql<boolean>`
    a.organization_id = ${actor.organizationId}::uuid
    AND (a.key_id IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.id = a.key_id AND ${visible(actor)}))`;
}

/** Alerts by their uuids, in that order; null for what the caller may not see or what is not there, which look alike. */
export async function loadAlerts(db: Kysely<Tables>, actor: Actor, ids: readonly string[]): Promise<readonly (AlertRow | null)[]> {
  if (ids.length === 0) return [];
  const { rows } =
    await sql<AlertRow>`SELECT ${COLUMNS} FROM alerts a WHERE a.id = ANY(${[...ids]}::uuid[]) AND ${readable(actor)}`.execute(db);
  const found = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id) => found.get(id) ?? null);
}

/** A page of alerts, newest first, before a position. */
export async function listAlerts(
  db: Kysely<Tables>,
  actor: Actor,
  { filter, before, limit }: { readonly filter: AlertFilter; readonly before: bigint | null; readonly limit: number },
): Promise<readonly AlertRow[]> {
  const conditions = [readable(actor)];
  if (before !== null) conditions.push(sql`a.position < ${before}::bigint`);
  if (filter.kinds != null) conditions.push(sql`a.kind = ANY(${[...filter.kinds]}::text[])`);
  if (filter.severities != null) conditions.push(sql`a.severity = ANY(${[...filter.severities]}::text[])`);
  if (filter.acknowledged != null) conditions.push(sql`(a.acknowledged_at IS NOT NULL) = ${filter.acknowledged}::boolean`);
  if (filter.keyId != null) conditions.push(sql`a.key_id = ${filter.keyId}::uuid`);
  const { rows } = await sql<AlertRow>`
    SELECT ${COLUMNS} FROM alerts a WHERE ${sql.join(conditions, sql` AND `)} ORDER BY a.position DESC LIMIT ${limit}`.execute(db);
  return rows;
}

/** The rules of the caller's organization that the caller may know: one that names a key only where it may see the key. */
export async function loadAlertRules(db: Kysely<Tables>, actor: Actor): Promise<readonly AlertRuleNode[]> {
  const { organizationId } = actor;
  const rules = (await loadRules(db, [organizationId])).get(organizationId) ?? [];
  const { rows } = await sql<{ id: string }>`
    SELECT k.id FROM api_keys k WHERE k.id = ANY(${rules.map(({ keyId }) => keyId)}::uuid[]) AND ${visible(actor)}`.execute(db);
  const seen = new Set(rows.map(({ id }) => id));
  return rules
    .filter(({ keyId }) => keyId === null || seen.has(keyId))
    .map((rule) => ({ ...rule, organizationId, isDefault: rule.ruleId === defaultRuleId(organizationId, rule.condition.kind) }));
}
