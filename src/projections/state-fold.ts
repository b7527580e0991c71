import { sql, type Kysely } from 'kysely';

import { ABSENT_TOKEN, evolveToken, type TokenState } from '../domain/access-token.ts';
import { ABSENT_ALERT, evolveAlert, type AlertState } from '../domain/alert.ts';
import { ABSENT_ALERT_RULE, evolveAlertRule, type AlertRuleState } from '../domain/alert-rule.ts';
import { ABSENT_KEY, evolveKey, type KeyState } from '../domain/api-key.ts';
import {
  parseEvent,
  type AlertEvent,
  type AlertRuleEvent,
  type KeyEvent,
  type OrganizationEvent,
  type ProfileEvent,
  type TokenEvent,
  type WebhookEvent,
} from '../domain/event.ts';
import { ABSENT_PROFILE, evolveProfile, type ProfileState } from '../domain/profile.ts';
import { ABSENT_ORGANIZATION, evolveOrganization, type OrganizationState } from '../domain/organization.ts';
import { ABSENT_WEBHOOK, evolveWebhook, type WebhookState } from '../domain/webhook-endpoint.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';
import { alertRuleRow } from './alert-rule-row.ts';
import { keyRow } from './key-row.ts';
import { organizationRow } from './organization-row.ts';
import { webhookRow } from './webhook-row.ts';
import { profileRow } from './profile-row.ts';

/** The tables whose rows are the fold of the log's streams, with their primary keys. */
export const STATE_TABLES = {
  organizations: ['id'],
  members: ['organization_id', 'id'],
  access_tokens: ['id'],
  profiles: ['id'],
  api_keys: ['id'],
  alert_rules: ['id'],
  alerts: ['id'],
  webhook_endpoints: ['id'],
} as const;
export type StateTable = keyof typeof STATE_TABLES;

/** The kinds of stream, in the order in which their rows refer to each other. */
export const STREAM_KINDS = ['organization', 'token', 'profile', 'key', 'alert-rule', 'alert', 'webhook'] as const;
export type StreamKind = (typeof STREAM_KINDS)[number];

/** A row as the log has it: columns by name, moments as texts with all their microseconds. */
export type FoldedRow = { readonly table: StateTable; readonly row: Readonly<Record<string, JsonValue>> };

/** A row's primary key as one text, its parts joined by a slash; all of them are UUIDs. */
export function keyOf({ table, row }: FoldedRow): string {
  return STATE_TABLES[table].map((column) => keyPart(row, column)).join('/');
}

/** One column of a row's primary key. */
export function keyPart(row: FoldedRow['row'], column: string): string {
  const part = row[column];
  if (typeof part !== 'string') throw new TypeError(`The column ${column} is no part of a primary key.`);
  return part;
}

/** A stream's last state with the rows that it should have left; `key` is there for the streams of keys. */
export type FoldedStream =
  | { readonly kind: 'folded'; readonly stream: string; readonly rows: readonly FoldedRow[]; readonly key: FoldedKey | null }
  /** An event is unknown, out of order or not what its schema says. */
  | { readonly kind: 'unreadable'; readonly stream: string; readonly reason: string };

/** A key's state with the fingerprint of each secret that it ever had, by lookup id. */
export type FoldedKey = { readonly keyId: string; readonly state: KeyState; readonly fingerprints: ReadonlyMap<string, string> };

type Recorded<Event> = {
  readonly event: Event;
  readonly organizationId: string;
  readonly version: number;
  readonly actor: string;
  readonly at: string;
  readonly position: string;
};
type Row = {
  readonly stream: string;
  readonly organization_id: string;
  readonly version: number;
  readonly type: string;
  readonly actor: string;
  readonly recorded_at: string;
  readonly position: string;
  readonly data: JsonValue;
};

/** The streams that follow one by name, `limit` at most; or one alone. */
export type StreamChoice = { readonly after: string | null; readonly limit: number } | { readonly stream: string };

/** Folds streams of one kind, in the order of their names. Run it in the transaction that compares, so that both see one moment. */
export async function foldStreams(db: Kysely<Tables>, kind: StreamKind, choice: StreamChoice): Promise<readonly FoldedStream[]> {
  const picked =
    'stream' in choice
      ? sql`SELECT ${choice.stream}::text AS stream`
      : sql`SELECT DISTINCT stream FROM events WHERE stream > ${choice.after ?? `${kind}:`} AND stream < ${`${kind};`} ORDER BY stream LIMIT ${choice.limit}`;
  const { rows } = await sql<Row>`
    SELECT e.stream, e.organization_id, e.version, e.type, e.actor, e.recorded_at::text, e.position::text, e.data
    FROM (${picked}) AS s JOIN events e USING (stream)
    ORDER BY e.stream, e.version`.execute(db);
  return [...Map.groupBy(rows, (row) => row.stream)].map(([stream, events]) => foldStream(kind, stream, events));
}

function foldStream(kind: StreamKind, stream: string, rows: readonly Row[]): FoldedStream {
  try {
    switch (kind) {
      case 'organization':
        return { kind: 'folded', stream, rows: organizationRows(parsed(rows, parseEvent.organization)), key: null };
      case 'token':
        return { kind: 'folded', stream, rows: tokenRows(parsed(rows, parseEvent.token)), key: null };
      case 'profile':
        return { kind: 'folded', stream, rows: profileRows(parsed(rows, parseEvent.profile)), key: null };
      case 'key':
        return foldKey(stream, parsed(rows, parseEvent.key));
      case 'alert-rule':
        return { kind: 'folded', stream, rows: alertRuleRows(parsed(rows, parseEvent.alertRule)), key: null };
      case 'alert':
        return { kind: 'folded', stream, rows: alertRows(parsed(rows, parseEvent.alert)), key: null };
      case 'webhook':
        return { kind: 'folded', stream, rows: webhookRows(parsed(rows, parseEvent.webhook)), key: null };
    }
    return kind satisfies never;
  } catch (error) {
    return { kind: 'unreadable', stream, reason: error instanceof Error ? error.message : String(error) };
  }
}

function parsed<Event>(rows: readonly Row[], parse: (type: string, data: unknown) => Event): readonly Recorded<Event>[] {
  return rows.map((row) => ({
    event: parse(row.type, row.data),
    organizationId: row.organization_id,
    version: row.version,
    actor: row.actor,
    at: row.recorded_at,
    position: row.position,
  }));
}

function foldKey(stream: string, events: readonly Recorded<KeyEvent>[]): FoldedStream {
  const state = events.reduce<KeyState>((folded, { event }) => evolveKey(folded, event), ABSENT_KEY);
  const first = events[0];
  const secrets = events.flatMap(({ event, at }) =>
    event.type === 'KeyCreated' || event.type === 'KeyImported' || event.type === 'Regenerated' ? [{ ...event.data, at }] : [],
  );
  const newest = secrets.at(-1);
  if (state.kind === 'absent' || first === undefined || newest === undefined)
    return { kind: 'unreadable', stream, reason: 'it does not begin with KeyCreated or KeyImported' };
  const row = keyRow(state);
  return {
    kind: 'folded',
    stream,
    key: { keyId: state.keyId, state, fingerprints: fingerprintsOf(events) },
    rows: [
      {
        table: 'api_keys',
        row: {
          ...row,
          expires_at: row.expires_at?.toISOString() ?? null,
          metadata: state.settings.metadata,
          organization_id: first.organizationId,
          created_at: first.at,
          created_by: first.actor,
          secret_created_at: newest.at,
          version: events.length,
        },
      },
    ],
  };
}

/** The newest fingerprint of each secret that a key ever had. */
function fingerprintsOf(events: readonly Recorded<KeyEvent>[]): ReadonlyMap<string, string> {
  return new Map(
    events.flatMap(({ event }): readonly (readonly [string, string])[] =>
      'verifierFingerprint' in event.data ? [[event.data.lookupId, event.data.verifierFingerprint]] : [],
    ),
  );
}

function organizationRows(events: readonly Recorded<OrganizationEvent>[]): readonly FoldedRow[] {
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
function profileRows(events: readonly Recorded<ProfileEvent>[]): readonly FoldedRow[] {
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

function tokenRows(events: readonly Recorded<TokenEvent>[]): readonly FoldedRow[] {
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

function alertRuleRows(events: readonly Recorded<AlertRuleEvent>[]): readonly FoldedRow[] {
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

function alertRows(events: readonly Recorded<AlertEvent>[]): readonly FoldedRow[] {
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

function webhookRows(events: readonly Recorded<WebhookEvent>[]): readonly FoldedRow[] {
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
