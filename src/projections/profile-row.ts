import { sql } from 'kysely';

import type { ProfileEvent } from '../domain/event.ts';
import type { ProfileState } from '../domain/profile.ts';
import { canonicalJson } from '../lib/canonical-json.ts';
import type { Effect } from '../ledger/append.ts';
import { foldName } from './key-row.ts';

/** The row of `profiles` that a state folds to, without what only the envelope of its events knows. */
export function profileRow({ profileId, name, settings }: Exclude<ProfileState, { kind: 'absent' }>) {
  return { id: profileId, name, name_folded: foldName(name), settings: canonicalJson(settings) } as const;
}

/**
 * The effect that writes a profile's row, or removes it, in the statement that appends. Removing one that keys have fails with 23503 on `api_keys_profile`, a
 * name that another profile has with 23505 on `profiles_name`.
 */
export function writeProfileRow(
  state: Exclude<ProfileState, { kind: 'absent' }>,
  events: readonly ProfileEvent[],
  { organizationId, actorId, version }: { readonly organizationId: string; readonly actorId: string; readonly version: number },
): readonly Effect[] {
  if (events.length === 0) return [];
  const row = profileRow(state);
  const statement =
    state.kind === 'deleted'
      ? sql`DELETE FROM profiles USING appended WHERE id = ${row.id}::uuid AND organization_id = ${organizationId}::uuid`
      : sql`
        INSERT INTO profiles (id, organization_id, name, name_folded, settings, created_at, created_by, version)
        SELECT ${row.id}::uuid, ${organizationId}::uuid, ${row.name}, ${row.name_folded}, ${row.settings}::json, appended.recorded_at, ${actorId}, ${version}::integer
        FROM appended
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, name_folded = excluded.name_folded, settings = excluded.settings, version = excluded.version`;
  return [{ name: 'profile_row', statement }];
}
