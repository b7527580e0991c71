/** Undefined where it may go on at once, otherwise a promise of its turn. */
export type TakeTurn = () => Promise<void> | undefined;

/**
 * Lets so many pieces of work happen between two looks at the network, first come, first served. One event can concern thousands of readers: told without a
 * pause, they would hold up every request for as long as it takes to tell them all.
 */
export function takeTurns(perRound: number): TakeTurn {
  let taken = 0;
  let scheduled = false;
  let waiting: (() => void)[] = [];

  function nextRound(): void {
    scheduled = false;
    const due = waiting.slice(0, perRound);
    waiting = waiting.slice(perRound);
    taken = due.length;
    if (taken > 0) schedule();
    for (const go of due) go();
  }

  function schedule(): void {
    if (scheduled) return;
    scheduled = true;
    setImmediate(nextRound);
  }

  return () => {
    schedule();
    if (taken < perRound && waiting.length === 0) {
      taken++;
      return undefined;
    }
    return new Promise<void>((resolve) => waiting.push(resolve));
  };
}
