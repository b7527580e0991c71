import type { KeyState } from '../domain/api-key.ts';
import type { KeySettings, LifecycleEvent } from '../domain/event.ts';
import { canonicalJson, type JsonValue } from '../lib/canonical-json.ts';

/** What an event changed, in words; `before` is the state of a key before it, for what an Updated replaced. */
export function describeEvent(event: LifecycleEvent, before: KeyState | null): readonly string[] {
  switch (event.type) {
    case 'OrganizationCreated':
      return [`${event.data.team === true ? 'team' : 'organization'} ${quoted(event.data.name)} created, on plan ${event.data.plan}`];
    case 'OrganizationRenamed':
      return [`organization renamed to ${quoted(event.data.name)}`];
    case 'OrganizationTeamChanged':
      return [event.data.team ? 'the organization is a team from here on' : 'the organization is no team any more'];
    case 'PlanChanged':
      return [
        `plan changed to ${event.data.plan}`,
        `requests per second: ${event.data.requestsPerSecond ?? 'no cap'}`,
        `requests per minute: ${event.data.requestsPerMinute ?? 'no cap'}`,
      ];
    case 'BalanceEnabled':
      return ['prepaid balance enabled: usage is charged from here on'];
    case 'BalanceDisabled':
      return ['prepaid balance disabled: nothing is charged any more'];
    case 'FundsAdded':
      return [`funds of ${event.data.micros} micros added`];
    case 'OrganizationSettingsChanged':
      return Object.entries(event.data).map(([name, value]) => `${name}: ${shown(value)}`);
    case 'MemberAdded':
      return [
        `member ${event.data.memberId} added as ${event.data.role}`,
        ...(event.data.personId === undefined ? [] : [`known as person ${event.data.personId}`]),
      ];
    case 'MemberRoleChanged':
      return [`member ${event.data.memberId} made ${event.data.role}`];
    case 'MemberRemoved':
      return [`member ${event.data.memberId} removed`];
    case 'AccessTokenIssued':
      return [
        `access token ${quoted(event.data.name)} issued ${event.data.memberId === null ? 'to a service' : `to member ${event.data.memberId}`}`,
        ...(event.data.permissions === null ? [] : [`permissions: ${listed(event.data.permissions)}`]),
        ...(event.data.expiresAt === null ? [] : [`expires at ${event.data.expiresAt}`]),
      ];
    case 'AccessTokenRevoked':
      return ['access token revoked'];
    case 'VerifierReplaced':
      return ['the imported secret was used, and has an argon2id verifier from here on'];
    case 'ProfileCreated':
      return [`profile ${quoted(event.data.name)} created: ${shown(event.data.settings)}`];
    case 'ProfileUpdated':
      return Object.entries(event.data).map(([name, value]) => `profile's ${name}: ${shown(value)}`);
    case 'ProfileDeleted':
      return [`profile ${quoted(event.data.name)} deleted`];
    case 'KeyCreated':
    case 'KeyImported':
      return [
        `${event.data.type} key ${quoted(event.data.name)} ${event.type === 'KeyCreated' ? 'created' : 'imported'}, shown as ${event.data.masked}${event.data.ownerId === null ? '' : `, personal to member ${event.data.ownerId}`}`,
        ...SETTINGS.filter((name) => name !== 'name' && !isUnset(event.data[name])).map((name) => `${name}: ${shown(event.data[name])}`),
      ];
    case 'Updated':
      return SETTINGS.filter((name) => event.data[name] !== undefined).map((name) => {
        const previous = before === null || before.kind === 'absent' ? undefined : before.settings[name];
        return `${name}: ${previous === undefined ? '' : `${shown(previous)} → `}${shown(event.data[name])}`;
      });
    case 'Activated':
      return ['key activated'];
    case 'Deactivated':
      return ['key deactivated'];
    case 'Regenerated':
      return [
        `new secret, shown as ${event.data.masked}`,
        event.data.overlapUntil === null
          ? 'the secret before it stopped at once'
          : `the secret before it works until ${event.data.overlapUntil}`,
      ];
    case 'Expired':
      return [`key expired (${event.data.expiresAt})`];
    case 'Archived':
      return [`key archived: its owner ${event.data.reason === 'TEAM_JOINED' ? 'joined a team' : 'left the organization'}`];
    case 'Restored':
      return ['key restored: its owner belongs to no team any more'];
    case 'PersonalKeyAdded':
      return [`key ${event.data.keyId} is personal to member ${event.data.ownerId}`];
    case 'TeamJoined':
      return [`member ${event.data.memberId} belongs to a team now, for what depends on the person`];
    case 'TeamLeft':
      return [`member ${event.data.memberId} belongs to a team no more, since the organization is none now`];
    case 'MembershipEnded':
      return [`membership of member ${event.data.memberId} ended, for what depends on the person`];
    case 'Deleted':
      return [`key ${quoted(event.data.name)} deleted`];
    case 'AlertRuleSet':
      return [
        `alert rule ${event.data.condition.kind} set: ${canonicalJson(event.data.condition)}, ${event.data.enabled ? 'enabled' : 'disabled'}`,
        ...(event.data.category === null ? [] : [`for keys of category ${quoted(event.data.category)}`]),
        ...(event.data.keyId === null ? [] : [`for key ${event.data.keyId}`]),
      ];
    case 'AlertRuleDeleted':
      return ['alert rule deleted'];
    case 'AlertRaised':
      return [`alert ${event.data.kind} (${event.data.severity}): ${event.data.message}`];
    case 'AlertAcknowledged':
      return ['alert acknowledged'];
    case 'WebhookEndpointCreated':
      return [`webhook endpoint ${quoted(event.data.url)} created`, `event types: ${listed(event.data.eventTypes)}`];
    case 'WebhookEndpointUpdated':
      return Object.entries(event.data).map(([name, value]) => `${name}: ${shown(value)}`);
    case 'WebhookEndpointDisabled':
      return [
        event.data.reason === 'GONE' ? 'webhook endpoint disabled: it answered 410' : 'webhook endpoint disabled: it failed for days',
      ];
    case 'WebhookEndpointSecretRotated':
      return [
        'new signing secret',
        event.data.overlapUntil === null
          ? 'the secret before it stopped at once'
          : `the secret before it signs, too, until ${event.data.overlapUntil}`,
      ];
    case 'WebhookEndpointDeleted':
      return ['webhook endpoint deleted'];
    case 'WebhookTestRequested':
      return ['test message asked for'];
    case 'WebhookRedeliveryRequested':
      return [`event ${event.data.position} sent again`];
  }
  return event satisfies never;
}

const SETTINGS = [
  'name',
  'category',
  'permissions',
  'expiresAt',
  'profileId',
  'metadata',
  'ipAllowlist',
  'allowedOrigins',
  'quotas',
  'limits',
  'rotateEveryDays',
] as const satisfies readonly (keyof KeySettings)[];

function isUnset(value: KeySettings[(typeof SETTINGS)[number]]): boolean {
  return value === null || value === '' || (typeof value === 'object' && Object.values(value).every((part) => part === null));
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return 'none';
  if (typeof value === 'string') return quoted(value);
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (Array.isArray(value)) return listed(value.map(String));
  return canonicalJson(value as JsonValue); // a setting, which came out of the log's JSON
}

function quoted(text: string): string {
  return JSON.stringify(text);
}

function listed(items: readonly string[]): string {
  return items.length === 0 ? 'none' : items.join(', ');
}
