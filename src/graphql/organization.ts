import { sql } from 'kysely';

import type { AlertRefs } from './alert.ts';
import { loadAlertRules } from './alert-reading.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { idOf } from './global-id.ts';
import { addKeyList } from './key-list.ts';
import { logFilterOf, readEvents, type LedgerEventRefs } from './ledger-event.ts';
import { refuseNul } from './refuse-nul.ts';
import { pageOf, pageSizeOf } from './paging.ts';
import type { PlanCapsRef } from './plan-caps.ts';
import { listProfiles } from './profile-reading.ts';
import type { ProfileRefs } from './profile.ts';
import type { AccessTokenRow, MemberRow, TypeRefs } from './type-refs.ts';
import { encodeGlobalId } from './global-id.ts';
import { readRequestLog } from './request-log.ts';
import type { UsageRefs } from './usage.ts';

export function addOrganization(
  builder: Builder,
  enums: Enums,
  types: TypeRefs,
  events: LedgerEventRefs,
  usage: UsageRefs,
  profiles: ProfileRefs,
  caps: PlanCapsRef,
  alerts: AlertRefs,
): void {
  const members = builder.connectionObject({ type: types.member, name: 'MemberConnection' });
  const tokens = builder.connectionObject({ type: types.accessToken, name: 'AccessTokenConnection' });
  const keys = addKeyList(builder, enums, types);

  types.organization.implement({
    description: 'Owns keys, members and tokens. Nothing of it can be reached from another.',
    fields: (t) => ({
      name: t.exposeString('name'),
      plan: t.exposeString('plan'),
      caps: t.field({
        type: caps,
        description: 'Of its plan, over all its keys.',
        authScopes: { permission: 'organization:read' },
        resolve: (organization) => ({
          requestsPerSecond: asNumber(organization.requests_per_second),
          requestsPerMinute: asNumber(organization.requests_per_minute),
        }),
      }),
      team: t.exposeBoolean('team', { description: 'Personal keys of its members are archived while they belong to it.' }),
      createdAt: t.field({ type: 'DateTime', resolve: (organization) => organization.created_at }),
      members: t.field({
        type: members,
        authScopes: { permission: 'members:read' },
        args: { first: t.arg.int(), after: t.arg.string() },
        resolve: async (_organization, args, context) => {
          const size = pageSizeOf(args.first);
          const rows = await listMembers(context, afterUuid(args.after, 'Member'), size + 1);
          return pageOf(rows, size, (member) => encodeGlobalId('Member', `${member.organization_id}:${member.id}`), args.after != null);
        },
      }),
      accessTokens: t.field({
        type: tokens,
        authScopes: { permission: 'tokens:read' },
        args: { first: t.arg.int(), after: t.arg.string() },
        resolve: async (_organization, args, context) => {
          const size = pageSizeOf(args.first);
          const rows = await listTokens(context, afterUuid(args.after, 'AccessToken'), size + 1);
          return pageOf(rows, size, (token) => encodeGlobalId('AccessToken', token.id), args.after != null);
        },
      }),
      apiKeys: t.field({
        type: keys.connection,
        authScopes: { permission: 'keys:read' },
        args: {
          filter: t.arg({ type: keys.filter }),
          orderBy: t.arg({ type: keys.order, description: 'By default the newest first.' }),
          first: t.arg.int(),
          after: t.arg.string(),
        },
        resolve: (_organization, args, context) => keys.read(context, args),
      }),
      profiles: t.field({
        type: profiles.connection,
        description: 'In the order of their creation.',
        authScopes: { permission: 'keys:read' },
        args: { first: t.arg.int(), after: t.arg.string() },
        resolve: async ({ id }, args, context) => {
          const size = pageSizeOf(args.first);
          const rows = await listProfiles(context.deps.database.kysely, id, afterUuid(args.after, 'Profile'), size + 1);
          return pageOf(rows, size, (profile) => encodeGlobalId('Profile', profile.id), args.after != null);
        },
      }),
      ledgerEvents: t.field({
        type: events.connection,
        description: 'The log, oldest first. A cursor is a position.',
        authScopes: { permission: 'log:read' },
        args: { after: t.arg({ type: 'Position' }), filter: t.arg({ type: events.filter }), first: t.arg.int() },
        resolve: (_organization, args, context) => readEvents(context, logFilterOf(args.filter), args),
      }),
      usage: t.field({
        type: usage.usage,
        description: 'Of all keys, or of a category: the requests whose key was in it when they were recorded.',
        authScopes: { permission: 'usage:read' },
        args: {
          from: t.arg({ type: 'DateTime', required: true }),
          to: t.arg({ type: 'DateTime', required: true, description: 'Exclusive.' }),
          granularity: t.arg({ type: enums.granularity, defaultValue: 'HOUR', description: 'Of the series.' }),
          category: t.arg.string(),
        },
        resolve: ({ id }, { from, to, granularity, category }) => {
          refuseNul('category', category);
          const subject = { organizationId: id, ...(category == null ? {} : { category }) };
          return { subject, from, to, granularity: granularity ?? 'HOUR' };
        },
      }),
      requestLog: t.field({
        type: usage.requests.connection,
        description: 'Newest first, of the keys that you may see. With a filter a page can be shorter than asked for and yet not the last.',
        authScopes: { permission: 'usage:read' },
        args: { first: t.arg.int(), after: t.arg.string(), filter: t.arg({ type: usage.requests.filter }) },
        resolve: (_organization, args, context) => readRequestLog(context, undefined, args),
      }),
      alerts: t.field({
        type: alerts.connection,
        description: 'Newest first; those about keys that you may not see are left out. A cursor is a position.',
        authScopes: { permission: 'alerts:read' },
        args: { filter: t.arg({ type: alerts.filter }), first: t.arg.int(), after: t.arg({ type: 'Position' }) },
        resolve: (_organization, args, context) => alerts.read(context, args),
      }),
      alertRules: t.field({
        type: [types.alertRule],
        description: 'All of them: the defaults, changed or not, and those that were added.',
        authScopes: { permission: 'alerts:read' },
        resolve: async (_organization, _args, context) => [...(await loadAlertRules(context.deps.database.kysely, actorOf(context)))],
      }),
    }),
  });
}

function asNumber(value: bigint | null): number | null {
  return value === null ? null : Number(value);
}

const FIRST_UUID = '00000000-0000-0000-0000-000000000000';

/** The uuid behind a cursor; ids are UUIDv7, so that their order is that of creation. */
function afterUuid(cursor: string | null | undefined, type: 'Member' | 'AccessToken' | 'Profile'): string {
  if (cursor == null) return FIRST_UUID;
  const id = idOf(type, cursor)?.split(':').at(-1);
  if (id === undefined) throw badUserInput("'after' is no cursor of this list.");
  return id;
}

async function listMembers(context: GraphqlContext, after: string, limit: number): Promise<readonly MemberRow[]> {
  const { rows } = await sql<MemberRow>`
    SELECT m.organization_id, m.id, m.role, m.joined_at, p.name, p.email
    FROM members m LEFT JOIN people p ON p.organization_id = m.organization_id AND p.member_id = m.id
    WHERE m.organization_id = ${actorOf(context).organizationId}::uuid AND m.removed_at IS NULL AND m.id > ${after}::uuid
    ORDER BY m.id LIMIT ${limit}`.execute(context.deps.database.kysely);
  return rows;
}

function listTokens(context: GraphqlContext, after: string, limit: number): Promise<AccessTokenRow[]> {
  return context.deps.database.kysely
    .selectFrom('access_tokens')
    .select(['id', 'organization_id', 'name', 'member_id', 'permissions', 'issued_at', 'issued_by', 'expires_at', 'revoked_at'])
    .where('organization_id', '=', actorOf(context).organizationId)
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute();
}
