import { sql, type Kysely } from 'kysely';

import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';

/** A profile as GraphQL shows it. */
export type ProfileRow = {
  readonly id: string;
  readonly organization_id: string;
  readonly name: string;
  readonly settings: JsonValue;
  readonly created_at: Date;
  readonly created_by: string;
};

const COLUMNS = ['id', 'organization_id', 'name', 'settings', 'created_at', 'created_by'] as const;

/** An organization's profiles by their uuids, in that order; null for what is not there. */
export async function loadProfiles(
  db: Kysely<Tables>,
  organizationId: string,
  ids: readonly string[],
): Promise<readonly (ProfileRow | null)[]> {
  const rows = await db
    .selectFrom('profiles')
    .select(COLUMNS)
    .where('organization_id', '=', organizationId)
    .where('id', '=', sql<string>`ANY(${[...ids]}::uuid[])`)
    .execute();
  const found = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id) => found.get(id) ?? null);
}

/** A page of an organization's profiles; their ids are UUIDv7, so that their order is that of creation. */
export function listProfiles(db: Kysely<Tables>, organizationId: string, after: string, limit: number): Promise<readonly ProfileRow[]> {
  return db
    .selectFrom('profiles')
    .select(COLUMNS)
    .where('organization_id', '=', organizationId)
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute();
}
