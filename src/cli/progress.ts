import type { CliIo } from './command.ts';

const EVERY_MS = 2000;
const EVERY_INTERACTIVE_MS = 100;

/** Tells how far something has come, on standard error: on a terminal over and over on one line, else as a line every two seconds. */
export type ProgressLine = {
  show(text: string): void;
  /** Leaves the last text standing where it was shown on one line. */
  end(): void;
};

export function createProgressLine(io: CliIo): ProgressLine {
  // What is over before the first line is due says nothing.
  let shownAtMs = performance.now();
  let open = false;
  return {
    show(text) {
      const nowMs = performance.now();
      if (nowMs - shownAtMs < (io.interactive ? EVERY_INTERACTIVE_MS : EVERY_MS)) return;
      shownAtMs = nowMs;
      if (io.interactive) process.stderr.write(`\r\u001B[K${text}`);
      else io.err(text);
      open = io.interactive;
    },
    end() {
      if (open) process.stderr.write('\r\u001B[K');
      open = false;
    },
  };
}

/** `2 h 5 min`, `3 min 20 s`, `4 s`. */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
