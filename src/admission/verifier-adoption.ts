import { sql, type Kysely } from 'kysely';

import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { isImportedVerifier } from '../identity/imported-verifier.ts';
import { Secret } from '../lib/secret.ts';
import type { Tables } from '../postgres/tables.ts';
import type { KeyFacts } from './key-facts.ts';

/** Keys whose verifiers were looked at, and keys that wait; beyond these numbers a later use of the key brings it up again. */
const REMEMBERED = 100_000;
const WAITING = 10_000;

export type VerifierReplacement = {
  readonly organizationId: string;
  readonly keyId: string;
  readonly lookupId: string;
  /** The durable verifiers themselves; the log gets their fingerprints. */
  readonly from: string;
  readonly to: string;
};
export type ReplaceVerifier = (replacement: VerifierReplacement) => Promise<void>;

export type VerifierAdoption = {
  /** A secret that was made elsewhere was right: sees to it, in the background, that it gets an argon2id verifier if it has none. */
  consider(secretText: string, hash: Buffer, key: KeyFacts): void;
  close(): Promise<void>;
};

type Waiting = { readonly secret: Secret; readonly hash: Buffer; readonly key: KeyFacts };

/**
 * Gives imported secrets the durable verifier that all others have, one after the other: argon2 is slow on purpose. What a server that ends has not got to is taken up
 * when the key is used again; until then its SHA-256 stands in.
 */
export function createVerifierAdoption(options: {
  readonly db: Kysely<Tables>;
  readonly argon2: Argon2Verifiers;
  readonly replace: ReplaceVerifier;
  readonly onError: (error: Error) => void;
}): VerifierAdoption {
  const { db, argon2, replace, onError } = options;
  const closing = new AbortController();
  const seen = new Set<number>();
  const waiting = new Map<number, Waiting>();
  let working: Promise<void> | undefined;

  async function adopt({ secret, hash, key }: Waiting): Promise<void> {
    const { rows } = await sql<{ lookup_id: string; argon2: string }>`
      SELECT v.lookup_id, v.argon2 FROM imported_secrets s JOIN key_verifiers v ON v.lookup_id = s.lookup_id
      WHERE s.hash = ${hash}::bytea AND s.organization_id = ${key.organizationId}::uuid AND v.key = ${key.number}::integer AND v.current`.execute(
      db,
    );
    const row = rows[0];
    if (row === undefined || !isImportedVerifier(row.argon2)) return;
    const to = await argon2.hash(secret.reveal(), closing.signal);
    await replace({ organizationId: key.organizationId, keyId: key.id, lookupId: row.lookup_id, from: row.argon2, to });
  }

  async function work(): Promise<void> {
    for (const [number, one] of waiting) {
      if (closing.signal.aborted) return;
      try {
        await adopt(one);
      } catch (error) {
        seen.delete(number);
        if (closing.signal.aborted) return;
        onError(new Error('An imported key could not be given an argon2id verifier; its next use tries again.', { cause: error }));
      } finally {
        waiting.delete(number);
      }
    }
  }

  function begin(): void {
    working ??= work().finally(() => {
      working = undefined;
      // What came after the last look at the list.
      if (waiting.size > 0 && !closing.signal.aborted) begin();
    });
  }

  return {
    consider(secretText, hash, key) {
      if (closing.signal.aborted || seen.has(key.number) || waiting.size >= WAITING) return;
      if (seen.size >= REMEMBERED) seen.clear();
      seen.add(key.number);
      waiting.set(key.number, { secret: new Secret(secretText), hash, key });
      begin();
    },
    async close() {
      closing.abort();
      await working;
    },
  };
}
