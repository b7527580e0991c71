import type { ObjectFieldsShape } from '@pothos/core';

import type { BalanceResult } from '../commands/balance-commands.ts';
import type { Done } from '../ledger/run-command.ts';
import { readBalance, type Balance } from '../projections/read-balance.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';
import { decimalOfMicros } from './usage.ts';

type BalanceDone = Done<BalanceResult>;

/** `Organization.balance`, and the operator's mutations on it. */
export function addBalance(builder: Builder, types: TypeRefs, refusals: RefusalTypes): void {
  const balance = builder.objectRef<Balance>('Balance').implement({
    description: 'Prepaid: all funds that were added less what usage has cost since.',
    fields: (t) => ({
      micros: t.float({
        description: 'Millionths of the currency, a whole number, exact up to 2^53; below zero where usage cost more than was left.',
        resolve: ({ micros }) => Number(micros),
      }),
      amount: t.string({ description: 'The same as a decimal text with six places.', resolve: ({ micros }) => decimalOfMicros(micros) }),
      suspended: t.exposeBoolean('suspended', {
        description: 'At 0.05 or below every key is refused with INSUFFICIENT_BALANCE, until funds are added.',
      }),
    }),
  });
  builder.objectField(types.organization, 'balance', (t) =>
    t.field({
      type: balance,
      nullable: true,
      authScopes: { permission: 'organization:read' },
      description: 'Null where the organization keeps none, and nothing is charged.',
      resolve: ({ id }, _args, { deps }) => readBalance(deps.database.kysely, id),
    }),
  );
  const payload: ObjectFieldsShape<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>, BalanceDone> = (t) => ({
    organizationId: t.id({
      description: 'Global id. Only its own members can look into it.',
      resolve: ({ result }) => encodeGlobalId('Organization', result.organizationId),
    }),
    balance: t.field({
      type: balance,
      nullable: true,
      description: 'As it is now.',
      resolve: ({ result }, _args, { deps }) => readBalance(deps.database.kysely, result.organizationId),
    }),
  });
  addMutation<BalanceDone>(builder, refusals, {
    name: 'enableBalance',
    description:
      'Gives any organization a prepaid balance: from here on its usage is charged, and its keys pass while more than 0.05 is left. No role may do this: a token is given `balance:write` by name.',
    permissions: ['balance:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      fundsMicros: t.float({ description: 'Its first funds, so that no key is refused meanwhile.' }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload,
    run: (actor, input, { deps }) => deps.balances.enable(actor, input),
  });
  addMutation<BalanceDone>(builder, refusals, {
    name: 'disableBalance',
    description:
      'Takes the balance of any organization away: nothing is charged any more, and no key is refused for want of funds. What was left counts no more; enabled again, it begins anew. For tokens that carry `balance:write`.',
    permissions: ['balance:write'],
    input: (t) => ({ organizationId: t.id({ required: true }) }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload,
    run: (actor, input, { deps }) => deps.balances.disable(actor, input),
  });
  addMutation<BalanceDone>(builder, refusals, {
    name: 'addFunds',
    description: 'Adds to the balance of any organization; with an idempotency key never twice. For tokens that carry `balance:write`.',
    permissions: ['balance:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      micros: t.float({ required: true, description: 'Millionths of the currency, a whole number above 0.' }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload,
    run: (actor, input, { deps }) => deps.balances.addFunds(actor, input),
  });
}
