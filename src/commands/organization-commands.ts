import { sql, type Kysely } from 'kysely';

import type { Actor } from '../domain/actor.ts';
import { SYSTEM_ACTOR_ID } from '../domain/actor.ts';
import { parseEvent, streamOf, type OrganizationEvent } from '../domain/event.ts';
import {
  ABSENT_ORGANIZATION,
  decideOrganization,
  evolveOrganization,
  type OrganizationCommand,
  type OrganizationState,
} from '../domain/organization.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import { isUniqueViolation, type Effect } from '../ledger/append.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import { loadStream } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { writeOrganizationRows } from '../projections/organization-row.ts';
import { ForbiddenError, requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { foundOrganization, type FoundedOrganization } from './found-organization.ts';
import { consentOf, createJoinCode, refuseStaleConsent, type JoinCodeResult } from './join-consent.ts';
import {
  addMemberSchema,
  changeMemberRoleSchema,
  changePlanSchema,
  changeTeamSchema,
  leaveOrganizationSchema,
  removeMemberSchema,
  renameOrganizationSchema,
} from './organization-input.ts';
import { personEffect } from './person.ts';
import { followMembers } from './personal-keys.ts';
import { settingsChanges, updateSettingsSchema } from './settings-input.ts';

export type OrganizationResult = { readonly organizationId: string; readonly memberId: string | null };

/** The mutations of organizations and members. Each takes the input as it came, authorizes, parses, and answers an {@link Outcome}. */
export type OrganizationCommands = {
  /** {@link foundOrganization} */
  create(actor: Actor | null, input: unknown, fixed?: Secret): Promise<Outcome<FoundedOrganization>>;
  rename(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  /** The personal keys of all members are archived, or restored, with it: see {@link followMembers}. */
  changeTeam(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  /** Of any organization: for the operator, by a token that carries `plans:write`, or the command line (`actor` null). */
  changePlan(actor: Actor | null, input: unknown): Promise<Outcome<OrganizationResult>>;
  changeSettings(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  addMember(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  changeMemberRole(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  removeMember(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  /** The caller's own membership ends. */
  leave(actor: Actor, input: unknown): Promise<Outcome<OrganizationResult>>;
  createJoinCode(actor: Actor, input: unknown): Promise<Outcome<JoinCodeResult>>;
};

const FOLD = { initial: ABSENT_ORGANIZATION, parse: parseEvent.organization, evolve: evolveOrganization };

/** Loads an organization's state as its log tells it, with the version to append on. */
export function loadOrganization(db: Kysely<Tables>, organizationId: string) {
  return loadStream<OrganizationState, OrganizationEvent>(db, organizationId, streamOf.organization(organizationId), FOLD);
}

export function createOrganizationCommands(context: CommandContext): OrganizationCommands {
  const { db } = context;

  async function change(
    actor: Actor | null,
    organizationId: string,
    request: { readonly operation: string; readonly input: JsonValue; readonly idempotencyKey: Secret | null },
    command: OrganizationCommand,
    memberId: string | null,
    people: readonly Effect[] = [],
    refuse: (now: Date) => Promise<Refusal | null> = () => Promise.resolve(null),
  ): Promise<Outcome<OrganizationResult>> {
    try {
      return await runCommand<OrganizationResult>(context, {
        actorId: actor?.id ?? SYSTEM_ACTOR_ID,
        ...request,
        decide: async (now) => {
          const { state, version } = await loadOrganization(db, organizationId);
          if (actor !== null) guardOwnership(actor, state, command);
          const refused = await refuse(now);
          if (refused !== null) return refused;
          const events = decideOrganization(state, command);
          if (isRefusal(events)) return events;
          const next = events.reduce(evolveOrganization, state);
          if (next.kind === 'absent') throw new Error('A decided organization command left no organization.');
          const personal = await followMembers(db, { before: state, after: next }, events, now);
          return {
            streams: [{ organizationId, stream: streamOf.organization(organizationId), version, events }, ...personal.streams],
            effects: [...writeOrganizationRows(next, events, version + events.length), ...people, ...personal.effects],
            result: { organizationId, memberId },
          };
        },
      });
    } catch (error) {
      if (isUniqueViolation(error, 'people_organization_id_oidc_subject_key')) return refusal('ALREADY_MEMBER', undefined, 'oidcSubject');
      throw error;
    }
  }

  return {
    create: (actor, raw, fixed) => foundOrganization(context, actor, raw, fixed),
    async rename(actor, raw) {
      requirePermission(actor, 'organization:write');
      const input = parseInput(renameOrganizationSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, name, idempotencyKey } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      return change(
        actor,
        organizationId,
        { operation: 'renameOrganization', input: { organizationId, name }, idempotencyKey },
        { kind: 'rename', name },
        null,
      );
    },
    async changeTeam(actor, raw) {
      requirePermission(actor, 'organization:write');
      const input = parseInput(changeTeamSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, team, idempotencyKey } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const request = { operation: 'changeOrganizationTeam', input: { organizationId, team }, idempotencyKey };
      return change(actor, organizationId, request, { kind: 'change-team', team }, null);
    },
    async changePlan(actor, raw) {
      if (actor !== null) requirePermission(actor, 'plans:write');
      const input = parseInput(changePlanSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, plan, caps, idempotencyKey } = input.value;
      return change(
        actor,
        organizationId,
        { operation: 'changePlan', input: { organizationId, plan, caps }, idempotencyKey },
        { kind: 'change-plan', plan, caps },
        null,
      );
    },
    async changeSettings(actor, raw) {
      requirePermission(actor, 'organization:write');
      const input = parseInput(updateSettingsSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, idempotencyKey, ...given } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const changes = settingsChanges(given);
      const request = { operation: 'updateOrganizationSettings', input: { organizationId, ...changes } as JsonValue, idempotencyKey };
      return change(actor, organizationId, request, { kind: 'change-settings', changes }, null);
    },
    async addMember(actor, raw) {
      requirePermission(actor, 'members:write');
      const input = parseInput(addMemberSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, role: newRole, joinCode, idempotencyKey, ...person } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const consent = joinCode === null ? null : consentOf(context, joinCode, organizationId);
      if (isRefusal(consent)) return consent;
      const memberId = await newMemberId(db);
      const request = { operation: 'addMember', input: { organizationId, role: newRole, joinCode, ...person }, idempotencyKey };
      return change(
        actor,
        organizationId,
        request,
        { kind: 'add-member', memberId, role: newRole, personId: consent?.personId ?? null },
        memberId,
        personEffect(organizationId, memberId, person),
        consent === null ? undefined : (now) => refuseStaleConsent(context, consent, now),
      );
    },
    async changeMemberRole(actor, raw) {
      requirePermission(actor, 'members:write');
      const input = parseInput(changeMemberRoleSchema, raw);
      if (!input.ok) return input.refusal;
      const { id, role: newRole, idempotencyKey } = input.value;
      const request = { operation: 'changeMemberRole', input: { id, role: newRole }, idempotencyKey };
      return change(actor, actor.organizationId, request, { kind: 'change-role', memberId: id, role: newRole }, id);
    },
    async removeMember(actor, raw) {
      requirePermission(actor, 'members:write');
      const input = parseInput(removeMemberSchema, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const request = { operation: 'removeMember', input: { id }, idempotencyKey };
      return change(actor, actor.organizationId, request, { kind: 'remove-member', memberId: id }, id, [forgetPerson(actor, id)]);
    },
    async leave(actor, raw) {
      requirePermission(actor, 'membership:own');
      const input = parseInput(leaveOrganizationSchema, raw);
      if (!input.ok) return input.refusal;
      if (actor.kind !== 'member') return refusal('INVALID_INPUT', 'A service is no member: revoke its token instead');
      const { organizationId, memberId } = actor;
      const request = { operation: 'leaveOrganization', input: { organizationId }, idempotencyKey: input.value.idempotencyKey };
      return change(actor, organizationId, request, { kind: 'remove-member', memberId }, memberId, [forgetPerson(actor, memberId)]);
    },
    createJoinCode: (actor, raw) => createJoinCode(context, actor, raw),
  };
}

/** Who leaves is forgotten: the log keeps the id alone. */
function forgetPerson({ organizationId }: Actor, memberId: string): Effect {
  const statement = sql`DELETE FROM people USING appended WHERE organization_id = ${organizationId}::uuid AND member_id = ${memberId}::uuid`;
  return { name: 'forgotten_person', statement };
}

/** Only an owner makes, changes or removes owners: an admin could otherwise take the organization over. */
function guardOwnership(actor: Actor, state: OrganizationState, command: OrganizationCommand): void {
  if (actor.kind === 'member' && actor.role === 'OWNER') return;
  // Whose own membership ends takes nothing over, and that an owner remains is the organization's own rule.
  if (command.kind === 'remove-member' && actor.kind === 'member' && command.memberId === actor.memberId) return;
  const touchesOwner =
    ('role' in command && command.role === 'OWNER') ||
    ('memberId' in command && state.kind === 'organization' && state.members.get(command.memberId) === 'OWNER');
  if (touchesOwner) throw new ForbiddenError('organization:write');
}

async function newMemberId(db: Kysely<Tables>): Promise<string> {
  const { rows } = await sql<{ id: string }>`SELECT uuidv7() AS id`.execute(db);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('The database gave no id for a new member.');
  return id;
}
