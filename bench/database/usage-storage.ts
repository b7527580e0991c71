import type { LedgerDatabase } from './ledger-database.ts';

export type UsageStorage = { readonly events: number; readonly tableBytes: number; readonly indexBytes: number };

/** Bytes on disk of the usage events, over the partitions that hold any. */
export async function usageStorage({ owner }: LedgerDatabase): Promise<UsageStorage> {
  const { rows } = await owner.query<UsageStorage>(`
    SELECT (SELECT count(*)::float8 FROM usage_events) AS events, sum(pg_table_size(p.inhrelid))::float8 AS "tableBytes", sum(pg_indexes_size(p.inhrelid))::float8 AS "indexBytes"
    FROM pg_inherits p WHERE p.inhparent = 'usage_events'::regclass AND pg_relation_size(p.inhrelid) > 0`);
  const [sizes] = rows;
  if (sizes === undefined || sizes.events === 0) throw new Error('there are no usage events to weigh');
  return sizes;
}
