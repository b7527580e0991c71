import { setTimeout as sleep } from 'node:timers/promises';

import { createWaker } from '../lib/waker.ts';

const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 10_000;

export type PageFollower = {
  /** The log has grown, or may have. */
  wake(): void;
  /** Resolves when the page under way is done. */
  stop(): Promise<void>;
};

export type LookingOptions = {
  /** Looks at a page; true where there is more to see at once. */
  readonly look: (signal: AbortSignal) => Promise<boolean>;
  readonly pollMs: number;
  /** The least time between two looks, so that under load each takes many events together. */
  readonly pauseMs: number;
  readonly onError: (error: Error) => void;
};

/** Looks again and again: when it was woken, when nobody woke it for long, and after failures more and more rarely. */
export function keepLooking({ look, pollMs, pauseMs, onError }: LookingOptions): PageFollower {
  const closing = new AbortController();
  const { signal } = closing;
  const waker = createWaker(signal);

  async function run(): Promise<void> {
    let retryMs = FIRST_RETRY_MS;
    while (!signal.aborted) {
      const began = performance.now();
      try {
        if (await look(signal)) continue;
        retryMs = FIRST_RETRY_MS;
      } catch (error) {
        if (signal.aborted) return;
        onError(error as Error);
        await pause(retryMs * (0.5 + Math.random() / 2), signal);
        retryMs = Math.min(LONGEST_RETRY_MS, retryMs * 2);
        continue;
      }
      // A look that takes long is followed by a pause as long: alerts keep one connection busy for half of the time at most.
      await pause(Math.max(pauseMs, performance.now() - began), signal);
      await waker.next(pollMs);
    }
  }

  const ended = run();
  return {
    wake: () => waker.wake(),
    async stop() {
      closing.abort();
      await ended;
    },
  };
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}
