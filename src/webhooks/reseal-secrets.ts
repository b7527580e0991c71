import { sql, type Kysely } from 'kysely';

import type { Peppers } from '../identity/pepper.ts';
import type { Tables } from '../postgres/tables.ts';
import { sealWebhookSecret, SecretSealedError, unsealWebhookSecret } from './webhook-secret.ts';

const BATCH = 100;

/**
 * Seals under the current pepper what is still sealed under an older one, after which that one is needed no more. What can't be opened is reported and stays
 * as it is. Run by each server at its start; two at once do the same work twice and no harm.
 */
export async function resealWebhookSecrets(db: Kysely<Tables>, peppers: Peppers, onError: (error: Error) => void): Promise<void> {
  let after = { endpoint_id: '00000000-0000-0000-0000-000000000000', fingerprint: '' };
  for (;;) {
    const rows = await db
      .selectFrom('webhook_secrets')
      .select(['endpoint_id', 'fingerprint', 'pepper_id', 'sealed'])
      .where('pepper_id', '<>', peppers.current.id)
      .where(sql<boolean>`(endpoint_id, fingerprint) > (${after.endpoint_id}::uuid, ${after.fingerprint})`)
      .orderBy('endpoint_id')
      .orderBy('fingerprint')
      .limit(BATCH)
      .execute();
    for (const row of rows) {
      try {
        const secret = unsealWebhookSecret(peppers, row.endpoint_id, {
          fingerprint: row.fingerprint,
          pepperId: row.pepper_id,
          sealed: row.sealed,
        });
        const { pepperId, sealed } = sealWebhookSecret(peppers, row.endpoint_id, secret);
        await db
          .updateTable('webhook_secrets')
          .set({ pepper_id: pepperId, sealed })
          .where('endpoint_id', '=', row.endpoint_id)
          .where('fingerprint', '=', row.fingerprint)
          .where('pepper_id', '=', row.pepper_id)
          .execute();
      } catch (error) {
        if (!(error instanceof SecretSealedError)) throw error;
        onError(new Error(`Webhook endpoint ${row.endpoint_id}: ${error.message}`, { cause: error }));
      }
    }
    const last = rows.at(-1);
    if (last === undefined || rows.length < BATCH) return;
    after = last;
  }
}
