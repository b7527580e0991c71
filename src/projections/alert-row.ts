import { sql } from 'kysely';

import type { RaisedAlert } from '../domain/alert.ts';
import { canonicalJson } from '../lib/canonical-json.ts';
import type { Effect } from '../ledger/append.ts';

/**
 * The effect that writes the rows of alerts in the statement that appends their AlertRaised, which are its only events and in this order. It fails as a
 * whole, with a unique violation on `alerts_once`, where one of them was raised meanwhile.
 */
export function writeAlertRows(alerts: readonly (RaisedAlert & { readonly organizationId: string })[]): Effect {
  const statement = sql`
    INSERT INTO alerts (id, organization_id, rule_id, kind, key_id, severity, message, details, series, ordinal, position, raised_at, version)
    SELECT a.id, a.organization_id, a.rule_id, a.kind, a.key_id, a.severity, a.message, a.details::json, a.series, a.ordinal,
           appended.first_position + a.nth - 1, appended.recorded_at, 1
    FROM appended, unnest(
      ${alerts.map((alert) => alert.alertId)}::uuid[], ${alerts.map((alert) => alert.organizationId)}::uuid[], ${alerts.map((alert) => alert.ruleId)}::uuid[],
      ${alerts.map((alert) => alert.kind)}::text[], ${alerts.map((alert) => alert.keyId)}::uuid[], ${alerts.map((alert) => alert.severity)}::text[],
      ${alerts.map((alert) => alert.message)}::text[], ${alerts.map((alert) => canonicalJson(alert.details))}::text[],
      ${alerts.map((alert) => alert.series)}::text[], ${alerts.map((alert) => alert.ordinal)}::integer[]
    ) WITH ORDINALITY AS a (id, organization_id, rule_id, kind, key_id, severity, message, details, series, ordinal, nth)`;
  return { name: 'alert_rows', statement };
}

/** The effect that marks an alert as acknowledged. */
export function acknowledgeAlertRow(alertId: string, organizationId: string, actorId: string, version: number): Effect {
  const statement = sql`
    UPDATE alerts SET acknowledged_at = appended.recorded_at, acknowledged_by = ${actorId}, version = ${version}::integer FROM appended
    WHERE id = ${alertId}::uuid AND organization_id = ${organizationId}::uuid`;
  return { name: 'alert_row', statement };
}
