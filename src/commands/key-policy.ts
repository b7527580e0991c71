import { sql, type Kysely } from 'kysely';

import { streamOf } from '../domain/event.ts';
import type { DeletionPolicy } from '../domain/organization-settings.ts';
import type { DecidedOn } from '../ledger/append.ts';
import type { Tables } from '../postgres/tables.ts';

/** What an organization's settings say about its keys, at one version of its stream. */
export type KeyPolicy = {
  readonly deletion: DeletionPolicy;
  /** What PUBLIC keys may carry; null: anything. */
  readonly publicPermissions: readonly string[] | null;
  /** Keys created and regenerated per actor in any hour; 0 for no limit, null: as the server is configured. */
  readonly keyOperationsPerHour: number | null;
  /** To be handed to the append, so that no change of the settings comes in between. */
  readonly decidedOn: DecidedOn['streams'];
};

/** Reads what is kept of the settings in the statement that appends: the row is never behind its stream. */
export async function readKeyPolicy(db: Kysely<Tables>, organizationId: string): Promise<KeyPolicy> {
  const row = await db
    .selectFrom('organizations')
    .select(['deletion_policy', 'public_key_permissions', 'key_operations_per_hour', 'version'])
    .where('id', '=', organizationId)
    .executeTakeFirstOrThrow(() => new Error(`The organization ${organizationId} of a key does not exist.`));
  return {
    deletion: row.deletion_policy,
    publicPermissions: row.public_key_permissions,
    keyOperationsPerHour: row.key_operations_per_hour,
    decidedOn: [{ stream: streamOf.organization(organizationId), version: row.version }],
  };
}

/** The limit on key operations that holds for an organization; null for none. */
export function operationsUnder(policy: KeyPolicy, configured: number | null): number | null {
  const { keyOperationsPerHour: own } = policy;
  return own === null ? configured : own === 0 ? null : own;
}

/** Whether a key was ever let through or reported as used, up to a position of the log: both of one snapshot. */
export async function readUse(db: Kysely<Tables>, keyNumber: number): Promise<{ readonly used: boolean; readonly upTo: bigint }> {
  const { rows } = await sql<{ used: boolean; up_to: bigint }>`
    SELECT head_position() AS up_to, EXISTS (SELECT FROM usage_events u WHERE u.key = ${keyNumber}::integer AND u.code = 0) AS used`.execute(
    db,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('The database did not say whether a key was used.');
  return { used: row.used, upTo: row.up_to };
}
