import type { Kysely } from 'kysely';

import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { isImportedVerifier, matchesImported } from '../identity/imported-verifier.ts';
import { fastVerifier, sameMac, type Peppers } from '../identity/pepper.ts';
import type { Tables } from '../postgres/tables.ts';
import { AdmissionUnavailableError } from './admission.ts';
import type { Asked } from './asked.ts';

export type VerifierRenewal = {
  /**
   * For a key whose fast verifier was made with another pepper than the current one, or that was imported and has none yet: checks the secret by that pepper,
   * or by the durable verifier where there is none, and writes the fast verifier anew. Throws AdmissionUnavailableError where too many wait for argon2id.
   */
  renew(asked: Asked, lookupId: string): Promise<'renewed' | 'wrong-secret'>;
};

export function createVerifierRenewal({
  db,
  peppers,
  argon2,
}: {
  readonly db: Kysely<Tables>;
  readonly peppers: Peppers;
  readonly argon2: Argon2Verifiers;
}): VerifierRenewal {
  async function read(lookupId: string) {
    return db.selectFrom('key_verifiers').select(['mac', 'pepper_id', 'argon2']).where('lookup_id', '=', lookupId).executeTakeFirst();
  }

  return {
    async renew(asked, lookupId) {
      const verifier = await read(lookupId);
      if (verifier === undefined) return 'wrong-secret';
      const { mac, pepper_id: pepperId, argon2: durable } = verifier;
      if (pepperId === peppers.current.id) return 'renewed';
      // Conditions on what was read: a secret that was regenerated meanwhile is left alone.
      const update = db
        .updateTable('key_verifiers')
        .set({ mac: Buffer.from(asked.mac, 'hex'), pepper_id: peppers.current.id })
        .where('lookup_id', '=', lookupId)
        .where('pepper_id', '=', pepperId)
        .where('argon2', '=', durable);
      const pepper = peppers.get(pepperId);
      if (pepper !== undefined) {
        if (!sameMac(mac.toString('hex'), fastVerifier(pepper, asked.request.key))) return 'wrong-secret';
        await update.execute();
        return 'renewed';
      }
      if (isImportedVerifier(durable)) {
        if (!matchesImported(durable, asked.request.key)) return 'wrong-secret';
        await update.execute();
        return 'renewed';
      }
      const verdict = await argon2.verify(durable, asked.request.key);
      switch (verdict) {
        case 'match':
          await update.execute();
          return 'renewed';
        case 'mismatch':
          return 'wrong-secret';
        case 'busy':
          throw new AdmissionUnavailableError('Too many keys are being checked for the first time after a change of pepper; try again.', {
            retryAfterSeconds: 1,
          });
      }
      return verdict satisfies never;
    },
  };
}
