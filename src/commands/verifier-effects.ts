import { sql, type RawBuilder } from 'kysely';

import type { KeyEvent } from '../domain/event.ts';
import type { Effect } from '../ledger/append.ts';
import type { KeyIdentity } from './key-identity.ts';
import type { MintedSecret } from './mint-secret.ts';

/** What an event does to a key's verifiers, in the statement that appends it. */
export function verifierEffects(key: KeyIdentity, event: KeyEvent, minted: MintedSecret | undefined): readonly Effect[] {
  const { keyId } = key;
  switch (event.type) {
    case 'KeyCreated':
      return [newVerifier(key, minted, sql`appended`)];
    case 'Regenerated': {
      // The insert reads from the statement that retires the old secret, so that it runs after it: only one verifier a key is current.
      const retire =
        event.data.overlapUntil === null
          ? sql`DELETE FROM key_verifiers USING appended WHERE key_id = ${keyId}::uuid RETURNING 1`
          : sql`
              UPDATE key_verifiers SET current = false, expires_at = ${event.data.overlapUntil}::timestamptz
              FROM appended WHERE key_id = ${keyId}::uuid AND current RETURNING 1`;
      return [
        { name: 'retired_verifiers', statement: retire },
        newVerifier(key, minted, sql`appended, (SELECT count(*) FROM retired_verifiers) AS retired`),
      ];
    }
    case 'Deleted':
      return [
        { name: 'erased_verifiers', statement: sql`DELETE FROM key_verifiers USING appended WHERE key_id = ${keyId}::uuid` },
        {
          name: 'erased_secrets',
          statement: sql`UPDATE idempotency SET sealed_secret = NULL FROM appended WHERE subject_id = ${keyId}::uuid AND sealed_secret IS NOT NULL`,
        },
      ];
    case 'KeyImported':
    case 'VerifierReplaced':
      throw new Error(`${event.type} is appended by src/commands/import-commands.ts alone.`);
    case 'Updated':
    case 'Activated':
    case 'Deactivated':
    case 'Expired':
    case 'Archived':
    case 'Restored':
      return [];
  }
  return event satisfies never;
}

function newVerifier(key: KeyIdentity, minted: MintedSecret | undefined, from: RawBuilder<unknown>): Effect {
  if (minted === undefined) throw new Error('A new secret was decided on without one having been made.');
  const statement = sql`
    INSERT INTO key_verifiers (lookup_id, key_id, key, argon2, pepper_id, mac, current, created_at)
    SELECT ${minted.facts.lookupId}, ${key.keyId}::uuid, ${key.number}::integer, ${minted.argon2}, ${minted.pepperId}, ${minted.mac}::bytea, true, appended.recorded_at FROM ${from}`;
  return { name: 'new_verifier', statement };
}
