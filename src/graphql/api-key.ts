import type { LimitWindow, QuotaWindow } from '../admission/read-windows.ts';
import { KEY_EVENT_SCHEMAS, streamOf, type EventType } from '../domain/event.ts';
import type { ActorRef } from './actor.ts';
import type { AlertRefs } from './alert.ts';
import type { Builder } from './builder.ts';
import type { Enums } from './enums.ts';
import { addOutdatedSecret } from './outdated-secret.ts';
import { LIFECYCLE_TYPES, readEvents, type LedgerEventRefs } from './ledger-event.ts';
import type { TypeRefs } from './type-refs.ts';
import { readRequestLog } from './request-log.ts';
import type { UsageRefs } from './usage.ts';

const KEY_LIFE = LIFECYCLE_TYPES.filter((type): type is EventType & keyof typeof KEY_EVENT_SCHEMAS =>
  Object.hasOwn(KEY_EVENT_SCHEMAS, type),
);

export function addApiKey(
  builder: Builder,
  enums: Enums,
  types: TypeRefs,
  actor: ActorRef,
  events: LedgerEventRefs,
  usage: UsageRefs,
  alerts: AlertRefs,
): void {
  const quota = builder.objectRef<QuotaWindow>('Quota').implement({
    description: 'A cap on requests in a window. The numbers are whole, exact up to 2^53.',
    fields: (t) => ({
      window: t.field({ type: enums.quotaWindow, resolve: ({ window }) => window }),
      limit: t.float({ resolve: ({ limit }) => Number(limit) }),
      used: t.float({ resolve: ({ used }) => Number(used) }),
      remaining: t.float({ resolve: ({ remaining }) => Number(remaining) }),
      availableAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When there is room again; null while there is.',
        resolve: ({ availableAt }) => availableAt,
      }),
    }),
  });
  const limit = builder.objectRef<LimitWindow>('RateLimit').implement({
    description: 'A cap on requests or tokens in a short window. The numbers are whole, exact up to 2^53.',
    fields: (t) => ({
      unit: t.field({ type: enums.limitUnit, resolve: ({ unit }) => unit }),
      windowSeconds: t.exposeInt('windowSeconds'),
      limit: t.float({ resolve: (window) => Number(window.limit) }),
      remaining: t.float({ resolve: ({ remaining }) => Number(remaining) }),
    }),
  });
  const outdatedSecret = addOutdatedSecret(builder);

  types.apiKey.implement({
    description: 'A key. Its secret was shown once and can not be read again.',
    fields: (t) => ({
      keyId: t.id({ description: "The plain UUID, as the data plane and the log's data have it.", resolve: (key) => key.id }),
      name: t.exposeString('name'),
      type: t.field({ type: enums.keyType, resolve: (key) => key.type }),
      status: t.field({ type: enums.keyStatus, resolve: (key) => key.status }),
      category: t.exposeString('category'),
      masked: t.exposeString('masked', { description: 'Such as `sk_live_a1b2...wxyz`.' }),
      outdatedSecrets: t.field({
        type: [outdatedSecret],
        description: 'Secrets before the current one that still work, the one that ends first first.',
        resolve: async (key, _args, context) => [...(await context.outdatedSecrets.load(key.number))],
      }),
      permissions: t.stringList({ resolve: (key) => [...key.permissions] }),
      createdAt: t.field({ type: 'DateTime', resolve: (key) => key.created_at }),
      createdBy: t.field({ type: actor, resolve: (key) => ({ actorId: key.created_by, organizationId: key.organization_id }) }),
      expiresAt: t.field({ type: 'DateTime', nullable: true, resolve: (key) => key.expires_at }),
      lastUsedAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When it was last let through, or reported as used.',
        resolve: async (key, _args, context) => {
          const folded = await context.lastUsed.load(key.number);
          const seen = key.seenUsedAt ?? null;
          return folded !== null && (seen === null || folded > seen) ? folded : seen;
        },
      }),
      personal: t.boolean({ description: 'Belongs to one member; otherwise to the team.', resolve: (key) => key.owner_id !== null }),
      owner: t.field({
        type: types.member,
        nullable: true,
        description: 'The member whose personal key it is; null for team keys, and for members who have left.',
        authScopes: { permission: 'members:read' },
        resolve: (key) => (key.owner_id === null ? null : `${key.organization_id}:${key.owner_id}`),
      }),
      archived: t.exposeBoolean('archived', {
        description: 'A personal key is while its owner belongs to a team, and once they have left. It is refused as inactive.',
      }),
      profile: t.field({
        type: types.profile,
        nullable: true,
        description: 'Null without one, and for deleted keys.',
        // Who sees a key sees its profile, without a permission of its own.
        resolve: (key, _args, context) => (key.profile_id === null ? null : context.profiles.load(key.profile_id)),
      }),
      metadata: t.field({ type: 'JSON', resolve: (key) => key.metadata }),
      ipAllowlist: t.stringList({ description: 'CIDR ranges; empty: any address.', resolve: (key) => [...key.ip_allowlist] }),
      allowedOrigins: t.stringList({ description: 'Empty: any origin.', resolve: (key) => [...key.allowed_origins] }),
      rotateEveryDays: t.int({ nullable: true, resolve: (key) => key.rotate_every_days }),
      quotas: t.field({
        type: [quota],
        description: 'Those that are set.',
        resolve: async (key, _args, context) => [...(await context.windows.load(key.number)).quotas],
      }),
      limits: t.field({
        type: [limit],
        description: 'Those that are set.',
        resolve: async (key, _args, context) => [...(await context.windows.load(key.number)).limits],
      }),
      usage: t.field({
        type: usage.usage,
        authScopes: { permission: 'usage:read' },
        args: {
          from: t.arg({ type: 'DateTime', required: true }),
          to: t.arg({ type: 'DateTime', required: true, description: 'Exclusive.' }),
          granularity: t.arg({ type: enums.granularity, defaultValue: 'HOUR', description: 'Of the series.' }),
        },
        resolve: (key, { from, to, granularity }) => ({
          subject: { organizationId: key.organization_id, keyNumber: key.number },
          from,
          to,
          granularity: granularity ?? 'HOUR',
        }),
      }),
      requestLog: t.field({
        type: usage.requests.connection,
        description: 'Newest first. With a filter a page can be shorter than asked for and yet not the last.',
        authScopes: { permission: 'usage:read' },
        args: { first: t.arg.int(), after: t.arg.string(), filter: t.arg({ type: usage.requests.filter }) },
        resolve: (key, args, context) => readRequestLog(context, key.number, args),
      }),
      alerts: t.field({
        type: alerts.connection,
        description: 'Newest first. A cursor is a position.',
        authScopes: { permission: 'alerts:read' },
        args: { filter: t.arg({ type: alerts.filter }), first: t.arg.int(), after: t.arg({ type: 'Position' }) },
        resolve: (key, args, context) => alerts.read(context, args, key.id),
      }),
      events: t.field({
        type: events.connection,
        description: 'The life of the key, oldest first; its requests stand in `requestLog`.',
        authScopes: { permission: 'log:read' },
        args: { first: t.arg.int(), after: t.arg({ type: 'Position' }) },
        resolve: (key, args, context) => readEvents(context, { streams: [streamOf.key(key.id)], types: KEY_LIFE }, args),
      }),
    }),
  });
}
