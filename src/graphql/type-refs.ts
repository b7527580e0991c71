import { sql, type Selectable } from 'kysely';

import { allows } from '../domain/actor.ts';
import type { Permission } from '../domain/permissions.ts';
import { ForbiddenError } from '../commands/authorization.ts';
import { readLog, type LedgerEntry } from '../ledger/read.ts';
import type { OrganizationsTable } from '../postgres/tables.ts';
import { loadAlertRules, loadAlerts, type AlertRow, type AlertRuleNode } from './alert-reading.ts';
import type { Builder } from './builder.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import { splitMemberId } from './global-id.ts';
import { loadKeys, type KeyRow } from './key-reading.ts';
import { loadDeliveries, loadEndpoints, type DeliveryRow, type EndpointRow } from './webhook-reading.ts';
import { loadProfiles, type ProfileRow } from './profile-reading.ts';

const ORGANIZATION_COLUMNS = [
  'id',
  'name',
  'plan',
  'requests_per_second',
  'requests_per_minute',
  'team',
  'created_at',
  'deletion_policy',
  'quota_status',
  'public_key_permissions',
  'key_operations_per_hour',
  'alert_quota_thresholds',
  'alert_expiring_within_days',
  'alert_unused_for_days',
] as const;
export type OrganizationRow = Pick<Selectable<OrganizationsTable>, (typeof ORGANIZATION_COLUMNS)[number]>;
export type MemberRow = {
  readonly organization_id: string;
  readonly id: string;
  readonly role: 'OWNER' | 'ADMIN' | 'MEMBER' | 'AUDITOR';
  readonly joined_at: Date;
  readonly name: string | null;
  readonly email: string | null;
};
export type AccessTokenRow = {
  readonly id: string;
  readonly organization_id: string;
  readonly name: string;
  readonly member_id: string | null;
  readonly permissions: readonly string[] | null;
  readonly issued_at: Date;
  readonly issued_by: string;
  readonly expires_at: Date | null;
  readonly revoked_at: Date | null;
};

/** Every object type that others refer to; their fields stand in one file each. */
export type TypeRefs = ReturnType<typeof createTypeRefs>;

/**
 * The types that can be loaded by id. Each loader asks for its permission first and looks into the caller's organization alone: `node` reaches every
 * type, so nothing in front of it can be relied on.
 */
export function createTypeRefs(builder: Builder) {
  return {
    apiKey: builder.loadableNodeRef<KeyRow | null, string, string, string, KeyRow>('ApiKey', {
      id: { resolve: (key) => key.id },
      load: async (ids: string[], context): Promise<readonly (KeyRow | null)[]> => {
        permitted(context, 'keys:read');
        return loadKeys(context.deps.database.kysely, actorOf(context), ids);
      },
    }),
    organization: builder.loadableNodeRef<OrganizationRow | null, string, string, string, OrganizationRow>('Organization', {
      id: { resolve: (organization) => organization.id },
      load: async (ids: string[], context): Promise<readonly (OrganizationRow | null)[]> => {
        permitted(context, 'organization:read');
        const own = await loadOwnOrganization(context);
        return ids.map((id) => (id === own.id ? own : null));
      },
    }),
    member: builder.loadableNodeRef<MemberRow | null, string, string, string, MemberRow>('Member', {
      id: { resolve: (member) => `${member.organization_id}:${member.id}` },
      load: async (ids: string[], context): Promise<readonly (MemberRow | null)[]> => {
        permitted(context, 'members:read');
        const { organizationId } = actorOf(context);
        const wanted = ids.map(splitMemberId).map((id) => (id.organizationId === organizationId ? id.memberId : null));
        const { rows } = await sql<MemberRow>`
          SELECT m.organization_id, m.id, m.role, m.joined_at, p.name, p.email
          FROM members m LEFT JOIN people p ON p.organization_id = m.organization_id AND p.member_id = m.id
          WHERE m.organization_id = ${organizationId}::uuid AND m.removed_at IS NULL AND m.id = ANY(${wanted.filter((id) => id !== null)}::uuid[])`.execute(
          context.deps.database.kysely,
        );
        return wanted.map((id) => rows.find((row) => row.id === id) ?? null);
      },
    }),
    accessToken: builder.loadableNodeRef<AccessTokenRow | null, string, string, string, AccessTokenRow>('AccessToken', {
      id: { resolve: (token) => token.id },
      load: async (ids: string[], context): Promise<readonly (AccessTokenRow | null)[]> => {
        permitted(context, 'tokens:read');
        return loadTokens(context, ids);
      },
    }),
    alert: builder.loadableNodeRef<AlertRow | null, string, string, string, AlertRow>('Alert', {
      id: { resolve: (alert) => alert.id },
      load: async (ids: string[], context): Promise<readonly (AlertRow | null)[]> => {
        permitted(context, 'alerts:read');
        return loadAlerts(context.deps.database.kysely, actorOf(context), ids);
      },
    }),
    alertRule: builder.loadableNodeRef<AlertRuleNode | null, string, string, string, AlertRuleNode>('AlertRule', {
      id: { resolve: (rule) => rule.ruleId },
      load: async (ids: string[], context): Promise<readonly (AlertRuleNode | null)[]> => {
        permitted(context, 'alerts:read');
        const rules = await loadAlertRules(context.deps.database.kysely, actorOf(context));
        return ids.map((id) => rules.find(({ ruleId }) => ruleId === id) ?? null);
      },
    }),
    webhookEndpoint: builder.loadableNodeRef<EndpointRow | null, string, string, string, EndpointRow>('WebhookEndpoint', {
      id: { resolve: (endpoint) => endpoint.id },
      load: async (ids: string[], context): Promise<readonly (EndpointRow | null)[]> => {
        permitted(context, 'webhooks:read');
        return loadEndpoints(context, ids);
      },
    }),
    webhookDelivery: builder.loadableNodeRef<DeliveryRow | null, string, string, string, DeliveryRow>('WebhookDelivery', {
      id: { resolve: (delivery) => delivery.id },
      load: async (ids: string[], context): Promise<readonly (DeliveryRow | null)[]> => {
        permitted(context, 'webhooks:read');
        return loadDeliveries(context, ids);
      },
    }),
    profile: builder.loadableNodeRef<ProfileRow | null, string, string, string, ProfileRow>('Profile', {
      id: { resolve: (profile) => profile.id },
      load: async (ids: string[], context): Promise<readonly (ProfileRow | null)[]> => {
        permitted(context, 'keys:read');
        return loadProfiles(context.deps.database.kysely, actorOf(context).organizationId, ids);
      },
    }),
    ledgerEvent: builder.loadableNodeRef<LedgerEntry | null, string, string, string, LedgerEntry>('LedgerEvent', {
      id: { resolve: (entry) => entry.position.toString() },
      load: async (positions: string[], context): Promise<readonly (LedgerEntry | null)[]> => {
        permitted(context, 'log:read');
        const { organizationId } = actorOf(context);
        return Promise.all(positions.map(BigInt).map((position) => entryAt(context, organizationId, position)));
      },
    }),
  };
}

/** The caller's own organization, which every caller may know. */
export async function loadOwnOrganization(context: GraphqlContext): Promise<OrganizationRow> {
  const { organizationId } = actorOf(context);
  return context.deps.database.kysely
    .selectFrom('organizations')
    .select(ORGANIZATION_COLUMNS)
    .where('id', '=', organizationId)
    .executeTakeFirstOrThrow(() => new Error(`The organization ${organizationId} of an authenticated caller does not exist.`));
}

/** Access tokens by their ids, of the caller's organization; without what they are checked against. */
export async function loadTokens(context: GraphqlContext, ids: readonly string[]): Promise<readonly (AccessTokenRow | null)[]> {
  const rows = await context.deps.database.kysely
    .selectFrom('access_tokens')
    .select(['id', 'organization_id', 'name', 'member_id', 'permissions', 'issued_at', 'issued_by', 'expires_at', 'revoked_at'])
    .where('organization_id', '=', actorOf(context).organizationId)
    .where('id', '=', sql<string>`ANY(${[...ids]}::uuid[])`)
    .execute();
  return ids.map((id) => rows.find((row) => row.id === id) ?? null);
}

async function entryAt(context: GraphqlContext, organizationId: string, position: bigint): Promise<LedgerEntry | null> {
  if (position === 0n) return null;
  const [entry] = await readLog(context.deps.database.kysely, { organizationId }, { after: position - 1n, upTo: position, limit: 1 });
  return entry ?? null;
}

function permitted(context: GraphqlContext, permission: Permission): void {
  if (!allows(actorOf(context), permission)) throw new ForbiddenError(permission);
}
