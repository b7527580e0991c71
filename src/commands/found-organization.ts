import { randomBytes } from 'node:crypto';
import { sql, type Kysely } from 'kysely';
import { z } from 'zod';

import { ABSENT_TOKEN, decideToken } from '../domain/access-token.ts';
import { SYSTEM_ACTOR_ID, type Actor } from '../domain/actor.ts';
import { streamOf } from '../domain/event.ts';
import { ABSENT_ORGANIZATION, decideOrganization, evolveOrganization } from '../domain/organization.ts';
import { isRefusal } from '../domain/refusals.ts';
import { accessTokenHash, newAccessToken } from '../identity/access-token.ts';
import type { Secret } from '../lib/secret.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import type { Tables } from '../postgres/tables.ts';
import { writeOrganizationRows } from '../projections/organization-row.ts';
import { writeTokenRow } from '../projections/token-row.ts';
import { requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { idempotencyKeySchema } from './key-input.ts';
import { personEffect, personFields, titleSchema } from './person.ts';
import { followMembers } from './personal-keys.ts';

export const createOrganizationSchema = z.strictObject({
  name: titleSchema,
  ownerName: personFields.name,
  ownerEmail: personFields.email,
  team: z
    .boolean()
    .nullish()
    .transform((value) => value ?? false),
  idempotencyKey: idempotencyKeySchema,
});

export type FoundedOrganization = { readonly organizationId: string; readonly memberId: string; readonly tokenId: string };

const TOKEN_NAME = 'First owner';

/**
 * An organization with its first owner and an access token of theirs, which is the outcome's secret: without it nobody could get in. All of it or nothing.
 * `actor` null: the command line or the first start. Otherwise the caller's token must carry `organizations:create`.
 * `fixed`: a token chosen by the operator (BOOTSTRAP_TOKEN) instead of a random one.
 */
export async function foundOrganization(
  context: CommandContext,
  actor: Actor | null,
  raw: unknown,
  fixed?: Secret,
): Promise<Outcome<FoundedOrganization>> {
  if (actor !== null) requirePermission(actor, 'organizations:create');
  const input = parseInput(createOrganizationSchema, raw);
  if (!input.ok) return input.refusal;
  const { name, ownerName, ownerEmail, team, idempotencyKey } = input.value;
  const actorId = actor?.id ?? SYSTEM_ACTOR_ID;
  const secret = fixed ?? newAccessToken(randomBytes(32));
  const tokenHash = accessTokenHash(secret.reveal());
  return runCommand<FoundedOrganization>(context, {
    actorId,
    operation: 'createOrganization',
    input: { name, ownerName, ownerEmail, team },
    idempotencyKey,
    decide: async (now) => {
      const { organizationId, memberId, tokenId, number } = await newIds(context.db);
      const founded = decideOrganization(ABSENT_ORGANIZATION, {
        kind: 'create',
        organizationId,
        number,
        name,
        plan: 'ENTERPRISE',
        team,
        ownerId: memberId,
      });
      if (isRefusal(founded)) return founded;
      const organization = founded.reduce(evolveOrganization, ABSENT_ORGANIZATION);
      if (organization.kind === 'absent') throw new Error('A founded organization is not there.');
      const issue = { kind: 'issue', tokenId, name: TOKEN_NAME, memberId, permissions: null, expiresAt: null, tokenHash } as const;
      const issued = decideToken(ABSENT_TOKEN, issue, now);
      if (isRefusal(issued)) return issued;
      const personal = await followMembers(context.db, { before: ABSENT_ORGANIZATION, after: organization }, founded, now);
      return {
        streams: [
          { organizationId, stream: streamOf.organization(organizationId), version: 0, events: founded },
          { organizationId, stream: streamOf.token(tokenId), version: 0, events: issued },
          ...personal.streams,
        ],
        effects: [
          ...writeOrganizationRows(organization, founded, founded.length),
          ...personEffect(organizationId, memberId, { name: ownerName, email: ownerEmail, oidcSubject: null }),
          ...personal.effects,
          ...writeTokenRow(tokenId, organizationId, actorId, issued),
        ],
        result: { organizationId, memberId, tokenId },
        secret,
        subjectId: tokenId,
      };
    },
  });
}

type NewIds = FoundedOrganization & { readonly number: number };

async function newIds(db: Kysely<Tables>): Promise<NewIds> {
  const { rows } = await sql<NewIds>`
    SELECT uuidv7() AS "organizationId", uuidv7() AS "memberId", uuidv7() AS "tokenId", nextval('organization_numbers')::integer AS number`.execute(
    db,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('The database gave no identity for a new organization.');
  return row;
}
