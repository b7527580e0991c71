import type { Kysely } from 'kysely';

import { databaseNow } from '../ledger/run-command.ts';
import { readLog } from '../ledger/read.ts';
import type { AsOf } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { badUserInput } from './client-error.ts';

type Asked = { readonly position?: bigint | null | undefined; readonly at?: Date | null | undefined };

/** What to fold up to, and the moment that it was: of a position, when its event was recorded. One that the log has not come to is the present: all that there is lies before it. */
export async function momentOf(db: Kysely<Tables>, { position, at }: Asked): Promise<{ readonly asOf: AsOf; readonly moment: Date }> {
  if (at != null && position == null) return { asOf: { at }, moment: at };
  if (position == null || at != null) throw badUserInput("'asOf' takes either a 'position' or a moment 'at'.");
  const [entry] = position === 0n ? [] : await readLog(db, {}, { after: position - 1n, upTo: position, limit: 1 });
  return { asOf: { position }, moment: entry?.recordedAt ?? (await databaseNow(db)) };
}
