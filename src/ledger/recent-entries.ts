import { admitsUsage, type LedgerEntry, type LogFilter } from './read.ts';
import type { LogPage } from './tail.ts';
import { topicsOfEntry, topicsOfFilter } from './topics.ts';

/** The newest entries of the log in memory: positions `floor + 1 … head`, without a hole but for usage events that nobody followed when they came. */
export type RecentEntries = {
  head(): bigint;
  /** Forgets everything and starts anew behind a position. */
  restart(head: bigint): void;
  /** Adds entries that follow the head; drops the oldest above the capacity. Throws where they don't follow. Answers the topics that they have. */
  add(entries: readonly LedgerEntry[]): Iterable<string>;
  /** Adds what came up to a position but for usage events. */
  addLifecycle(entries: readonly LedgerEntry[], readTo: bigint): Iterable<string>;
  /** What the filter admits after a position; null where that is not held here and the database has to answer. */
  after(position: bigint, filter: LogFilter, limit: number): LogPage | null;
};

/** What came at once, and where in it is what. A thousand followers ask for a few entries each: none of them should walk over all. */
type Chunk = { readonly head: bigint; readonly size: number; readonly byTopic: ReadonlyMap<string, readonly LedgerEntry[]> };

export function createRecentEntries(capacity: number, start: bigint): RecentEntries {
  /** Oldest first. */
  let chunks: Chunk[] = [];
  let size = 0;
  let floor = start;
  let head = start;
  /** From here on usage events are held, too. */
  let usageFloor = start;

  function push(entries: readonly LedgerEntry[], readTo: bigint): Iterable<string> {
    const byTopic = new Map<string, LedgerEntry[]>();
    for (const entry of entries) {
      for (const topic of topicsOfEntry(entry)) {
        const found = byTopic.get(topic);
        if (found === undefined) byTopic.set(topic, [entry]);
        else found.push(entry);
      }
    }
    head = readTo;
    if (entries.length === 0) return [];
    chunks.push({ head, size: entries.length, byTopic });
    size += entries.length;
    // Whole chunks go, and never the newest one.
    for (let oldest = chunks[0]; oldest !== undefined && chunks.length > 1 && size > capacity; oldest = chunks[0]) {
      chunks.shift();
      size -= oldest.size;
      floor = oldest.head;
    }
    return byTopic.keys();
  }

  return {
    head: () => head,
    restart(position) {
      chunks = [];
      size = 0;
      floor = position;
      head = position;
      usageFloor = position;
    },
    add(more) {
      const first = more[0];
      const last = more.at(-1);
      if (first === undefined || last === undefined) return [];
      if (first.position !== head + 1n || last.position !== head + BigInt(more.length)) {
        throw new Error(
          `The log has a hole: after position ${head} came ${more.length} events from ${first.position} to ${last.position}.`,
        );
      }
      return push(more, last.position);
    },
    addLifecycle(more, readTo) {
      usageFloor = readTo;
      return push(more, readTo);
    },
    after(position, filter, limit) {
      if (position < floor || (position < usageFloor && admitsUsage(filter))) return null;
      const topics = topicsOfFilter(filter);
      const matching: LedgerEntry[] = [];
      let from = chunks.length;
      while (from > 0 && (chunks[from - 1]?.head ?? 0n) > position) from--;
      for (const { byTopic } of chunks.slice(from)) {
        for (const entry of candidates(byTopic, topics)) {
          if (entry.position <= position || !admits(filter, entry)) continue;
          matching.push(entry);
          if (matching.length === limit) return { entries: matching, readTo: entry.position };
        }
      }
      return { entries: matching, readTo: head };
    },
  };
}

/** The entries that have one of the topics, in order. An entry has no two topics of one filter. */
function candidates(byTopic: Chunk['byTopic'], topics: readonly string[]): readonly LedgerEntry[] {
  const found = topics.flatMap((topic) => {
    const entries = byTopic.get(topic);
    return entries === undefined ? [] : [entries];
  });
  if (found.length <= 1) return found[0] ?? [];
  return found.flat().sort((one, other) => (one.position < other.position ? -1 : 1));
}

/** Whether a filter lets an entry pass; the same rule that `readLog` puts into SQL. */
export function admits(filter: LogFilter, entry: LedgerEntry): boolean {
  return (
    (filter.organizationId === undefined || filter.organizationId === entry.organizationId) &&
    (filter.types === undefined || filter.types.includes(entry.type)) &&
    (filter.streams === undefined || filter.streams.includes(entry.stream))
  );
}
