export type WakeGate = {
  /** Asked of each batch that is about to be sent. `wake`: whether it shall wake the log's followers; where it shall not, they are woken a little later. */
  open(): Waking;
  close(): void;
};

export type Waking = {
  readonly wake: boolean;
  /** The batch has woken them. One that was to and did not, since it failed or had nothing to record, leaves it to be done later. */
  done(): void;
};

const LATER: Waking = { wake: false, done: () => undefined };

/**
 * Wakes the followers of the log at once where nobody has woken them lately, and then not more often than every `intervalMs`: each waking costs every server a
 * round through its sessions, and commits that notify take turns in the whole cluster. `wake` runs where batches did not wake and none came half an interval after they could have: under load
 * one always does, which spares a statement of its own.
 */
export function createWakeGate({ intervalMs, wake }: { readonly intervalMs: number; readonly wake: () => void }): WakeGate {
  let lastMs = -Infinity;
  /** For batches that woke nobody. */
  let untold: NodeJS.Timeout | undefined;
  const timers = new Set<NodeJS.Timeout>();

  function wakeLater(delayMs: number): NodeJS.Timeout {
    const timer = setTimeout(() => {
      timers.delete(timer);
      if (untold === timer) untold = undefined;
      lastMs = performance.now();
      wake();
    }, delayMs);
    timers.add(timer);
    return timer;
  }

  function cancel(timer: NodeJS.Timeout): void {
    clearTimeout(timer);
    timers.delete(timer);
  }

  return {
    open() {
      const nowMs = performance.now();
      const sinceMs = nowMs - lastMs;
      if (sinceMs < intervalMs) {
        untold ??= wakeLater(1.5 * intervalMs - sinceMs);
        return LATER;
      }
      lastMs = nowMs;
      const taken = untold;
      untold = undefined;
      return { wake: true, done: () => taken !== undefined && cancel(taken) };
    },
    close() {
      for (const timer of timers) cancel(timer);
    },
  };
}
