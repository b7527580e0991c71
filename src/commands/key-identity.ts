import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';

/** UUIDv7, so that neighbours in time are neighbours in the index, and the small number that usage rows carry. */
export type KeyIdentity = { readonly keyId: string; readonly number: number };

export async function newKeyIdentity(db: Kysely<Tables>): Promise<KeyIdentity> {
  const [identity] = await newKeyIdentities(db, 1);
  if (identity === undefined) throw new Error('The database gave no identity for a new key.');
  return identity;
}

export async function newKeyIdentities(db: Kysely<Tables>, count: number): Promise<readonly KeyIdentity[]> {
  const { rows } = await sql<KeyIdentity>`
    SELECT uuidv7() AS "keyId", nextval('api_key_numbers')::integer AS number FROM generate_series(1, ${count}::integer)`.execute(db);
  return rows;
}
