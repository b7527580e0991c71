import { sql, type RawBuilder } from 'kysely';

import type { OrganizationEvent } from '../domain/event.ts';
import type { OrganizationState } from '../domain/organization.ts';
import type { Effect } from '../ledger/append.ts';
import { writeBalance } from './balance-row.ts';

type Existing = Exclude<OrganizationState, { kind: 'absent' }>;

/** The row of `organizations` that a state folds to, without what only the envelope of its events knows. Also what `keyledger check` compares. */
export function organizationRow({ organizationId, number, name, plan, team, caps, settings }: Existing) {
  const { alertDefaults, publicKeyPermissions } = settings;
  return {
    id: organizationId,
    number,
    name,
    plan,
    team,
    requests_per_second: caps.requestsPerSecond,
    requests_per_minute: caps.requestsPerMinute,
    deletion_policy: settings.deletionPolicy,
    quota_status: settings.quotaStatus,
    public_key_permissions: publicKeyPermissions === null ? null : [...publicKeyPermissions],
    key_operations_per_hour: settings.keyOperationsPerHour,
    alert_quota_thresholds: [...alertDefaults.quotaThresholds],
    alert_expiring_within_days: alertDefaults.expiringWithinDays,
    alert_unused_for_days: alertDefaults.unusedForDays,
  };
}

/** The effects that write an organization's row and what else its events touched, in the statement that appends. */
export function writeOrganizationRows(state: Existing, events: readonly OrganizationEvent[], version: number): readonly Effect[] {
  const row = organizationRow(state);
  const organization = sql`
    INSERT INTO organizations (id, number, name, plan, team, requests_per_second, requests_per_minute, deletion_policy, quota_status, public_key_permissions,
      key_operations_per_hour, alert_quota_thresholds, alert_expiring_within_days, alert_unused_for_days, created_at, version)
    SELECT ${row.id}::uuid, ${row.number}::integer, ${row.name}, ${row.plan}, ${row.team}::boolean, ${row.requests_per_second}::bigint, ${row.requests_per_minute}::bigint,
      ${row.deletion_policy}, ${row.quota_status}::smallint, ${row.public_key_permissions}::text[], ${row.key_operations_per_hour}::integer,
      ${row.alert_quota_thresholds}::integer[], ${row.alert_expiring_within_days}::integer, ${row.alert_unused_for_days}::integer,
      appended.recorded_at, ${version}::integer
    FROM appended
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, team = excluded.team, plan = excluded.plan, requests_per_second = excluded.requests_per_second,
      requests_per_minute = excluded.requests_per_minute, deletion_policy = excluded.deletion_policy, quota_status = excluded.quota_status,
      public_key_permissions = excluded.public_key_permissions, key_operations_per_hour = excluded.key_operations_per_hour,
      alert_quota_thresholds = excluded.alert_quota_thresholds, alert_expiring_within_days = excluded.alert_expiring_within_days,
      alert_unused_for_days = excluded.alert_unused_for_days, version = excluded.version`;
  const members = events.flatMap((event): readonly RawBuilder<unknown>[] => {
    switch (event.type) {
      case 'MemberAdded':
        return [
          sql`
            INSERT INTO members (organization_id, id, role, person_id, joined_at)
            SELECT ${state.organizationId}::uuid, ${event.data.memberId}::uuid, ${event.data.role}, ${event.data.personId ?? null}::uuid, appended.recorded_at FROM appended
            ON CONFLICT (organization_id, id) DO UPDATE SET role = excluded.role, person_id = excluded.person_id, joined_at = excluded.joined_at, removed_at = NULL`,
        ];
      case 'MemberRoleChanged':
        return [
          sql`
            UPDATE members SET role = ${event.data.role} FROM appended
            WHERE organization_id = ${state.organizationId}::uuid AND id = ${event.data.memberId}::uuid`,
        ];
      case 'MemberRemoved':
        return [
          sql`
            UPDATE members SET removed_at = appended.recorded_at FROM appended
            WHERE organization_id = ${state.organizationId}::uuid AND id = ${event.data.memberId}::uuid`,
        ];
      case 'PlanChanged':
        // Windows that were not kept while there was no cap must not be believed: the next verification makes them anew from the log. Where there was a cap
        // they are right, and verifications hold them while they wait for the log's lock: this statement has it, and must not wait for them.
        return [
          sql`
            DELETE FROM organization_windows w USING appended, organizations o
            WHERE w.organization = ${state.number}::integer AND o.number = w.organization AND o.requests_per_second IS NULL AND o.requests_per_minute IS NULL`,
        ];
      case 'OrganizationCreated':
      case 'OrganizationRenamed':
      case 'OrganizationTeamChanged':
      case 'BalanceEnabled':
      case 'BalanceDisabled':
      case 'FundsAdded':
      case 'OrganizationSettingsChanged':
        return [];
    }
    return event satisfies never;
  });
  return [
    { name: 'organization_row', statement: organization },
    ...writeBalance(state.number, events),
    ...members.map((statement, index) => ({ name: `touched_row_${index}`, statement })),
  ];
}
