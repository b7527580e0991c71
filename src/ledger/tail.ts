import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';

import { createWaker } from '../lib/waker.ts';
import { cancellable } from '../lib/cancellable.ts';
import type { Tables } from '../postgres/tables.ts';
import { headPosition } from './append.ts';
import { admitsUsage, readLifecyclePage, readLog, type LedgerEntry, type LogFilter } from './read.ts';
import { createRecentEntries } from './recent-entries.ts';
import { createWaitingFollowers } from './waiting-followers.ts';

/** Entries in one read of the shared reader, and at most in one page of a follower. */
const PAGE = 1000;
/** What followers close to the head are served from; those further behind read the database, at their own pace. */
const RECENT_ENTRIES = 20_000;
const RETRY_MS = 500;

export type LogPage = {
  readonly entries: readonly LedgerEntry[];
  /** Everything that the filter admits up to here has been delivered: where to resume. */
  readonly readTo: bigint;
};

export type FollowOptions = {
  /** Exclusive; 'now' is after everything that is committed when the call is made. */
  readonly after: bigint | 'now';
  readonly filter: LogFilter;
  readonly signal?: AbortSignal;
};

/**
 * The log as it grows, for any number of followers. One reader a server reads each new event once and keeps the newest; followers pull at their own pace,
 * so a slow one costs nothing and none is ever sent something that it would have to buffer. While nobody follows, nothing is read; while nobody follows usage
 * events, those are not.
 */
export type Tail = {
  /** Pages of entries in order, without loss or repetition, until the signal fires, `return()` is called or the tail closes. Pages can be empty. */
  follow(options: FollowOptions): AsyncGenerator<LogPage, void, undefined>;
  /** The log has grown (NOTIFY) or may have: read. */
  wake(): void;
  close(): Promise<void>;
};

export type TailOptions = {
  readonly db: Kysely<Tables>;
  /** How often to look without having been woken. */
  readonly pollMs: number;
  /** The least time between two reads, so that under load each takes many events together. */
  readonly pauseMs?: number;
  readonly onError: (error: Error) => void;
};

export function openTail({ db, pollMs, pauseMs = 0, onError }: TailOptions): Tail {
  const closing = new AbortController();
  const recent = createRecentEntries(RECENT_ENTRIES, 0n);
  let followers = 0;
  let usageFollowers = 0;
  const waker = createWaker(closing.signal);
  const waiting = createWaitingFollowers();

  async function readNew(): Promise<void> {
    while (usageFollowers === 0) {
      const from = recent.head();
      const { entries, readTo, head } = await readLifecyclePage(db, from, PAGE);
      if (recent.head() !== from) continue; // the last follower left and a new one came meanwhile
      if (readTo > from) {
        waiting.wake(recent.addLifecycle(entries, readTo), from);
        // Who came for usage events while this was read has to look for itself.
        waiting.wakeForUsage(from);
      }
      if (readTo >= head) return;
    }
    for (;;) {
      const head = await headPosition(db);
      if (head <= recent.head()) return;
      const from = recent.head();
      const entries = await readLog(db, {}, { after: from, upTo: head, limit: PAGE });
      if (recent.head() !== from) continue; // the last follower left and a new one came meanwhile
      if (entries.length === 0) throw new Error(`The log has no events between ${from} and its head ${head}: it has a hole.`);
      waiting.wake(recent.add(entries), from);
    }
  }

  async function keepReading(): Promise<void> {
    while (!closing.signal.aborted) {
      try {
        if (followers > 0) await readNew();
      } catch (error) {
        if (closing.signal.aborted) return;
        onError(error as Error);
      }
      if (pauseMs > 0) await sleep(pauseMs, undefined, { signal: closing.signal }).catch(() => undefined);
      await waker.next(pollMs);
    }
  }

  /** The first follower starts the reader at the head of that moment; what lies before is read from the database. */
  async function join(): Promise<bigint> {
    const head = await headPosition(db);
    if (followers === 0) recent.restart(head);
    followers++;
    return head;
  }

  async function* follow(from: bigint | 'now', filter: LogFilter, signal: AbortSignal): AsyncGenerator<LogPage, void, undefined> {
    const usage = admitsUsage(filter) ? 1 : 0;
    usageFollowers += usage;
    let joined = 0;
    try {
      const head = await join();
      joined = 1;
      yield* pages(from === 'now' ? head : from, filter, signal);
    } finally {
      followers -= joined;
      usageFollowers -= usage;
    }
  }

  async function* pages(after: bigint, filter: LogFilter, signal: AbortSignal): AsyncGenerator<LogPage, void, undefined> {
    let position = after;
    const waiter = waiting.join(filter, signal);
    try {
      while (!waiter.aborted()) {
        if (position >= recent.head()) {
          // While it waits, what comes and does not concern it is passed over: it goes on in front of what does.
          const resumeAt = await waiter.next();
          if (resumeAt !== null && resumeAt > position) position = resumeAt;
          continue;
        }
        const page = recent.after(position, filter, PAGE) ?? (await readPage(position, filter, signal));
        if (page === null) continue;
        position = page.readTo;
        yield page;
      }
    } finally {
      waiter.leave();
    }
  }

  /** Null where the database could not be asked: the follower keeps its place and asks again. */
  async function readPage(after: bigint, filter: LogFilter, signal: AbortSignal): Promise<LogPage | null> {
    const upTo = recent.head();
    try {
      const entries = await readLog(db, filter, { after, upTo, limit: PAGE });
      const last = entries.at(-1);
      return { entries, readTo: entries.length === PAGE && last !== undefined ? last.position : upTo };
    } catch (error) {
      onError(error as Error);
      await sleep(RETRY_MS, undefined, { signal }).catch(() => undefined);
      return null;
    }
  }

  const loop = keepReading();
  return {
    follow: ({ after, filter, signal }) => {
      const ends = signal === undefined ? closing.signal : AbortSignal.any([closing.signal, signal]);
      return cancellable((inner) => follow(after, filter, inner), ends);
    },
    wake: () => waker.wake(),
    async close() {
      closing.abort();
      await loop;
    },
  };
}
