import type { Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import { UsageError } from './command.ts';

const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/** The organization of that id or name; where none is given, the only one there is. Throws {@link UsageError} where that is not one. */
export async function findOrganization(db: Kysely<Tables>, given: string | undefined): Promise<string> {
  let query = db.selectFrom('organizations').select(['id', 'name']).orderBy('created_at').limit(10);
  if (given !== undefined) query = isUuid(given) ? query.where('id', '=', given) : query.where('name', '=', given);
  const found = await query.execute();
  const [only] = found;
  if (only !== undefined && found.length === 1) return only.id;
  if (only === undefined) {
    throw new UsageError(
      given === undefined
        ? 'There is no organization yet. Make one with: keyledger bootstrap --organization NAME'
        : `There is no organization ${JSON.stringify(given)}.`,
    );
  }
  throw new UsageError(
    `There are several organizations; say which with --organization ID: ${found.map(({ id, name }) => `${id} (${name})`).join(', ')}`,
  );
}
