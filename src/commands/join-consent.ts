import { z } from 'zod';

import type { Actor } from '../domain/actor.ts';
import { refusal, type Refusal } from '../domain/refusals.ts';
import { formatJoinCode, JOIN_CODE_LIFE_MS, readJoinCode, type JoinConsent } from '../identity/join-code.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import { requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { idempotencyKeySchema } from './key-input.ts';
import { loadPerson, personOf } from './personal-keys.ts';

export const createJoinCodeSchema = z.strictObject({ organizationId: z.uuid(), idempotencyKey: idempotencyKeySchema });

export type JoinCodeResult = { readonly expiresAt: string };

/** `createJoinCode`: a member's word that they join another organization, which whoever adds them there has to show; the outcome's secret. Changes nothing. */
export async function createJoinCode(context: CommandContext, actor: Actor, raw: unknown): Promise<Outcome<JoinCodeResult>> {
  requirePermission(actor, 'membership:own');
  const input = parseInput(createJoinCodeSchema, raw);
  if (!input.ok) return input.refusal;
  const { organizationId, idempotencyKey } = input.value;
  return runCommand<JoinCodeResult>(context, {
    actorId: actor.id,
    operation: 'createJoinCode',
    input: { organizationId },
    idempotencyKey,
    decide: async (now) => {
      const personId = actor.kind === 'member' ? await personOf(context.db, actor.organizationId, actor.memberId) : null;
      if (personId === null) return refusal('INVALID_INPUT', 'Only a member of an organization can join another one; a service can not');
      const { person } = await loadPerson(context.db, personId);
      const expiresAt = new Date(now.getTime() + JOIN_CODE_LIFE_MS);
      const secret = formatJoinCode(context.sealingKeys, { personId, organizationId, moves: person.moves, expiresAt });
      return { streams: [], effects: [], result: { expiresAt: expiresAt.toISOString() }, secret };
    },
  });
}

const WORTHLESS = "'joinCode' is no code for this organization, or was used, or is older than an hour; ask the person for a new one";

/** Reads the code that somebody was handed by whom they add. */
export function consentOf(context: CommandContext, code: string, organizationId: string): JoinConsent | Refusal {
  const consent = readJoinCode(context.sealingKeys, code);
  return consent === null || consent.organizationId !== organizationId ? refusal('INVALID_INPUT', WORTHLESS, 'joinCode') : consent;
}

/** Whether a consent holds at the moment of the decision: null where it does. */
export async function refuseStaleConsent({ db }: CommandContext, consent: JoinConsent, now: Date): Promise<Refusal | null> {
  const { person } = await loadPerson(db, consent.personId);
  const holds = consent.expiresAt > now && consent.moves === person.moves;
  return holds ? null : refusal('INVALID_INPUT', WORTHLESS, 'joinCode');
}
