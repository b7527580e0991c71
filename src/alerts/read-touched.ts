import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { LogPage } from './follow-log-pages.ts';

/** What a page of the log is about. By object and not by event: a busy key costs one look a page. */
export type Touched = {
  /** Numbers of the keys that were used, and of the organizations that they belong to. */
  readonly usedKeys: readonly number[];
  readonly usedOrganizations: readonly number[];
  /** Ids of the keys that were made or changed. */
  readonly changedKeys: readonly string[];
  /** Ids of the organizations whose rules were changed, and with them what every key of theirs raises. */
  readonly ruledOrganizations: readonly string[];
};

/** Reads a page once for all that look at it, in plain statements: they run many times a second, and their planning costs as much as their work. */
export async function readTouched(db: Kysely<Tables>, { after, upTo }: LogPage): Promise<Touched> {
  const { rows } = await sql<Touched>`
    SELECT coalesce(u.keys, '{}') AS "usedKeys", coalesce(u.organizations, '{}') AS "usedOrganizations",
           coalesce(e.keys, '{}') AS "changedKeys", coalesce(e.organizations, '{}') AS "ruledOrganizations"
    FROM (
      SELECT array_agg(DISTINCT key) AS keys, array_agg(DISTINCT organization) AS organizations FROM usage_events
      WHERE position > ${after}::bigint AND position <= ${upTo}::bigint) AS u
    CROSS JOIN (
      SELECT array_agg(DISTINCT substr(stream, 5)) FILTER (WHERE type IN ('KeyCreated', 'KeyImported', 'Updated', 'Activated')) AS keys,
             array_agg(DISTINCT organization_id::text) FILTER (WHERE type IN ('AlertRuleSet', 'OrganizationSettingsChanged')) AS organizations
      FROM events WHERE position > ${after}::bigint AND position <= ${upTo}::bigint) AS e`.execute(db);
  return rows[0] ?? { usedKeys: [], usedOrganizations: [], changedKeys: [], ruledOrganizations: [] };
}
