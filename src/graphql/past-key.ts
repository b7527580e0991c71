import { ABSENT_KEY, evolveKey, keyStatus, type KeyState, type KeyStatus } from '../domain/api-key.ts';
import { parseEvent, streamOf, type KeySettings } from '../domain/event.ts';
import { ABSENT_PROFILE, evolveProfile, type ProfileState } from '../domain/profile.ts';
import { loadStream, type AsOf } from '../ledger/stream.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import { momentOf } from './as-of.ts';
import type { Builder } from './builder.ts';
import { actorOf } from './context.ts';
import type { Enums } from './enums.ts';
import type { TypeRefs } from './type-refs.ts';

type PastKey = { readonly state: Exclude<KeyState, { kind: 'absent' }>; readonly status: KeyStatus; readonly asOf: AsOf };
type PastProfile = Exclude<ProfileState, { kind: 'absent' }>;

/** `ApiKey.asOf`: the key as it stood at a past moment, with its profile as that was then. */
export function addPastKey(builder: Builder, enums: Enums, types: TypeRefs): void {
  const setting = <Name extends keyof KeySettings>(key: PastKey, name: Name): KeySettings[Name] => key.state.settings[name];
  const capsOf = (key: PastKey): JsonValue => ({ ...setting(key, 'quotas'), ...setting(key, 'limits') });
  const profile = builder.objectRef<PastProfile>('PastProfile').implement({
    description: 'A profile as it stood at a past moment.',
    fields: (t) => ({
      profileId: t.exposeID('profileId', { description: "The plain UUID, as in the log's data." }),
      name: t.exposeString('name'),
      settings: t.field({ type: 'JSON', resolve: ({ settings }) => settings }),
    }),
  });
  const past = builder.objectRef<PastKey>('PastApiKey').implement({
    description: 'A key as it stood at a past moment.',
    fields: (t) => ({
      keyId: t.id({ resolve: ({ state }) => state.keyId }),
      name: t.string({ resolve: (key) => setting(key, 'name') }),
      type: t.field({ type: enums.keyType, resolve: ({ state }) => state.type }),
      status: t.field({ type: enums.keyStatus, resolve: ({ status }) => status }),
      category: t.string({ resolve: (key) => setting(key, 'category') }),
      masked: t.string({ resolve: ({ state }) => state.secret.masked }),
      archived: t.boolean({ resolve: ({ state }) => state.archived }),
      permissions: t.stringList({ resolve: (key) => [...setting(key, 'permissions')] }),
      expiresAt: t.field({ type: 'DateTime', nullable: true, resolve: (key) => asDate(setting(key, 'expiresAt')) }),
      profile: t.field({
        type: profile,
        nullable: true,
        description: 'Null without one, and for deleted keys.',
        resolve: async (key, _args, context): Promise<PastProfile | null> => {
          const profileId = key.state.kind === 'deleted' ? null : setting(key, 'profileId');
          if (profileId === null) return null;
          const fold = { initial: ABSENT_PROFILE, parse: parseEvent.profile, evolve: evolveProfile };
          const { organizationId } = actorOf(context);
          const { state } = await loadStream(context.deps.database.kysely, organizationId, streamOf.profile(profileId), fold, key.asOf);
          return state.kind === 'profile' ? state : null;
        },
      }),
      metadata: t.field({ type: 'JSON', resolve: (key) => setting(key, 'metadata') }),
      ipAllowlist: t.stringList({ resolve: (key) => [...setting(key, 'ipAllowlist')] }),
      allowedOrigins: t.stringList({ resolve: (key) => [...setting(key, 'allowedOrigins')] }),
      rotateEveryDays: t.int({ nullable: true, resolve: (key) => setting(key, 'rotateEveryDays') }),
      caps: t.field({ type: 'JSON', description: 'Quotas and limits as `createApiKey` takes them; null is no cap.', resolve: capsOf }),
    }),
  });
  builder.objectField(types.apiKey, 'asOf', (t) =>
    t.field({
      type: past,
      nullable: true,
      description: 'The key as it stood after a position or at a moment, folded from the log; null before its creation.',
      authScopes: { permission: 'log:read' },
      args: { position: t.arg({ type: 'Position' }), at: t.arg({ type: 'DateTime' }) },
      resolve: async (key, args, context): Promise<PastKey | null> => {
        const db = context.deps.database.kysely;
        const { asOf, moment } = await momentOf(db, args);
        const fold = { initial: ABSENT_KEY, parse: parseEvent.key, evolve: evolveKey };
        const { state } = await loadStream(db, actorOf(context).organizationId, streamOf.key(key.id), fold, asOf);
        return state.kind === 'absent' ? null : { state, status: keyStatus(state, moment), asOf };
      },
    }),
  );
}

function asDate(text: string | null): Date | null {
  return text === null ? null : new Date(text);
}
