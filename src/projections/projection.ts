import { sql, type Kysely } from 'kysely';

import { isPostgresError } from '../ledger/append.ts';
import type { Tables } from '../postgres/tables.ts';

export type FoldRequest = {
  /** Which of the two slots: the one that is read, or the one that a rebuild fills. */
  readonly state: 'live' | 'building';
  /** Positions at most. */
  readonly limit: number;
};

export type ParkedEvent = { readonly position: bigint; readonly reason: string };

export type Folded = {
  /** Everything up to here is folded. */
  readonly position: bigint;
  readonly head: bigint;
  /** What this page could not apply and has set aside in `parked_events`. */
  readonly parked: readonly ParkedEvent[];
  /** How many events fell into a counter; undefined where none did, or where that makes no difference. */
  readonly eventsPerRow?: number;
};

/** Read models that follow the log: a name in `projections`, tables with two slots, and the statement that folds a page into one of them. */
export type Projection = {
  readonly name: string;
  /** Partitioned by slot: `<table>_0` and `<table>_1`. */
  readonly tables: readonly string[];
  /** Null where another session is at it. */
  readonly fold: (db: Kysely<Tables>, request: FoldRequest) => Promise<Folded | null>;
  /** May lag under load, and more where nobody waits for it: the longer a fold took, the longer until the next, which then writes each counter once for more events. */
  readonly restsInProportion?: boolean;
};

/**
 * Positions in a page. A page costs by its events and by the buckets that they fall in, so that larger ones fold faster (20,000: 126,000 events/s over
 * 1,000 keys; 100,000: 246,000). The live one stays below the half second in which nobody else can fold: where many events share a bucket it may have more of them.
 */
const PAGE: Readonly<Record<FoldRequest['state'], number>> = { live: 20_000, building: 100_000 };
const SHARED_PAGE = 60_000;
/** Events a row from which on a page holds so many. */
const SHARED = 5;

/**
 * Folds pages with a size that adapts: where a page fails on its data, halves of it are tried down to the one event that is at fault, which is then
 * parked. Anything else that goes wrong is thrown, and nothing is folded.
 */
export function createFolder(projection: Projection, state: FoldRequest['state']): (db: Kysely<Tables>) => Promise<Folded | null> {
  let page = PAGE[state];
  let limit = page;
  return async function foldNext(db) {
    for (;;) {
      const before = limit === 1 ? await checkpointOf(db, projection.name, state) : null;
      try {
        const folded = await projection.fold(db, { state, limit });
        if (folded?.eventsPerRow !== undefined) page = folded.eventsPerRow < SHARED ? PAGE[state] : Math.max(PAGE[state], SHARED_PAGE);
        limit = Math.min(page, limit * 2);
        return folded;
      } catch (error) {
        if (!isDataFault(error)) throw error;
        if (before !== null) return park(db, { name: projection.name, state, after: before, reason: error.message });
        limit = Math.max(1, Math.floor(limit / 2));
      }
    }
  };
}

/** Where a slot's fold stands; null where there is no slot in that state. */
export async function checkpointOf(db: Kysely<Tables>, name: string, state: FoldRequest['state']): Promise<bigint | null> {
  const row = await db.selectFrom('projections').select('position').where('name', '=', name).where('state', '=', state).executeTakeFirst();
  return row?.position ?? null;
}

/** SQLSTATE classes 22 (the data can't be computed with) and 23 (it breaks a constraint): trying again would not help. */
export function isDataFault(error: unknown): error is Error {
  return isPostgresError(error) && /^2[23]/.test(error.code);
}

type Culprit = { readonly name: string; readonly state: FoldRequest['state']; readonly after: bigint; readonly reason: string };

/**
 * Sets the event behind the checkpoint aside and steps over it. Only where the checkpoint is still where it was before the fold that failed: otherwise
 * another session has dealt with that event, and the next one is not to blame.
 */
async function park(db: Kysely<Tables>, { name, state, after, reason }: Culprit): Promise<Folded | null> {
  const { rows } = await sql<{ position: bigint; head: bigint }>`
    WITH checkpoint AS MATERIALIZED (
      SELECT slot FROM projections WHERE name = ${name} AND state = ${state} AND position = ${after}::bigint FOR UPDATE SKIP LOCKED
    ),
    parked AS (
      INSERT INTO parked_events (projection, slot, position, reason) SELECT ${name}, slot, ${after}::bigint + 1, ${reason} FROM checkpoint
    )
    UPDATE projections p SET position = ${after}::bigint + 1 FROM checkpoint c WHERE p.name = ${name} AND p.slot = c.slot
    RETURNING p.position, head_position() AS head`.execute(db);
  const row = rows[0];
  return row === undefined ? null : { ...row, parked: [{ position: row.position, reason }] };
}
