import { takeTurns } from '../lib/take-turns.ts';
import { admitsUsage, type LogFilter } from './read.ts';
import { topicsOfFilter } from './topics.ts';

/** A follower of the log that can wait for what concerns it. */
export type WaitingFollower = {
  /**
   * Resolves with the position behind which something is that the filter may admit: what came in between concerned others. Resolves with null when the signal
   * has fired.
   */
  next(): Promise<bigint | null>;
  /** Whether the signal has fired. To ask the signal itself costs 5 µs where it is made of others, more than all else that a wake costs. */
  aborted(): boolean;
  leave(): void;
};

/**
 * Who waits for what. A log that grows by thousands of events in a second, in dozens of reads, must not wake thousands of followers at each of them to find
 * nothing of theirs.
 */
export type WaitingFollowers = {
  /** From the call on. */
  join(filter: LogFilter, signal: AbortSignal): WaitingFollower;
  /** Something with these topics came behind a position. */
  wake(topics: Iterable<string>, after: bigint): void;
  /** Usage events may have come behind a position. */
  wakeForUsage(after: bigint): void;
};

/** One event can concern a thousand followers, and each takes some 50 µs to find that out: requests have their turn in between. */
const WAKING_ROUNDS = { atLeast: 16, atMostMs: 2 } as const;
/** A topic of those who follow usage events, whichever. */
const USAGE = 'usage';

type Waiter = { resolve: ((after: bigint | null) => void) | null };

export function createWaitingFollowers(): WaitingFollowers {
  const byTopic = new Map<string, Set<Waiter>>();
  const takeTurn = takeTurns(WAKING_ROUNDS);

  function wake(topics: Iterable<string>, after: bigint): void {
    for (const topic of topics) {
      for (const waiter of byTopic.get(topic) ?? []) {
        const { resolve } = waiter;
        if (resolve === null) continue;
        waiter.resolve = null;
        const turn = takeTurn();
        if (turn === undefined) resolve(after);
        else void turn.then(() => resolve(after));
      }
    }
  }

  return {
    join(filter, signal) {
      const waiter: Waiter = { resolve: null };
      const topics = [...topicsOfFilter(filter), ...(admitsUsage(filter) ? [USAGE] : [])];
      for (const topic of topics) {
        const waiters = byTopic.get(topic);
        if (waiters === undefined) byTopic.set(topic, new Set([waiter]));
        else waiters.add(waiter);
      }
      const settle = (after: bigint | null): void => {
        const { resolve } = waiter;
        waiter.resolve = null;
        resolve?.(after);
      };
      let aborted = signal.aborted;
      const onAbort = (): void => {
        aborted = true;
        settle(null);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      return {
        next() {
          if (aborted) return Promise.resolve(null);
          const { promise, resolve } = Promise.withResolvers<bigint | null>();
          waiter.resolve = resolve;
          return promise;
        },
        aborted: () => aborted,
        leave() {
          signal.removeEventListener('abort', onAbort);
          for (const topic of topics) {
            const waiters = byTopic.get(topic);
            waiters?.delete(waiter);
            if (waiters?.size === 0) byTopic.delete(topic);
          }
          settle(null);
        },
      };
    },
    wake,
    wakeForUsage: (after) => wake([USAGE], after),
  };
}
