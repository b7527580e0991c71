import type { Kysely } from 'kysely';

import { isRefusal } from '../domain/refusals.ts';
import type { Secret } from '../lib/secret.ts';
import type { Tables } from '../postgres/tables.ts';
import type { OrganizationCommands } from './organization-commands.ts';

/** `generated`: nobody knows the token yet; otherwise it is the operator's own. */
export type FirstOwner = { readonly organizationId: string; readonly token: Secret; readonly generated: boolean };

const FIRST_ORGANIZATION = 'My organization';

/**
 * On an empty ledger: makes the first organization with an owner and an access token of theirs, `fixed` or random. Null where the ledger is in use.
 * Servers that start at once do it once, by its idempotency key.
 */
export async function createFirstOwner(
  context: { readonly db: Kysely<Tables>; readonly organizations: OrganizationCommands },
  fixed: Secret | undefined,
): Promise<FirstOwner | null> {
  const used = await context.db.selectFrom('access_tokens').select('id').limit(1).executeTakeFirst();
  if (used !== undefined) return null;
  const founded = await context.organizations.create(null, { name: FIRST_ORGANIZATION, idempotencyKey: 'first-start' }, fixed);
  if (isRefusal(founded)) throw new Error(`The first organization can not be made: ${founded.message}`);
  // Another server that starts at the same moment shows it; of two that show it, both show the same.
  const { organizationId } = founded.result;
  return founded.secret === null ? null : { organizationId, token: founded.secret, generated: fixed === undefined };
}
