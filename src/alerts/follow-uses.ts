import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';

import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { asLeader } from './as-leader.ts';
import { evaluateUses, type ToEvaluate } from './evaluate-uses.ts';
import { raiseByChange } from './evaluate-times.ts';
import { keepLooking, type PageFollower } from './keep-looking.ts';
import type { RaiseAlerts } from './raise-alerts.ts';
import { readUses, type UsePage } from './read-uses.ts';
import { createSlack, type Slack } from './slack.ts';

/** A server that finds the place in the log moved by another one waits so long, and takes over where it has not been moved meanwhile. */
const STAND_BY_MS = 250;

export type UseFollowerOptions = {
  readonly database: Database;
  readonly raise: RaiseAlerts;
  readonly pollMs: number;
  readonly pauseMs: number;
  readonly onError: (error: Error) => void;
  readonly slack?: Slack;
};

/**
 * Follows the log for what windows and balances raise. Any number of servers run one. The one that moves the place on goes on doing so, since it knows
 * whose windows need not be read; the others stand by. Nothing rests on there being one alone: the place is moved only from where the page began, what is
 * raised is raised once by its unique index, and evaluating itself is done under the leader's lock.
 */
export function followUses({ database, raise, pollMs, pauseMs, onError, slack = createSlack() }: UseFollowerOptions): PageFollower {
  const db = database.kysely;
  /** Up to where this server has seen the log; null where another one may be at it. */
  let seen: bigint | null = null;

  /** True where there is more to see at once. */
  async function look(signal: AbortSignal): Promise<boolean> {
    seen ??= await takeOver(db, signal);
    if (seen === null) return false;
    const page = await readUses(db, seen);
    // By itself or by another server; or this one's last move was lost in a crash of the database.
    const mine = page.position === seen;
    seen = null;
    if (!mine) return false;
    if (page.upTo > page.after) {
      const due = slack.due(page);
      const wanted = { ...due, changedKeys: page.changedKeys, ruledOrganizations: page.ruledOrganizations };
      const idle = Object.values(wanted).every((list) => list.length === 0);
      const moved = idle ? await moveOn(db, page) : await evaluate(page, wanted, signal);
      if (!moved) return false;
    }
    seen = page.upTo;
    return page.more;
  }

  async function evaluate(page: UsePage, wanted: ToEvaluate, signal: AbortSignal): Promise<boolean> {
    const moved = await asLeader(database, 'windows', async (tx) => {
      await evaluateUses(db, wanted, { raise, slack });
      await raiseByChange(db, page, { raise, signal, keepLeading: () => Promise.resolve() });
      return moveOn(tx, page);
    });
    return moved === true;
  }

  return keepLooking({ look, pollMs, pauseMs, onError });
}

/** Moves the place to the end of a page; false where another server has moved it. What was found is committed: a crash that loses the move costs a second look. */
async function moveOn(db: Kysely<Tables>, { after, upTo }: UsePage): Promise<boolean> {
  const { numAffectedRows } = await sql`
    UPDATE alert_progress SET position = ${upTo}::bigint FROM (SELECT set_config('synchronous_commit', 'off', true)) AS nobody_waits_for_the_disk
    WHERE name = 'windows' AND position = ${after}::bigint`.execute(db);
  return numAffectedRows === 1n;
}

/** Where the evaluation stands, if nobody moves it on though there is something to see; otherwise null. */
async function takeOver(db: Kysely<Tables>, signal: AbortSignal): Promise<bigint | null> {
  const before = await readPlace(db);
  if (before.position >= before.head) return null;
  await sleep(STAND_BY_MS, undefined, { signal });
  const { position } = await readPlace(db);
  return position === before.position ? position : null;
}

async function readPlace(db: Kysely<Tables>): Promise<{ readonly position: bigint; readonly head: bigint }> {
  const { rows } = await sql<{ position: bigint; head: bigint }>`
    SELECT position, head_position() AS head FROM alert_progress WHERE name = 'windows'`.execute(db);
  const place = rows[0];
  if (place === undefined)
    throw new Error("The place in the log of the evaluation 'windows' is missing; restore the row of alert_progress.");
  return place;
}
