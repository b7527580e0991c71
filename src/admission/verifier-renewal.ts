import { sql, type Kysely } from 'kysely';

import type { Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { isImportedVerifier, matchesImported } from '../identity/imported-verifier.ts';
import { fastVerifier, type Peppers } from '../identity/pepper.ts';
import type { Tables } from '../postgres/tables.ts';
import { AdmissionUnavailableError } from './admission.ts';
import type { Asked } from './admit-batch.ts';

export type VerifierRenewal = {
  /**
   * For a key whose fast verifier was made with another pepper than the current one, or that was imported and has none yet: checks the secret by that pepper,
   * or by the durable verifier where there is none, and writes the fast verifier anew. Throws AdmissionUnavailableError where too many wait for argon2id.
   */
  renew(asked: Asked, other: { readonly pepperId: string; readonly argon2: string }): Promise<'renewed' | 'wrong-secret'>;
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
  async function isRenewed(asked: Asked): Promise<boolean> {
    const rows = await db.selectFrom('key_verifiers').select('pepper_id').where(presentedBy(asked)).execute();
    return rows.some((row) => row.pepper_id === peppers.current.id);
  }

  /** A secret that was made elsewhere is found by its hash; where several organizations imported it, the durable verifier tells whose is meant. */
  function presentedBy({ lookupId, foreignHash }: Asked) {
    return foreignHash === null
      ? sql<boolean>`lookup_id = ${lookupId}`
      : sql<boolean>`lookup_id IN (SELECT s.lookup_id FROM imported_secrets s WHERE s.hash = ${foreignHash}::bytea)`;
  }

  return {
    async renew(asked, { pepperId, argon2: durable }) {
      // Conditions on what was read: a secret that was regenerated meanwhile is left alone.
      const update = db
        .updateTable('key_verifiers')
        .set({ mac: asked.mac, pepper_id: peppers.current.id })
        .where(presentedBy(asked))
        .where('pepper_id', '=', pepperId)
        .where('argon2', '=', durable);
      const pepper = peppers.get(pepperId);
      if (pepper !== undefined) {
        const { numUpdatedRows } = await update.where('mac', '=', fastVerifier(pepper, asked.request.key)).executeTakeFirst();
        return numUpdatedRows === 1n || (await isRenewed(asked)) ? 'renewed' : 'wrong-secret';
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
