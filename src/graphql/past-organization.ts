import { parseEvent, streamOf } from '../domain/event.ts';
import { ABSENT_ORGANIZATION, evolveOrganization, type OrganizationState } from '../domain/organization.ts';
import type { Role } from '../domain/permissions.ts';
import { loadStream } from '../ledger/stream.ts';
import { momentOf } from './as-of.ts';
import type { Builder } from './builder.ts';
import type { Enums } from './enums.ts';
import { encodeGlobalId } from './global-id.ts';
import type { OrganizationSettingsRef } from './organization-settings.ts';
import type { PlanCapsRef } from './plan-caps.ts';
import type { TypeRefs } from './type-refs.ts';

type PastMember = { readonly organizationId: string; readonly memberId: string; readonly role: Role };
type PastOrganization = Exclude<OrganizationState, { kind: 'absent' }>;
type Parts = { readonly settings: OrganizationSettingsRef; readonly caps: PlanCapsRef };

/** `Organization.asOf`: the organization as it stood at a past moment. */
export function addPastOrganization(builder: Builder, enums: Enums, types: TypeRefs, { settings, caps }: Parts): void {
  const member = builder.objectRef<PastMember>('PastMember').implement({
    fields: (t) => ({
      memberId: t.id({ description: 'Global id.', resolve: (past) => encodeGlobalId('Member', `${past.organizationId}:${past.memberId}`) }),
      role: t.field({ type: enums.role, resolve: ({ role }) => role }),
    }),
  });
  const past = builder.objectRef<PastOrganization>('PastOrganization').implement({
    description: 'An organization as it stood at a past moment.',
    fields: (t) => ({
      name: t.exposeString('name'),
      plan: t.exposeString('plan'),
      caps: t.field({ type: caps, resolve: (organization) => organization.caps }),
      team: t.exposeBoolean('team'),
      settings: t.field({ type: settings, resolve: (organization) => organization.settings }),
      members: t.field({
        type: [member],
        resolve: ({ organizationId, members }) => [...members].map(([memberId, role]) => ({ organizationId, memberId, role })),
      }),
    }),
  });
  builder.objectField(types.organization, 'asOf', (t) =>
    t.field({
      type: past,
      nullable: true,
      description: 'As it stood after a position or at a moment, folded from the log; null before its creation.',
      authScopes: { permission: 'log:read' },
      args: { position: t.arg({ type: 'Position' }), at: t.arg({ type: 'DateTime' }) },
      resolve: async ({ id }, args, context): Promise<PastOrganization | null> => {
        const db = context.deps.database.kysely;
        const { asOf } = await momentOf(db, args);
        const fold = { initial: ABSENT_ORGANIZATION, parse: parseEvent.organization, evolve: evolveOrganization };
        const { state } = await loadStream(db, id, streamOf.organization(id), fold, asOf);
        return state.kind === 'absent' ? null : state;
      },
    }),
  );
}
