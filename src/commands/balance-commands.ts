import { z } from 'zod';

import { SYSTEM_ACTOR_ID, type Actor } from '../domain/actor.ts';
import { streamOf } from '../domain/event.ts';
import { decideOrganization, evolveOrganization, type OrganizationCommand } from '../domain/organization.ts';
import { isRefusal } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import { writeOrganizationRows } from '../projections/organization-row.ts';
import { requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { idempotencyKeySchema } from './key-input.ts';
import { loadOrganization } from './organization-commands.ts';

/** A thousand million of the currency at once: more is a slip of the hand. */
const MAX_FUNDS_MICROS = 1_000_000_000_000_000;

const fundsFault = `give a whole number of micros from 1 to ${MAX_FUNDS_MICROS}`;
const funds = z.int(fundsFault).min(1, fundsFault).max(MAX_FUNDS_MICROS, fundsFault);

export const enableBalanceSchema = z.strictObject({
  organizationId: z.uuid(),
  fundsMicros: funds.nullish().transform((value) => value ?? null),
  idempotencyKey: idempotencyKeySchema,
});
export const disableBalanceSchema = z.strictObject({ organizationId: z.uuid(), idempotencyKey: idempotencyKeySchema });
export const addFundsSchema = z.strictObject({ organizationId: z.uuid(), micros: funds, idempotencyKey: idempotencyKeySchema });

export type BalanceResult = { readonly organizationId: string };

/** Prepaid balances of any organization: for the operator, by a token that carries `balance:write`, or the command line (`actor` null). */
export type BalanceCommands = {
  /** From here on usage is charged. A balance that exists already stays as it is. */
  enable(actor: Actor | null, input: unknown): Promise<Outcome<BalanceResult>>;
  /** From here on nothing is charged and nothing refused for want of funds. What was left counts no more: enabled again, it begins anew. */
  disable(actor: Actor | null, input: unknown): Promise<Outcome<BalanceResult>>;
  addFunds(actor: Actor | null, input: unknown): Promise<Outcome<BalanceResult>>;
};

export function createBalanceCommands(context: CommandContext): BalanceCommands {
  function change(
    actor: Actor | null,
    organizationId: string,
    request: { readonly operation: string; readonly input: JsonValue; readonly idempotencyKey: Secret | null },
    command: OrganizationCommand,
  ): Promise<Outcome<BalanceResult>> {
    return runCommand<BalanceResult>(context, {
      actorId: actor?.id ?? SYSTEM_ACTOR_ID,
      ...request,
      decide: async () => {
        const { state, version } = await loadOrganization(context.db, organizationId);
        const events = decideOrganization(state, command);
        if (isRefusal(events)) return events;
        const next = events.reduce(evolveOrganization, state);
        if (next.kind === 'absent') throw new Error('A decided balance command left no organization.');
        return {
          streams: [{ organizationId, stream: streamOf.organization(organizationId), version, events }],
          effects: writeOrganizationRows(next, events, version + events.length),
          result: { organizationId },
        };
      },
    });
  }

  return {
    async enable(actor, raw) {
      if (actor !== null) requirePermission(actor, 'balance:write');
      const input = parseInput(enableBalanceSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, fundsMicros, idempotencyKey } = input.value;
      const request = { operation: 'enableBalance', input: { organizationId, fundsMicros }, idempotencyKey };
      return change(actor, organizationId, request, { kind: 'enable-balance', fundsMicros });
    },
    async disable(actor, raw) {
      if (actor !== null) requirePermission(actor, 'balance:write');
      const input = parseInput(disableBalanceSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, idempotencyKey } = input.value;
      const request = { operation: 'disableBalance', input: { organizationId }, idempotencyKey };
      return change(actor, organizationId, request, { kind: 'disable-balance' });
    },
    async addFunds(actor, raw) {
      if (actor !== null) requirePermission(actor, 'balance:write');
      const input = parseInput(addFundsSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, micros, idempotencyKey } = input.value;
      const request = { operation: 'addFunds', input: { organizationId, micros }, idempotencyKey };
      return change(actor, organizationId, request, { kind: 'add-funds', micros });
    },
  };
}
