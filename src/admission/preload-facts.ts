import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { FactsCache } from './facts-cache.ts';

/** Events at the log's end in which the keys that were used last are looked for, and how many keys are taken of those. */
const EVENTS = 200_000;
const KEYS = 20_000;
/** Read together: few enough that a verification which comes meanwhile waits for milliseconds. */
const CHUNK = 100;

/**
 * Reads the facts of the keys that were used last, so that a server which starts does not meet each of them for the first time. They are as good as any in memory: each batch
 * compares them with the log. Ends early when told to.
 */
export async function preloadFacts(db: Kysely<Tables>, facts: Pick<FactsCache, 'read'>, signal: AbortSignal): Promise<void> {
  const { rows } = await sql<{ organization_id: string; lookup_id: string }>`
    SELECT k.organization_id, v.lookup_id
    FROM (
      SELECT l.key, max(l.position) AS position
      FROM (SELECT u.key, u.position FROM usage_events u ORDER BY u.position DESC LIMIT ${EVENTS}) AS l
      GROUP BY l.key ORDER BY position DESC LIMIT ${KEYS}
    ) AS u
    JOIN api_keys k ON k.number = u.key
    JOIN key_verifiers v ON v.key_id = k.id AND v.current
    ORDER BY u.position DESC`.execute(db);
  for (let from = 0; from < rows.length && !signal.aborted; from += CHUNK) {
    await Promise.all(
      rows.slice(from, from + CHUNK).map((row) =>
        facts.read({
          caller: { kind: 'organization', organizationId: row.organization_id },
          lookupId: row.lookup_id,
          foreignHash: null,
        }),
      ),
    );
  }
}
