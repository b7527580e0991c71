import { sql, type Kysely, type RawBuilder } from 'kysely';

import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { asLeader } from './as-leader.ts';
import { keepLooking, type PageFollower } from './keep-looking.ts';

/** Positions in a page. */
const PAGE = 20_000;

/** A stretch of the log: after is exclusive. */
export type LogPage = { readonly after: bigint; readonly upTo: bigint };

export type PageFollowerOptions = {
  readonly database: Database;
  /** Whose place in the log it is, in `alert_progress`. */
  readonly name: 'statistics';
  /** Looks at a page; the place moves on when it resolves. It may be given the same page again. */
  readonly work: (db: Kysely<Tables>, page: LogPage) => Promise<void>;
  /** What the work may look at: the head, or where a projection that it reads stands. Answers one row with a column `position`. */
  readonly limit?: RawBuilder<{ position: bigint }>;
  readonly pollMs: number;
  /** The least time between two looks, so that under load each takes many events together. */
  readonly pauseMs: number;
  readonly onError: (error: Error) => void;
};

/**
 * Follows the log page by page. Any number of servers run one; one of them works, the others skip until it is gone.
 */
export function followLogPages(options: PageFollowerOptions): PageFollower {
  const { database, pollMs, pauseMs, onError } = options;

  /** True where there is more to see at once. */
  async function look(): Promise<boolean> {
    // Nearly always there is nothing yet, and one statement tells.
    if ((await nextPage(database.kysely, options)) === null) return false;
    const more = await asLeader(database, options.name, async (tx) => {
      const page = await nextPage(tx, options);
      if (page === null) return false;
      await options.work(database.kysely, page);
      // What was found is committed. This may be lost with a crash, which costs a second look; so nobody waits for the disk.
      await sql`SET LOCAL synchronous_commit = off`.execute(tx);
      await sql`UPDATE alert_progress SET position = ${page.upTo}::bigint WHERE name = ${options.name} AND position < ${page.upTo}::bigint`.execute(
        tx,
      );
      return page.more;
    });
    return more === true;
  }

  return keepLooking({ look, pollMs, pauseMs, onError });
}

async function nextPage(db: Kysely<Tables>, { name, limit }: PageFollowerOptions): Promise<(LogPage & { readonly more: boolean }) | null> {
  const bound = limit ?? sql`SELECT head_position() AS position`;
  const { rows } = await sql<{ after: bigint; up_to: bigint; head: bigint }>`
    SELECT p.position AS after, least(p.position + ${PAGE}::bigint, bound.position) AS up_to, bound.position AS head
    FROM alert_progress p CROSS JOIN (${bound}) AS bound WHERE p.name = ${name}`.execute(db);
  const row = rows[0];
  if (row === undefined || row.up_to <= row.after) return null;
  return { after: row.after, upTo: row.up_to, more: row.up_to < row.head };
}
