import type { ObjectFieldsShape } from '@pothos/core';

import type { JoinCodeResult } from '../commands/join-consent.ts';
import type { OrganizationResult } from '../commands/organization-commands.ts';
import type { Done } from '../ledger/run-command.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import type { Enums } from './enums.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';

type MemberDone = Done<OrganizationResult>;

export function addMember(builder: Builder, enums: Enums, types: TypeRefs, refusals: RefusalTypes): void {
  types.member.implement({
    description: 'A person in an organization. Name and address stand outside the log and are erased when the member leaves.',
    fields: (t) => ({
      memberId: t.id({ description: "The plain UUID, as in the log's data.", resolve: (member) => member.id }),
      role: t.field({ type: enums.role, resolve: (member) => member.role }),
      name: t.exposeString('name', { nullable: true }),
      email: t.exposeString('email', { nullable: true }),
      joinedAt: t.field({ type: 'DateTime', resolve: (member) => member.joined_at }),
    }),
  });

  const changed: ObjectFieldsShape<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>, MemberDone> = (t) => ({
    member: t.field({
      type: types.member,
      nullable: true,
      authScopes: { permission: 'members:read' },
      resolve: ({ result }) => `${result.organizationId}:${result.memberId}`,
    }),
  });
  addMutation<MemberDone>(builder, refusals, {
    name: 'addMember',
    description: 'Only an owner makes owners.',
    permissions: ['members:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      role: t.field({ type: enums.role, required: true }),
      name: t.string(),
      email: t.string(),
      oidcSubject: t.string({ description: 'The `sub` by which the OIDC provider knows the person.' }),
      joinCode: t.string({
        description:
          'From `createJoinCode`, by who is a member elsewhere: makes them known as the same person. Nobody else can say that they are.',
      }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'ALREADY_MEMBER', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.organizations.addMember(actor, input),
  });
  addMutation<MemberDone>(builder, refusals, {
    name: 'changeMemberRole',
    description: 'Ends what the member follows live. Only an owner makes or changes owners.',
    permissions: ['members:write'],
    input: (t) => ({ id: t.id({ required: true }), role: t.field({ type: enums.role, required: true }) }),
    ids: { id: 'Member' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'LAST_OWNER', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.organizations.changeMemberRole(actor, input),
  });
  addMutation<MemberDone>(builder, refusals, {
    name: 'removeMember',
    description: "The member's tokens stop at once, and what the member follows live ends. Name and address are erased.",
    permissions: ['members:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'Member' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'LAST_OWNER', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      removedId: t.id({ resolve: ({ result }) => encodeGlobalId('Member', `${result.organizationId}:${result.memberId}`) }),
    }),
    run: (actor, input, { deps }) => deps.organizations.removeMember(actor, input),
  });
  addMutation<MemberDone>(builder, refusals, {
    name: 'leaveOrganization',
    description: 'Ends your own membership of this organization, as `removeMember` would. The last owner stays.',
    permissions: ['membership:own'],
    input: () => ({}),
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'LAST_OWNER', 'IDEMPOTENCY_CONFLICT'],
    payload: () => ({}),
    run: (actor, input, { deps }) => deps.organizations.leave(actor, input),
  });
  addMutation<Done<JoinCodeResult>>(builder, refusals, {
    name: 'createJoinCode',
    description:
      'Your word that you join another organization, for whoever adds you there: only so you are known there as the same person. Good for an hour, and once.',
    permissions: ['membership:own'],
    input: (t) => ({ organizationId: t.id({ required: true, description: 'The organization that you want to join.' }) }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      joinCode: t.string({
        nullable: true,
        description: 'Null in a replayed answer after an hour, when it is good for nothing any more.',
        resolve: ({ secret }) => secret?.reveal() ?? null,
      }),
      expiresAt: t.field({ type: 'DateTime', resolve: ({ result }) => new Date(result.expiresAt) }),
    }),
    run: (actor, input, { deps }) => deps.organizations.createJoinCode(actor, input),
  });
}
