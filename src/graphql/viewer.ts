import type { Actor } from '../domain/actor.ts';
import type { Builder } from './builder.ts';
import { actorOf } from './context.ts';
import type { Enums } from './enums.ts';
import { loadOwnOrganization, type TypeRefs } from './type-refs.ts';

export function addViewer(builder: Builder, enums: Enums, types: TypeRefs): void {
  const viewer = builder.objectRef<Actor>('Viewer').implement({
    description: 'Who asks.',
    fields: (t) => ({
      actorId: t.id({ description: 'What the log records of you.', resolve: (actor) => actor.id }),
      role: t.field({ type: enums.role, nullable: true, description: 'Null for services.', resolve: (actor) => actor.role }),
      permissions: t.stringList({
        description: 'What you may do; see docs/permissions.md.',
        resolve: (actor) => [...actor.permissions].toSorted(),
      }),
      organization: t.field({ type: types.organization, resolve: (_actor, _args, context) => loadOwnOrganization(context) }),
      expiresAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When your credentials end.',
        resolve: (actor) => actor.expiresAt,
      }),
    }),
  });
  builder.queryField('viewer', (t) =>
    t.field({ type: viewer, authScopes: { authenticated: true }, resolve: (_root, _args, context) => actorOf(context) }),
  );
}
