import { sql, type RawBuilder } from 'kysely';

import type { OrganizationEvent } from '../domain/event.ts';
import type { OrganizationState } from '../domain/organization.ts';
import type { Effect } from '../ledger/append.ts';
import { writeBalance } from './balance-row.ts';

type Existing = Exclude<OrganizationState, { kind: 'absent' }>;

/** The effects that write an organization's row and what else its events touched, in the statement that appends. */
export function writeOrganizationRows(state: Existing, events: readonly OrganizationEvent[], version: number): readonly Effect[] {
  const organization = sql`
    INSERT INTO organizations (id, number, name, plan, requests_per_second, requests_per_minute, created_at, version)
    SELECT ${state.organizationId}::uuid, ${state.number}::integer, ${state.name}, ${state.plan}, ${state.caps.requestsPerSecond}::bigint,
           ${state.caps.requestsPerMinute}::bigint, appended.recorded_at, ${version}::integer FROM appended
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, plan = excluded.plan, requests_per_second = excluded.requests_per_second,
      requests_per_minute = excluded.requests_per_minute, version = excluded.version`;
  const members = events.flatMap((event): readonly RawBuilder<unknown>[] => {
    switch (event.type) {
      case 'MemberAdded':
        return [
          sql`
            INSERT INTO members (organization_id, id, role, joined_at)
            SELECT ${state.organizationId}::uuid, ${event.data.memberId}::uuid, ${event.data.role}, appended.recorded_at FROM appended
            ON CONFLICT (organization_id, id) DO UPDATE SET role = excluded.role, joined_at = excluded.joined_at, removed_at = NULL`,
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
      case 'OrganizationCreated':
      case 'PlanChanged':
        // Windows that were not kept while there was no cap must not be believed: the next verification makes them anew from the log.
        return [sql`DELETE FROM organization_windows USING appended WHERE organization = ${state.number}::integer`];
      case 'OrganizationRenamed':
      case 'BalanceEnabled':
      case 'FundsAdded':
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
