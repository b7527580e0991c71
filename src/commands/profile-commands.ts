import { sql, type Kysely } from 'kysely';
import { z } from 'zod';

import type { Actor } from '../domain/actor.ts';
import { parseEvent, streamOf, type ProfileEvent } from '../domain/event.ts';
import { ABSENT_PROFILE, decideProfile, evolveProfile, type ProfileCommand, type ProfileState } from '../domain/profile.ts';
import { isRefusal, refusal } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import { isForeignKeyViolation, isUniqueViolation } from '../ledger/append.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import { loadStream } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { writeProfileRow } from '../projections/profile-row.ts';
import { requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { idempotencyKeySchema, jsonObject, name } from './key-input.ts';

export type ProfileResult = { readonly profileId: string };

const settings = jsonObject('settings');
const createSchema = z.strictObject({ organizationId: z.uuid(), name, settings, idempotencyKey: idempotencyKeySchema });
const updateSchema = z.strictObject({
  id: z.uuid(),
  name: name.nullish(),
  settings: settings.nullish(),
  idempotencyKey: idempotencyKeySchema,
});
const deleteSchema = z.strictObject({ id: z.uuid(), idempotencyKey: idempotencyKeySchema });

/** The mutations of profiles. Each takes the input as it came, authorizes, parses, and answers an {@link Outcome}. */
export type ProfileCommands = {
  create(actor: Actor, input: unknown): Promise<Outcome<ProfileResult>>;
  /** `settings` are replaced whole. What is left out or null stays. */
  update(actor: Actor, input: unknown): Promise<Outcome<ProfileResult>>;
  /** Refused with PROFILE_IN_USE while keys that are not deleted have it. */
  delete(actor: Actor, input: unknown): Promise<Outcome<ProfileResult>>;
};

const FOLD = { initial: ABSENT_PROFILE, parse: parseEvent.profile, evolve: evolveProfile };

export function createProfileCommands(context: CommandContext): ProfileCommands {
  const { db } = context;

  async function change(
    { id: actorId, organizationId }: Actor,
    request: { readonly operation: string; readonly input: JsonValue; readonly idempotencyKey: Secret | null },
    profileId: string,
    command: ProfileCommand,
  ): Promise<Outcome<ProfileResult>> {
    try {
      return await runCommand<ProfileResult>(context, {
        actorId,
        ...request,
        decide: async () => {
          const stream = streamOf.profile(profileId);
          const { state, version } = await loadStream<ProfileState, ProfileEvent>(db, organizationId, stream, FOLD);
          const events = decideProfile(state, command);
          if (isRefusal(events)) return events;
          const next = events.reduce(evolveProfile, state);
          if (next.kind === 'absent') throw new Error('A decided profile command left no profile.');
          return {
            streams: [{ organizationId, stream, version, events }],
            effects: writeProfileRow(next, events, { organizationId, actorId, version: version + events.length }),
            result: { profileId },
          };
        },
      });
    } catch (error) {
      if (isUniqueViolation(error, 'profiles_name'))
        return refusal('NAME_TAKEN', 'Another profile of the organization has this name; choose another one', 'name');
      if (isForeignKeyViolation(error, 'api_keys_profile')) return refusal('PROFILE_IN_USE', undefined, 'id');
      throw error;
    }
  }

  return {
    async create(actor, raw) {
      requirePermission(actor, 'profiles:write');
      const input = parseInput(createSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, idempotencyKey, ...facts } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const profileId = await newProfileId(db);
      const request = { operation: 'createProfile', input: { organizationId, ...facts }, idempotencyKey };
      return change(actor, request, profileId, { kind: 'create', profileId, ...facts });
    },
    async update(actor, raw) {
      requirePermission(actor, 'profiles:write');
      const input = parseInput(updateSchema, raw);
      if (!input.ok) return input.refusal;
      const { id: profileId, idempotencyKey, ...given } = input.value;
      const changes = {
        ...(given.name == null ? {} : { name: given.name }),
        ...(given.settings == null ? {} : { settings: given.settings }),
      };
      const request = { operation: 'updateProfile', input: { id: profileId, ...changes }, idempotencyKey };
      return change(actor, request, profileId, { kind: 'update', ...changes });
    },
    async delete(actor, raw) {
      requirePermission(actor, 'profiles:write');
      const input = parseInput(deleteSchema, raw);
      if (!input.ok) return input.refusal;
      const { id: profileId, idempotencyKey } = input.value;
      const request = { operation: 'deleteProfile', input: { id: profileId }, idempotencyKey };
      return change(actor, request, profileId, { kind: 'delete' });
    },
  };
}

async function newProfileId(db: Kysely<Tables>): Promise<string> {
  const { rows } = await sql<{ id: string }>`SELECT uuidv7() AS id`.execute(db);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('The database gave no id for a new profile.');
  return id;
}
