/** Undefined where it may go on at once, otherwise a promise of its turn. */
export type TakeTurn = () => Promise<void> | undefined;

export type TurnsOptions = {
  /** Pieces of work between two looks at the network, however long they take. */
  readonly atLeast: number;
  /** And no more than fit into so many milliseconds, nor into their share of the time that everything else took since the last ones. */
  readonly atMostMs: number;
};

/** Milliseconds of work for each that everything else takes: at first, and when the work in turn has waited for so long. */
const SHARE = { atFirst: 0.15, atLast: 0.5, lastAfterMs: 500 };

/** The newest round's share in what a piece of work is taken to cost. */
const NEWEST = 0.2;

/**
 * Lets pieces of work happen between looks at the network, first come, first served. One event can concern thousands of readers: told without a pause, they
 * would hold up every request for as long as it takes to tell them all; told a few at a time, they would wait for ever on a busy server. So they get an eighth
 * of the time, in short rounds, and up to a third of it the longer they have waited.
 */
export function takeTurns({ atLeast, atMostMs }: TurnsOptions): TakeTurn {
  let free = atLeast;
  let scheduled = false;
  let waiting: { readonly go: () => void; readonly sinceMs: number }[] = [];
  let taken = 0;
  let beganMs = 0;
  let endedMs = performance.now();
  let costMs = 0;

  function beginRound(): void {
    beganMs = performance.now();
    const waitedMs = beganMs - (waiting[0]?.sinceMs ?? beganMs);
    const share = SHARE.atFirst + (SHARE.atLast - SHARE.atFirst) * Math.min(1, waitedMs / SHARE.lastAfterMs);
    const room = costMs === 0 ? atLeast : Math.max(atLeast, Math.floor(Math.min(atMostMs, share * (beganMs - endedMs)) / costMs));
    const due = waiting.slice(0, room);
    waiting = waiting.slice(room);
    taken = due.length;
    free = Math.max(0, atLeast - taken);
    for (const { go } of due) go();
  }

  /** Runs in the same turn of the event loop, when what was let go on has come to where it waits for something. */
  function endRound(): void {
    endedMs = performance.now();
    scheduled = false;
    if (taken === 0) return;
    const newestMs = (endedMs - beganMs) / taken;
    costMs = costMs === 0 ? newestMs : (1 - NEWEST) * costMs + NEWEST * newestMs;
    schedule();
  }

  function schedule(): void {
    if (scheduled) return;
    scheduled = true;
    setImmediate(beginRound);
    setImmediate(endRound);
  }

  return () => {
    schedule();
    if (free > 0 && waiting.length === 0) {
      free--;
      return undefined;
    }
    return new Promise<void>((resolve) => waiting.push({ go: resolve, sinceMs: performance.now() }));
  };
}
