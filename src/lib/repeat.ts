import { setTimeout as sleep } from 'node:timers/promises';

/** Work that is done again and again until it is stopped. */
export type Loop = {
  /** Fires the signal that the work was given, and resolves when the round under way has ended. */
  stop(): Promise<void>;
};

export type RepeatOptions = {
  /** From the end of one round to the start of the next, give or take a tenth, so that several servers don't move in step. */
  readonly intervalMs: number;
  readonly work: (signal: AbortSignal) => Promise<void>;
  /** A round failed; the next one comes all the same. */
  readonly onError: (error: Error) => void;
};

/** Starts the first round at once. */
export function repeat({ intervalMs, work, onError }: RepeatOptions): Loop {
  const closing = new AbortController();
  const { signal } = closing;

  async function keepWorking(): Promise<void> {
    while (!signal.aborted) {
      try {
        await work(signal);
      } catch (error) {
        if (!signal.aborted) onError(error instanceof Error ? error : new Error(String(error)));
      }
      await sleep(intervalMs * (0.9 + Math.random() / 5), undefined, { signal }).catch(() => undefined);
    }
  }

  const ended = keepWorking();
  return {
    async stop() {
      closing.abort();
      await ended;
    },
  };
}
