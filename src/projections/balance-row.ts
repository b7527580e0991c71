import { sql } from 'kysely';

import type { OrganizationEvent } from '../domain/event.ts';
import type { Effect } from '../ledger/append.ts';

/**
 * The effects of switching a balance on and off and of adding funds, in the statement that appends: it holds the log's lock by then, so where a report of usage has
 * changed the row since the statement began, Postgres goes on from what that left.
 */
export function writeBalance(organizationNumber: number, events: readonly OrganizationEvent[]): readonly Effect[] {
  const added = events.reduce((sum, event) => (event.type === 'FundsAdded' ? sum + event.data.micros : sum), 0);
  if (events.some((event) => event.type === 'BalanceEnabled')) {
    const statement = sql`INSERT INTO balances (organization, micros) SELECT ${organizationNumber}::integer, ${added}::bigint FROM appended`;
    return [{ name: 'new_balance', statement }];
  }
  if (events.some((event) => event.type === 'BalanceDisabled')) {
    const statement = sql`DELETE FROM balances USING appended WHERE organization = ${organizationNumber}::integer`;
    return [{ name: 'no_balance', statement }];
  }
  if (added === 0) return [];
  const statement = sql`UPDATE balances SET micros = micros + ${added}::bigint FROM appended WHERE organization = ${organizationNumber}::integer`;
  return [{ name: 'balance', statement }];
}

/** The effect that lets a statement fail with KL002 where the organization keeps a balance and it is zero or below, also by usage that was settled this very moment. */
export function requireFunds(organizationId: string): Effect {
  const statement = sql`
    UPDATE balances SET micros = funded(micros) FROM appended WHERE organization = (SELECT number FROM organizations WHERE id = ${organizationId}::uuid)`;
  return { name: 'funds', statement };
}
