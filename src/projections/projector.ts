import { setTimeout as sleep } from 'node:timers/promises';

import { createWaker } from '../lib/waker.ts';
import { headPosition } from '../ledger/append.ts';
import type { Database } from '../postgres/pool.ts';
import { checkpointOf, createFolder, type ParkedEvent, type Projection } from './projection.ts';

const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 10_000;
/** How long a projection that may rest does so after a fold: so many times as long as that took, and never longer than `longestMs`. */
type Rest = { readonly factor: number; readonly longestMs: number };
const WAITED_FOR: Rest = { factor: 15, longestMs: 600 };
/** Where events share no rows: a fold costs little to begin, and a small one holds no core for long. */
const APART: Rest = { factor: 5, longestMs: 600 };
/** A fold writes each counter once, for however many events: where nobody waits, few and large ones cost a fraction. */
const LEFT_ALONE: Rest = { factor: 60, longestMs: 3_000 };
/**
 * Events a row from which on that is so. Where each falls into another row, as with more keys than come in a few seconds, a large fold saves nothing and takes a core from the
 * verifications for as long as several small ones: there it rests as {@link APART} has it. The share grows with the rest, hence two bounds.
 */
const SHARED = { afterShort: 1.35, stillAfterLong: 3 };
/** Somebody who has read reads again; until then it is worth staying close. */
const HURRIED_MS = 10_000;

/** How far a projection is behind the log, as this server last saw it. */
export type ProjectionProgress = {
  readonly name: string;
  /** Null until it was looked at for the first time. */
  readonly position: bigint | null;
  readonly head: bigint | null;
  readonly checkedAt: Date | null;
};

export type Projector = {
  /** The log has grown, or may have. */
  wake(): void;
  /** Somebody reads what is folded, or waits for it as alerts do: for some seconds no rest is long. Costs next to nothing, however often it is called. */
  hurry(): void;
  progress(): readonly ProjectionProgress[];
  /** Resolves when the page under way is folded. */
  stop(): Promise<void>;
};

export type ProjectorOptions = {
  readonly database: Database;
  readonly projections: readonly Projection[];
  /** How often to look without having been woken. */
  readonly pollMs: number;
  /**
   * At the head, the least time between two folds: under load each fold then takes many events, and the counters that all of them touch are written
   * once for all. Statistics lag by so much.
   */
  readonly pauseMs?: number;
  readonly onError: (error: Error, projection: string) => void;
  /** An event could not be applied and was set aside: statistics go on without it. Called by the server that parked it, once. */
  readonly onPoisoned: (event: ParkedEvent, projection: string) => void;
};

/**
 * Follows the log for each projection. Any number of servers run one: the checkpoint's row lock lets one fold at a time, and where it is taken the
 * others leave that page to it.
 */
export function createProjector(options: ProjectorOptions): Projector {
  const closing = new AbortController();
  const followers = options.projections.map((projection) => follow(projection, options, closing.signal));
  return {
    wake() {
      for (const follower of followers) follower.wake();
    },
    hurry() {
      for (const follower of followers) follower.hurry();
    },
    progress: () => followers.map((follower) => follower.progress()),
    async stop() {
      closing.abort();
      await Promise.all(followers.map((follower) => follower.ended));
    },
  };
}

type Follower = { wake(): void; hurry(): void; progress(): ProjectionProgress; readonly ended: Promise<void> };

function follow(projection: Projection, options: ProjectorOptions, signal: AbortSignal): Follower {
  const { database, pollMs, pauseMs = 100, onError, onPoisoned } = options;
  const { name } = projection;
  const foldNext = createFolder(projection, 'live');
  const waker = createWaker(signal);
  const hurries = createWaker(signal);
  let hurriedUntilMs = -Infinity;
  let sharing = true;
  let seen: ProjectionProgress = { name, position: null, head: null, checkedAt: null };

  /** True where there is more to fold at once. */
  async function foldOnce(): Promise<boolean> {
    const folded = await foldNext(database.kysely);
    if (folded === null) {
      // Another server is at it; what is told here is how far it has come.
      const [position, head] = await Promise.all([checkpointOf(database.kysely, name, 'live'), headPosition(database.kysely)]);
      seen = { name, position, head, checkedAt: new Date() };
      return false;
    }
    seen = { name, position: folded.position, head: folded.head, checkedAt: new Date() };
    if (folded.eventsPerRow !== undefined) sharing = folded.eventsPerRow >= (sharing ? SHARED.stillAfterLong : SHARED.afterShort);
    for (const event of folded.parked) onPoisoned(event, name);
    return folded.position < folded.head;
  }

  async function keepFolding(): Promise<void> {
    let retryMs = FIRST_RETRY_MS;
    while (!signal.aborted) {
      const began = performance.now();
      try {
        const more = await foldOnce();
        retryMs = FIRST_RETRY_MS;
        if (more) continue;
      } catch (error) {
        if (signal.aborted) return;
        onError(error as Error, name);
        await pause(retryMs * (0.5 + Math.random() / 2), signal);
        retryMs = Math.min(LONGEST_RETRY_MS, retryMs * 2);
        continue;
      }
      await rest(performance.now() - began);
      await waker.next(pollMs);
    }
  }

  async function rest(foldMs: number): Promise<void> {
    const restsMs = ({ factor, longestMs }: Rest): number =>
      Math.max(pauseMs, projection.restsInProportion === true ? Math.min(longestMs, factor * foldMs) : 0);
    const shortMs = restsMs(sharing ? WAITED_FOR : APART);
    await pause(shortMs, signal);
    if (!sharing || performance.now() < hurriedUntilMs) return;
    const moreMs = restsMs(LEFT_ALONE) - shortMs;
    if (moreMs > 0) await hurries.next(moreMs);
  }

  return {
    wake: () => waker.wake(),
    hurry() {
      hurriedUntilMs = performance.now() + HURRIED_MS;
      hurries.wake();
    },
    progress: () => seen,
    ended: keepFolding(),
  };
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}
