import type { Kysely } from 'kysely';

import { isRefusal } from '../domain/refusals.ts';
import type { Secret } from '../lib/secret.ts';
import type { Tables } from '../postgres/tables.ts';
import type { Outcome } from '../ledger/run-command.ts';
import type { OrganizationCommands } from './organization-commands.ts';
import type { TokenCommands } from './token-commands.ts';

/** `generated`: nobody knows the token yet; otherwise it is the operator's own. */
export type FirstOwner = { readonly organizationId: string; readonly token: Secret; readonly generated: boolean };

const FIRST_ORGANIZATION = 'My organization';

/**
 * On an empty ledger: makes the first organization with an owner and an access token of theirs, `fixed` or random. Null where the ledger is in use.
 * Servers that start at once do it once, by its idempotency keys, and so does a start that was interrupted half-way.
 */
export async function createFirstOwner(
  context: { readonly db: Kysely<Tables>; readonly organizations: OrganizationCommands; readonly tokens: TokenCommands },
  fixed: Secret | undefined,
): Promise<FirstOwner | null> {
  const used = await context.db.selectFrom('access_tokens').select('id').limit(1).executeTakeFirst();
  if (used !== undefined) return null;
  const organization = must(await context.organizations.create(null, { name: FIRST_ORGANIZATION, idempotencyKey: 'first-start' }));
  const { organizationId, memberId } = organization.result;
  const input = { organizationId, memberId, name: 'First owner', idempotencyKey: 'first-start-token' };
  const token = must(await context.tokens.create(null, input, fixed));
  // Another server that starts at the same moment shows it; of two that show it, both show the same.
  return token.secret === null ? null : { organizationId, token: token.secret, generated: fixed === undefined };
}

function must<Result>(outcome: Outcome<Result>) {
  if (isRefusal(outcome)) throw new Error(`The first organization can not be made: ${outcome.message}`);
  return outcome;
}
