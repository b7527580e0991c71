import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';
import type { Builder } from './builder.ts';

/** A secret before the current one that still works. */
export type OutdatedSecret = { readonly masked: string; readonly worksUntil: Date; readonly lastUsedAt: Date | null };

export function addOutdatedSecret(builder: Builder) {
  return builder.objectRef<OutdatedSecret>('OutdatedSecret').implement({
    description: 'A secret that was regenerated with an overlap, which has not ended.',
    fields: (t) => ({
      masked: t.exposeString('masked', { description: 'Such as `sk_live_a1b2...wxyz`.' }),
      worksUntil: t.field({ type: 'DateTime', resolve: ({ worksUntil }) => worksUntil }),
      lastUsedAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When it last passed since it is outdated. While it does, somebody still has to be given the new one.',
        resolve: ({ lastUsedAt }) => lastUsedAt,
      }),
    }),
  });
}

type Row = { readonly key: number; readonly masked: string; readonly works_until: Date; readonly last_used_at: Date | null };

/** The outdated secrets that still work of some keys, by the keys' numbers. When one was used is read from the usage events themselves, by an index of those alone. */
export async function readOutdatedSecrets(
  db: Kysely<Tables>,
  keyNumbers: readonly number[],
): Promise<ReadonlyMap<number, readonly OutdatedSecret[]>> {
  const { rows } = await sql<Row>`
    SELECT k.number AS key, e.data ->> 'masked' AS masked, v.expires_at AS works_until, u.recorded_at AS last_used_at
    FROM api_keys k
    JOIN key_verifiers v ON v.key_id = k.id AND NOT v.current AND v.expires_at > (SELECT ledger_now())
    JOIN events e ON e.stream = 'key:' || k.id AND e.type IN ('KeyCreated', 'KeyImported', 'Regenerated') AND e.data ->> 'lookupId' = v.lookup_id
    LEFT JOIN LATERAL (
      SELECT recorded_at FROM usage_events
      WHERE key = k.number AND code = 0 AND detail = 'outdated secret ' || v.lookup_id ORDER BY position DESC LIMIT 1) AS u ON true
    WHERE k.number = ANY(${[...keyNumbers]}::integer[])
    ORDER BY v.expires_at`.execute(db);
  const secrets = rows.map((row) => ({ key: row.key, masked: row.masked, worksUntil: row.works_until, lastUsedAt: row.last_used_at }));
  return Map.groupBy(secrets, ({ key }) => key);
}
