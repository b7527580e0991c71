import { sql, type Transaction } from 'kysely';

import { inTransaction, type Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';

/** The advisory locks by which one server at a time does a kind of work. */
export const LEADER_LOCKS = { windows: 1_801_812_341, statistics: 1_801_812_342, times: 1_801_812_343, activity: 1_801_812_344 } as const;
export type LeaderLock = keyof typeof LEADER_LOCKS;

/**
 * Does work unless another server is at it; null where one is. The lock is that of a transaction which stays open meanwhile, so that a server that dies in
 * the middle loses it with its connection. What the work writes for good it writes outside of `tx`: the log's lock may not be held until this transaction
 * ends. Work of more than some seconds has to use `tx` now and then, or the database takes it for idle and ends it.
 *
 * It spares work and promises nothing: where two lead after all, what they raise is raised once by the alerts' own unique index.
 */
export function asLeader<Result>(
  database: Database,
  lock: LeaderLock,
  work: (tx: Transaction<Tables>) => Promise<Result>,
): Promise<Result | null> {
  return inTransaction(database, async (tx) => {
    const { rows } = await sql<{ leads: boolean }>`SELECT pg_try_advisory_xact_lock(${LEADER_LOCKS[lock]}::bigint) AS leads`.execute(tx);
    return rows[0]?.leads === true ? work(tx) : null;
  });
}
