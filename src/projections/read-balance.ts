import type { Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';

export type Balance = {
  readonly micros: bigint;
  /** So little is left that no key of the organization passes. */
  readonly suspended: boolean;
};

/** An organization's balance as of now; null where it keeps none. */
export async function readBalance(db: Kysely<Tables>, organizationId: string): Promise<Balance | null> {
  const row = await db
    .selectFrom('balances')
    .innerJoin('organizations', 'organizations.number', 'balances.organization')
    .select(['balances.micros', 'balances.suspended'])
    .where('organizations.id', '=', organizationId)
    .executeTakeFirst();
  return row ?? null;
}
