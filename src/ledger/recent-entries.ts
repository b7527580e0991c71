import type { LedgerEntry, LogFilter } from './read.ts';
import type { LogPage } from './tail.ts';

/** The newest entries of the log in memory: positions `floor + 1 … head`, without a hole. */
export type RecentEntries = {
  head(): bigint;
  /** Forgets everything and starts anew behind a position. */
  restart(head: bigint): void;
  /** Adds entries that follow the head; drops the oldest above the capacity. Throws where they don't follow. */
  add(entries: readonly LedgerEntry[]): void;
  /** What the filter admits after a position; null where that lies below the floor and the database has to answer. */
  after(position: bigint, filter: LogFilter, limit: number): LogPage | null;
};

export function createRecentEntries(capacity: number, start: bigint): RecentEntries {
  let entries: readonly LedgerEntry[] = [];
  let head = start;

  return {
    head: () => head,
    restart(position) {
      entries = [];
      head = position;
    },
    add(more) {
      const first = more[0];
      const last = more.at(-1);
      if (first === undefined || last === undefined) return;
      if (first.position !== head + 1n || last.position !== head + BigInt(more.length)) {
        throw new Error(
          `The log has a hole: after position ${head} came ${more.length} events from ${first.position} to ${last.position}.`,
        );
      }
      entries = [...entries, ...more].slice(-capacity);
      head = last.position;
    },
    after(position, filter, limit) {
      const floor = head - BigInt(entries.length);
      if (position < floor) return null;
      const matching: LedgerEntry[] = [];
      for (let index = Number(position - floor); index < entries.length; index++) {
        const entry = entries[index];
        if (entry === undefined || !admits(filter, entry)) continue;
        matching.push(entry);
        if (matching.length === limit) return { entries: matching, readTo: entry.position };
      }
      return { entries: matching, readTo: head };
    },
  };
}

/** Whether a filter lets an entry pass; the same rule that `readLog` puts into SQL. */
export function admits(filter: LogFilter, entry: LedgerEntry): boolean {
  return (
    (filter.organizationId === undefined || filter.organizationId === entry.organizationId) &&
    (filter.types === undefined || filter.types.includes(entry.type)) &&
    (filter.streams === undefined || filter.streams.includes(entry.stream))
  );
}
