import type { ObjectFieldsShape } from '@pothos/core';

import type { ProfileResult } from '../commands/profile-commands.ts';
import type { Done } from '../ledger/run-command.ts';
import type { ActorRef } from './actor.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';

type ProfileDone = Done<ProfileResult>;

export type ProfileRefs = ReturnType<typeof addProfile>;

/** The type `Profile`, its connection and its mutations. */
export function addProfile(builder: Builder, types: TypeRefs, actor: ActorRef, refusals: RefusalTypes) {
  types.profile.implement({
    description: "A named bundle of settings that a gateway is handed with a key's verification.",
    fields: (t) => ({
      profileId: t.id({ description: "The plain UUID, as in the log's data.", resolve: (profile) => profile.id }),
      name: t.exposeString('name'),
      settings: t.field({ type: 'JSON', resolve: (profile) => profile.settings }),
      createdAt: t.field({ type: 'DateTime', resolve: (profile) => profile.created_at }),
      createdBy: t.field({
        type: actor,
        resolve: (profile) => ({ actorId: profile.created_by, organizationId: profile.organization_id }),
      }),
    }),
  });
  const written: ObjectFieldsShape<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>, ProfileDone> = (t) => ({
    profile: t.field({
      type: types.profile,
      nullable: true,
      description: 'Null where it was deleted since, as in an answer that is replayed.',
      resolve: ({ result }, _args, context) => context.profiles.clear(result.profileId).load(result.profileId),
    }),
  });
  addMutation<ProfileDone>(builder, refusals, {
    name: 'createProfile',
    description: 'Keys are given it by `profileId`.',
    permissions: ['profiles:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      name: t.string({ required: true, description: '3 to 50 characters, unique among the profiles of the organization.' }),
      settings: t.field({ type: 'JSON', required: true, description: 'An object of 16 KiB at most.' }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'NAME_TAKEN', 'IDEMPOTENCY_CONFLICT'],
    payload: written,
    run: (caller, input, { deps }) => deps.profiles.create(caller, input),
  });
  addMutation<ProfileDone>(builder, refusals, {
    name: 'updateProfile',
    description: 'What is left out stays; `settings` are replaced whole. Every verification that starts after the answer has the new ones.',
    permissions: ['profiles:write'],
    input: (t) => ({ id: t.id({ required: true }), name: t.string(), settings: t.field({ type: 'JSON' }) }),
    ids: { id: 'Profile' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'NAME_TAKEN', 'IDEMPOTENCY_CONFLICT'],
    payload: written,
    run: (caller, input, { deps }) => deps.profiles.update(caller, input),
  });
  addMutation<ProfileDone>(builder, refusals, {
    name: 'deleteProfile',
    description: 'Refused while keys have it; deleted keys do not count.',
    permissions: ['profiles:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'Profile' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'PROFILE_IN_USE', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      deletedId: t.id({ resolve: ({ result }) => encodeGlobalId('Profile', result.profileId) }),
    }),
    run: (caller, input, { deps }) => deps.profiles.delete(caller, input),
  });
  return { connection: builder.connectionObject({ type: types.profile, name: 'ProfileConnection' }) };
}
