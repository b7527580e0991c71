import { sql, type Kysely } from 'kysely';

import { repeat, type Loop } from '../lib/repeat.ts';
import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import type { KeyCommands } from './key-commands.ts';

const BATCH = 100;

export type ExpiryOptions = {
  readonly database: Database;
  readonly keys: Pick<KeyCommands, 'expire'>;
  readonly intervalMs: number;
  readonly onError: (error: Error) => void;
};

/**
 * Appends `Expired` to keys whose moment has come, soon after it. Verification doesn't wait for this: it reads the moment itself. Any number of servers
 * run the loop; the version of the key's stream lets one of them append, and the others then find it done.
 */
export function createExpiryLoop({ database, keys, intervalMs, onError }: ExpiryOptions): Loop {
  return repeat({ intervalMs, onError, work: (signal) => expireDueKeys(database.kysely, keys, { signal, onError }) });
}

/** One round: every key that is due now. A key that can't be expired is reported and doesn't hold up the others. */
export async function expireDueKeys(
  db: Kysely<Tables>,
  keys: Pick<KeyCommands, 'expire'>,
  { signal, onError }: { readonly signal?: AbortSignal; readonly onError: (error: Error) => void },
): Promise<void> {
  let after = { at: '-infinity', id: '00000000-0000-0000-0000-000000000000' };
  for (;;) {
    const due = await db
      .selectFrom('api_keys')
      .select(['id', 'organization_id', sql<string>`expires_at::text`.as('due_at')]) // as text: a Date would cut the microseconds off
      .where('expires_at', '<=', sql<Date>`(SELECT ledger_now())`)
      .where('expired_event', '=', false)
      .where('state', '<>', 'deleted')
      .where(sql<boolean>`(expires_at, id) > (${after.at}::timestamptz, ${after.id}::uuid)`)
      .orderBy('expires_at')
      .orderBy('id')
      .limit(BATCH)
      .execute();
    for (const key of due) {
      if (signal?.aborted === true) return;
      try {
        await keys.expire(key.organization_id, key.id);
      } catch (error) {
        onError(new Error(`Key ${key.id} has expired, but its Expired event could not be appended.`, { cause: error }));
      }
    }
    const last = due.at(-1);
    if (last === undefined || due.length < BATCH) return;
    after = { at: last.due_at, id: last.id };
  }
}
