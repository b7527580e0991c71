export type WakeGate = {
  /** Whether the batch that is about to be sent shall wake the log's followers. Where it answers no, they are woken a little later. */
  open(): boolean;
  close(): void;
};

/**
 * Wakes the followers of the log at once where nobody has woken them lately, and then not more often than every `intervalMs`: each waking costs every server a
 * round through its sessions, and commits that notify take turns in the whole cluster. `wake` runs where a time is over in which batches did not wake.
 */
export function createWakeGate({ intervalMs, wake }: { readonly intervalMs: number; readonly wake: () => void }): WakeGate {
  let lastMs = -Infinity;
  let timer: NodeJS.Timeout | undefined;

  function wakeLate(): void {
    timer = undefined;
    lastMs = performance.now();
    wake();
  }

  return {
    open() {
      const sinceMs = performance.now() - lastMs;
      if (timer === undefined && sinceMs >= intervalMs) {
        lastMs = performance.now();
        return true;
      }
      timer ??= setTimeout(wakeLate, Math.max(0, intervalMs - sinceMs));
      return false;
    },
    close() {
      clearTimeout(timer);
    },
  };
}
