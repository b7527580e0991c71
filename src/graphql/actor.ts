import type { Builder } from './builder.ts';
import type { Enums } from './enums.ts';
import type { TypeRefs } from './type-refs.ts';
import { encodeGlobalId } from './global-id.ts';

/** The type `Actor`: who did something, as the log names them (`member:<uuid>`, `service:<token's uuid>`, `system`). */
export type ActorRef = ReturnType<typeof addActor>;

export function addActor(builder: Builder, enums: Enums, types: TypeRefs) {
  return builder.objectRef<{ readonly actorId: string; readonly organizationId: string }>('Actor').implement({
    description: 'Who did something.',
    fields: (t) => ({
      id: t.id({
        description: 'As in `viewer.actorId` and in events: `member:<uuid>`, `service:<uuid>` or `system`.',
        resolve: (actor) => actor.actorId,
      }),
      kind: t.field({ type: enums.actorKind, resolve: ({ actorId }) => kindOf(actorId) }),
      member: t.field({
        type: types.member,
        nullable: true,
        description: 'Null for services, and for members who have left.',
        authScopes: { permission: 'members:read' },
        resolve: ({ actorId, organizationId }) => (kindOf(actorId) === 'MEMBER' ? `${organizationId}:${uuidOf(actorId)}` : null),
      }),
      accessTokenId: t.id({
        nullable: true,
        description: "Global id of a service's access token.",
        resolve: ({ actorId }) => (kindOf(actorId) === 'SERVICE' ? encodeGlobalId('AccessToken', uuidOf(actorId)) : null),
      }),
    }),
  });
}

function kindOf(actorId: string): 'MEMBER' | 'SERVICE' | 'SYSTEM' {
  if (actorId.startsWith('member:')) return 'MEMBER';
  return actorId.startsWith('service:') ? 'SERVICE' : 'SYSTEM';
}

function uuidOf(actorId: string): string {
  return actorId.slice(actorId.indexOf(':') + 1);
}
