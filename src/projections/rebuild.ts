import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';

import { isPostgresError } from '../ledger/append.ts';
import { inTransaction, type Database } from '../postgres/pool.ts';
import { createFolder, isDataFault, type Folded, type ParkedEvent, type Projection } from './projection.ts';

const LOCK_NOT_AVAILABLE = '55P03';
const BEGIN_ATTEMPTS = 30;
const BUSY_MS = 50;
/** What may have come since the last page; more is folded outside, where nobody waits for it. */
const SWAP_PAGE = 1000;
const SECOND_MS = 1000;

export type RebuildProgress = {
  readonly name: string;
  readonly position: bigint;
  readonly head: bigint;
  /** Since this run began; null in its first moments. */
  readonly eventsPerSecond: number | null;
  readonly remainingMs: number | null;
};

export type RebuildOutcome = {
  readonly kind: 'rebuilt' | 'interrupted';
  readonly name: string;
  readonly position: bigint;
  /** An earlier run was taken up where it stopped. */
  readonly resumed: boolean;
  readonly parked: readonly ParkedEvent[];
};

export type RebuildOptions = {
  readonly onProgress: (progress: RebuildProgress) => void;
  /** Stops after the page under way; the next rebuild goes on from there. */
  readonly signal?: AbortSignal;
};

/**
 * Folds the whole log into the slot that nobody reads, and then swaps the two, in one transaction. The service runs on the old one meanwhile. Where the
 * rebuild stands is in the database: a run that was interrupted or killed is taken up by the next, and two at once share the pages.
 */
export async function rebuildProjection(
  database: Database,
  projection: Projection,
  { onProgress, signal }: RebuildOptions,
): Promise<RebuildOutcome> {
  const { name } = projection;
  const { resumed, position: startedAt } = await begin(database, projection);
  const foldNext = createFolder(projection, 'building');
  const startedMs = performance.now();
  const parked: ParkedEvent[] = [];
  let position = startedAt;
  for (;;) {
    if (signal?.aborted === true) return { kind: 'interrupted', name, position, resumed, parked };
    const folded = await foldNext(database.kysely);
    if (folded === null) {
      // Another rebuild has the page, or has already swapped.
      if (await isOver(database, name)) return { kind: 'rebuilt', name, position, resumed, parked };
      await sleep(BUSY_MS, undefined, { signal }).catch(() => undefined);
      continue;
    }
    position = folded.position;
    parked.push(...folded.parked);
    onProgress({
      name,
      position,
      head: folded.head,
      ...speed(Number(position - startedAt), Number(folded.head - position), performance.now() - startedMs),
    });
    if (position < folded.head) continue;
    const swapped = await swap(database, projection);
    if (swapped !== null) return { kind: 'rebuilt', name, position: swapped.position, resumed, parked: [...parked, ...swapped.parked] };
  }
}

function speed(folded: number, left: number, elapsedMs: number): Pick<RebuildProgress, 'eventsPerSecond' | 'remainingMs'> {
  if (folded === 0 || elapsedMs < 1) return { eventsPerSecond: null, remainingMs: null };
  const perMs = folded / elapsedMs;
  return { eventsPerSecond: Math.round(perMs * SECOND_MS), remainingMs: Math.round(left / perMs) };
}

type Begun = { readonly resumed: boolean; readonly position: bigint };

/** Takes up an unfinished rebuild, or empties the slot that nobody reads. */
async function begin(database: Database, projection: Projection): Promise<Begun> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await tryToBegin(database, projection);
    } catch (error) {
      if (!isPostgresError(error) || error.code !== LOCK_NOT_AVAILABLE || attempt === BEGIN_ATTEMPTS) throw error;
      await sleep(SECOND_MS);
    }
  }
}

async function tryToBegin(database: Database, { name, tables }: Projection): Promise<Begun> {
  return inTransaction(database, async (tx) => {
    // Whoever waits for a table's exclusive lock keeps out all readers that come after: better to give way and try again.
    await sql`SET LOCAL lock_timeout = '500ms'`.execute(tx);
    const { rows } = await sql<{ slot: number; state: string; position: bigint }>`
      SELECT slot, state, position FROM projections WHERE name = ${name} AND state <> 'live' FOR NO KEY UPDATE`.execute(tx);
    const row = rows[0];
    if (row === undefined) throw new Error(`The projection '${name}' has no second slot: migration 0003 was changed.`);
    if (row.state === 'building') return { resumed: true, position: row.position };
    // Its last readers ended long ago: a statement that began before the swap would have to have run since the last rebuild.
    for (const table of tables) await sql`TRUNCATE ${sql.table(`${table}_${row.slot}`)}`.execute(tx);
    await sql`DELETE FROM parked_events WHERE projection = ${name} AND slot = ${row.slot}`.execute(tx);
    await sql`UPDATE projections SET state = 'building', position = 0, started_at = clock_timestamp() WHERE name = ${name} AND slot = ${row.slot}`.execute(
      tx,
    );
    return { resumed: false, position: 0n };
  });
}

async function isOver(database: Database, name: string): Promise<boolean> {
  const building = await database.kysely
    .selectFrom('projections')
    .select('slot')
    .where('name', '=', name)
    .where('state', '=', 'building')
    .executeTakeFirst();
  return building === undefined;
}

/**
 * Makes the rebuilt slot the one that is read, once it is at least as far as the other: what readers see never goes back. The live row is locked first, so
 * the projector stands still while the last events are folded. Answers null where there is more to fold first.
 */
async function swap(database: Database, projection: Projection): Promise<Folded | null> {
  const { name } = projection;
  try {
    return await inTransaction(database, async (tx) => {
      const live = await sql<{ slot: number; position: bigint }>`
        SELECT slot, position FROM projections WHERE name = ${name} AND state = 'live' FOR UPDATE`.execute(tx);
      const folded = await projection.fold(tx, { state: 'building', limit: SWAP_PAGE });
      const [old] = live.rows;
      if (old === undefined || folded === null || folded.position < old.position) return null;
      await sql`UPDATE projections SET state = 'retired' WHERE name = ${name} AND slot = ${old.slot}`.execute(tx);
      await sql`UPDATE projections SET state = 'live' WHERE name = ${name} AND state = 'building'`.execute(tx);
      return folded;
    });
  } catch (error) {
    // The transaction is gone; outside of it the event that is at fault will be found and parked.
    if (isDataFault(error)) return null;
    throw error;
  }
}
