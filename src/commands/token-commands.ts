import { randomBytes } from 'node:crypto';
import { sql, type Kysely } from 'kysely';
import { z } from 'zod';

import { allows, SYSTEM_ACTOR_ID, type Actor } from '../domain/actor.ts';
import { ABSENT_TOKEN, decideToken, evolveToken, type TokenCommand, type TokenState } from '../domain/access-token.ts';
import { parseEvent, streamOf, type TokenEvent } from '../domain/event.ts';
import { isPermission, PERMISSIONS, permissionsOf, type Permission } from '../domain/permissions.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import { accessTokenHash, newAccessToken } from '../identity/access-token.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import { runCommand, type CommandContext, type Decision, type Outcome } from '../ledger/run-command.ts';
import { loadStream } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { writeTokenRow } from '../projections/token-row.ts';
import { ForbiddenError, requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { idempotencyKeySchema } from './key-input.ts';
import { loadOrganization } from './organization-commands.ts';

export type TokenResult = { readonly tokenId: string };

const uuid = z.uuid();

/** `createAccessToken`'s input: with `memberId` it acts as that member, without as a service, which then needs `permissions`. */
export const createTokenSchema = z.strictObject({
  organizationId: uuid,
  name: z
    .string()
    .transform((text) => text.normalize('NFC').trim())
    .refine(
      (text) => text.length >= 1 && text.length <= 100 && !/\p{Cc}|\p{Cs}/u.test(text),
      'say in 1 to 100 characters what the token is for',
    ),
  memberId: uuid.nullish().transform((value) => value ?? null),
  permissions: z
    .array(z.string().refine(isPermission, `give permissions out of: ${Object.keys(PERMISSIONS).join(', ')}`))
    .max(50)
    .nullish()
    .transform((value): readonly Permission[] | null => (value == null ? null : [...new Set(value.filter(isPermission))])),
  expiresAt: z
    .union([z.date(), z.iso.datetime({ offset: true, error: "give a moment such as '2030-01-31T00:00:00Z'" })])
    .nullish()
    .transform((value) => (value == null ? null : new Date(value))),
  idempotencyKey: idempotencyKeySchema,
});
export const revokeTokenSchema = z.strictObject({ id: uuid, idempotencyKey: idempotencyKeySchema });

/** The mutations of access tokens. `actor` null: the command line or the first start, which may do what the machine's owner may. */
export type TokenCommands = {
  /** `fixed`: a secret chosen by the operator (BOOTSTRAP_TOKEN) instead of a random one. */
  create(actor: Actor | null, input: unknown, fixed?: Secret): Promise<Outcome<TokenResult>>;
  revoke(
    actor: Actor | { readonly organizationId: string; readonly id: typeof SYSTEM_ACTOR_ID },
    input: unknown,
  ): Promise<Outcome<TokenResult>>;
};

const FOLD = { initial: ABSENT_TOKEN, parse: parseEvent.token, evolve: evolveToken };

export function createTokenCommands(context: CommandContext): TokenCommands {
  const { db } = context;

  function decided(
    organizationId: string,
    actorId: string,
    tokenId: string,
    version: number,
    events: readonly TokenEvent[],
    secret?: Secret,
  ): Decision<TokenResult> {
    return {
      streams: [{ organizationId, stream: streamOf.token(tokenId), version, events }],
      effects: writeTokenRow(tokenId, organizationId, actorId, events),
      result: { tokenId },
      subjectId: tokenId,
      ...(secret === undefined ? {} : { secret }),
    };
  }

  return {
    async create(actor, raw, fixed) {
      if (actor !== null) requirePermission(actor, 'tokens:write');
      const input = parseInput(createTokenSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, name, memberId, permissions, expiresAt, idempotencyKey } = input.value;
      if (actor !== null && organizationId !== actor.organizationId)
        return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const secret = fixed ?? newAccessToken(randomBytes(32));
      const actorId = actor?.id ?? SYSTEM_ACTOR_ID;
      const asked: JsonValue = {
        organizationId,
        name,
        memberId,
        permissions: permissions === null ? null : [...permissions],
        expiresAt: expiresAt?.toISOString() ?? null,
      };
      return runCommand<TokenResult>(context, {
        actorId,
        operation: 'createAccessToken',
        input: asked,
        idempotencyKey,
        decide: async (now) => {
          const beyond = await guardReach(db, actor, organizationId, memberId, permissions);
          if (beyond !== null) return beyond;
          const tokenId = await newTokenId(db);
          const tokenHash = accessTokenHash(secret.reveal());
          const command: TokenCommand = { kind: 'issue', tokenId, name, memberId, permissions, expiresAt, tokenHash };
          const events = decideToken(ABSENT_TOKEN, command, now);
          return isRefusal(events) ? events : decided(organizationId, actorId, tokenId, 0, events, secret);
        },
      });
    },
    async revoke(actor, raw) {
      if ('permissions' in actor) requirePermission(actor, 'tokens:write');
      const input = parseInput(revokeTokenSchema, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const { organizationId } = actor;
      return runCommand<TokenResult>(context, {
        actorId: actor.id,
        operation: 'revokeAccessToken',
        input: { id },
        idempotencyKey,
        decide: async (now) => {
          const { state, version } = await loadStream<TokenState, TokenEvent>(db, organizationId, streamOf.token(id), FOLD);
          const events = decideToken(state, { kind: 'revoke' }, now);
          return isRefusal(events) ? events : decided(organizationId, actor.id, id, version, events);
        },
      });
    },
  };
}

/** Nobody hands out more than they hold: a token's permissions are among the issuer's own, and only an owner issues tokens that act as an owner. */
async function guardReach(
  db: Kysely<Tables>,
  actor: Actor | null,
  organizationId: string,
  memberId: string | null,
  permissions: readonly Permission[] | null,
): Promise<Refusal | null> {
  const { state } = await loadOrganization(db, organizationId);
  if (state.kind === 'absent') return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
  const role = memberId === null ? null : state.members.get(memberId);
  if (role === undefined) return refusal('NOT_FOUND', 'There is no such member in your organization', 'memberId');
  if (actor === null) return null;
  const beyond = (permissions ?? (role === null ? [] : permissionsOf(role))).find((permission) => !allows(actor, permission));
  if (beyond !== undefined) throw new ForbiddenError(beyond);
  if (role === 'OWNER' && actor.role !== 'OWNER') throw new ForbiddenError('organization:write');
  return null;
}

async function newTokenId(db: Kysely<Tables>): Promise<string> {
  const { rows } = await sql<{ id: string }>`SELECT uuidv7() AS id`.execute(db);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('The database gave no id for a new access token.');
  return id;
}
