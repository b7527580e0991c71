import { sql, type RawBuilder } from 'kysely';

import { allows, type Actor } from '../domain/actor.ts';

/** Whether a caller sees every key of its organization, personal keys of others included. */
export function seesAllKeys(actor: Actor): boolean {
  return allows(actor, 'keys:write') || actor.role === 'AUDITOR';
}

/** The keys, as `k`, that a caller may see: of its own organization, and of personal keys only its own unless it manages keys or audits. */
export function visible(actor: Actor): RawBuilder<boolean> {
  const own = sql<boolean>`k.organization_id = ${actor.organizationId}::uuid`;
  if (seesAllKeys(actor)) return own;
  const memberId = actor.kind === 'member' ? actor.memberId : null;
  return sql<boolean>`${own} AND (k.owner_id IS NULL OR k.owner_id = ${memberId}::uuid)`;
}
