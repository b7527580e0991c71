import { ABSENT_TOKEN, evolveToken, type TokenState } from '../domain/access-token.ts';
import { ABSENT_ALERT, evolveAlert, type AlertState } from '../domain/alert.ts';
import { ABSENT_ALERT_RULE, evolveAlertRule, type AlertRuleState } from '../domain/alert-rule.ts';
import type { AlertEvent, AlertRuleEvent, OrganizationEvent, ProfileEvent, TokenEvent, WebhookEvent } from '../domain/event.ts';
import { ABSENT_ORGANIZATION, evolveOrganization, type OrganizationState } from '../domain/organization.ts';
import { ABSENT_PROFILE, evolveProfile, type ProfileState } from '../domain/profile.ts';
import { ABSENT_WEBHOOK, evolveWebhook, type WebhookState } from '../domain/webhook-endpoint.ts';
import { alertRuleRow } from './alert-rule-row.ts';
import type { FoldedRow, RecordedEvent } from './folded-row.ts';
import { organizationRow } from './organization-row.ts';
import { profileRow } from './profile-row.ts';
import { webhookRow } from './webhook-row.ts';

// What each kind of stream but that of keys should have left in the tables. Each throws where the stream does not begin as it should.

/** An organization's row with those of its members, and of whoever was one. */
export function organizationRows(events: readonly RecordedEvent<OrganizationEvent>[]): readonly FoldedRow[] {
  const state = events.reduce<OrganizationState>((folded, { event }) => evolveOrganization(folded, event), ABSENT_ORGANIZATION);
  const first = events[0];
  if (state.kind === 'absent' || first === undefined) throw new Error('it does not begin with OrganizationCreated');
  const members = new Map<string, { role: string; person_id: string | null; joined_at: string; removed_at: string | null }>();
  for (const { event, at } of events) {
    switch (event.type) {
      case 'MemberAdded':
        members.set(event.data.memberId, {
          role: event.data.role,
          person_id: event.data.personId ?? null,
          joined_at: at,
          removed_at: null,
        });
        break;
      case 'MemberRoleChanged':
        members.set(event.data.memberId, {
          person_id: null,
          joined_at: at,
          removed_at: null,
          ...members.get(event.data.memberId),
          role: event.data.role,
        });
        break;
      case 'MemberRemoved': {
        const member = members.get(event.data.memberId);
        if (member !== undefined) member.removed_at = at;
        break;
      }
      case 'OrganizationCreated':
      case 'OrganizationRenamed':
      case 'OrganizationTeamChanged':
      case 'OrganizationSettingsChanged':
      case 'PlanChanged':
      case 'BalanceEnabled':
      case 'BalanceDisabled':
      case 'FundsAdded':
        break;
      default:
        event satisfies never;
    }
  }
  const { organizationId } = state;
  return [
    {
      table: 'organizations',
      row: { ...organizationRow(state), created_at: first.at, version: events.length },
    },
    ...[...members].map(([id, member]): FoldedRow => ({ table: 'members', row: { organization_id: organizationId, id, ...member } })),
  ];
}

/** None once it is deleted. */
export function profileRows(events: readonly RecordedEvent<ProfileEvent>[]): readonly FoldedRow[] {
  const state = events.reduce<ProfileState>((folded, { event }) => evolveProfile(folded, event), ABSENT_PROFILE);
  const first = events[0];
  if (state.kind === 'absent' || first === undefined) throw new Error('it does not begin with ProfileCreated');
  if (state.kind === 'deleted') return [];
  const row = {
    ...profileRow(state),
    settings: state.settings,
    organization_id: first.organizationId,
    created_at: first.at,
    created_by: first.actor,
    version: events.length,
  };
  return [{ table: 'profiles', row }];
}

export function tokenRows(events: readonly RecordedEvent<TokenEvent>[]): readonly FoldedRow[] {
  const state = events.reduce<TokenState>((folded, { event }) => evolveToken(folded, event), ABSENT_TOKEN);
  const issued = events[0];
  if (state.kind === 'absent' || issued?.event.type !== 'AccessTokenIssued') throw new Error('it does not begin with AccessTokenIssued');
  const revoked = events.find(({ event }) => event.type === 'AccessTokenRevoked');
  return [
    {
      table: 'access_tokens',
      row: {
        token_hash: `\\x${issued.event.data.tokenHash}`,
        id: state.tokenId,
        organization_id: issued.organizationId,
        name: state.name,
        member_id: state.memberId,
        permissions: state.permissions === null ? null : [...state.permissions],
        issued_at: issued.at,
        issued_by: issued.actor,
        expires_at: state.expiresAt,
        revoked_at: revoked?.at ?? null,
      },
    },
  ];
}

export function alertRuleRows(events: readonly RecordedEvent<AlertRuleEvent>[]): readonly FoldedRow[] {
  const state = events.reduce<AlertRuleState>((folded, { event }) => evolveAlertRule(folded, event), ABSENT_ALERT_RULE);
  const first = events[0];
  if (state.kind === 'absent' || first === undefined) throw new Error('it does not begin with AlertRuleSet');
  const row = alertRuleRow(state);
  return [
    {
      table: 'alert_rules',
      row: {
        ...row,
        condition: state.rule.condition,
        organization_id: first.organizationId,
        created_at: first.at,
        version: events.length,
      },
    },
  ];
}

export function alertRows(events: readonly RecordedEvent<AlertEvent>[]): readonly FoldedRow[] {
  const state = events.reduce<AlertState>((folded, { event }) => evolveAlert(folded, event), ABSENT_ALERT);
  const first = events[0];
  if (state.kind === 'absent' || first === undefined) throw new Error('it does not begin with AlertRaised');
  const acknowledged = events.findLast(({ event }) => event.type === 'AlertAcknowledged');
  const { alert } = state;
  return [
    {
      table: 'alerts',
      row: {
        id: alert.alertId,
        organization_id: first.organizationId,
        rule_id: alert.ruleId,
        kind: alert.kind,
        key_id: alert.keyId,
        severity: alert.severity,
        message: alert.message,
        details: alert.details,
        series: alert.series,
        ordinal: alert.ordinal,
        position: first.position,
        raised_at: first.at,
        acknowledged_at: acknowledged?.at ?? null,
        acknowledged_by: acknowledged?.actor ?? null,
        version: events.length,
      },
    },
  ];
}

export function webhookRows(events: readonly RecordedEvent<WebhookEvent>[]): readonly FoldedRow[] {
  let state: WebhookState = ABSENT_WEBHOOK;
  let activeSince: string | undefined;
  for (const { event, at } of events) {
    const next = evolveWebhook(state, event);
    const activated =
      next.kind === 'endpoint' && next.inactiveReason === null && (state.kind === 'absent' || state.inactiveReason !== null);
    if (activated) activeSince = at;
    state = next;
  }
  const first = events[0];
  const secret = events.findLast(({ event }) => event.type === 'WebhookEndpointCreated' || event.type === 'WebhookEndpointSecretRotated');
  if (state.kind === 'absent' || first === undefined || secret === undefined || activeSince === undefined)
    throw new Error('it does not begin with WebhookEndpointCreated');
  return [
    {
      table: 'webhook_endpoints',
      row: {
        ...webhookRow(state),
        organization_id: first.organizationId,
        active_since: activeSince,
        created_at: first.at,
        created_by: first.actor,
        secret_created_at: secret.at,
        version: events.length,
      },
    },
  ];
}
