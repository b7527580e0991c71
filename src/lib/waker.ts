/** What a loop waits with between two rounds. */
export type Waker = {
  /** There may be something to do. Costs next to nothing, however often it is called. */
  wake(): void;
  /** Resolves at once where it was woken since the last call, otherwise when it is, after `ms`, or when the signal fires. */
  next(ms: number): Promise<void>;
};

/** For one loop. A wake that comes while the loop works is not lost: the next wait is over at once. */
export function createWaker(signal: AbortSignal): Waker {
  let woken = false;
  let goOn: (() => void) | undefined;
  signal.addEventListener('abort', () => goOn?.(), { once: true });
  return {
    wake() {
      woken = true;
      goOn?.();
    },
    async next(ms) {
      if (!woken && !signal.aborted) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          goOn = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        goOn = undefined;
      }
      woken = false;
    },
  };
}
