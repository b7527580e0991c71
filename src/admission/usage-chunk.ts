import { positionOfRequestId } from '../domain/usage.ts';
import { arrayPart, INET, INT2, INT4, INT8, TEXT, TIMESTAMPTZ, type ArrayPart, type BinaryType } from '../postgres/binary-array.ts';
import type { UsageItem } from './admission.ts';

const SECOND_MS = 1000;
const MAX_POSITION = 2n ** 63n - 1n;

/** Some items of a report as columns, ready to be put behind those of others. */
export type UsageChunk = {
  readonly items: number;
  /** The ids of the keys that its items name, each once. */
  readonly keys: readonly string[];
  /** Each item's place in `keys`, from 1; 0 where it names none. */
  readonly key: Int32Array;
  /** Null where an item has a request id or names no key: what is charged then only the database can know. */
  readonly charges: readonly Charge[] | null;
  /** In the order of {@link COLUMNS}. */
  readonly parts: readonly ArrayPart[];
};

/** What a key is charged for one second, or for now. No window has a finer bucket. */
export type Charge = {
  /** Its place in `keys`, from 1. */
  readonly key: number;
  readonly second: number | null;
  readonly credits: number;
  readonly tokens: bigint;
};

/** Several chunks as one. */
export type JoinedChunks = Omit<UsageChunk, 'parts'> & {
  /** Ascending. */
  readonly keys: readonly string[];
  /** The items' places, from 1, key by key; those of one key in the order in which they came. */
  readonly order: Int32Array;
  /** The chunks' parts of each column. */
  readonly parts: readonly (readonly ArrayPart[])[];
};

type Column = (items: readonly UsageItem[]) => ArrayPart;

/** As the last parameters of the SQL function `record_usage` stand. */
const COLUMNS: readonly Column[] = [
  column(INT8, ({ requestId }) => generatedPosition(requestId)),
  column(TEXT, ({ requestId }) => (generatedPosition(requestId) === null ? requestId : null)),
  column(TIMESTAMPTZ, (item) => item.at),
  column(TEXT, (item) => item.endpoint),
  column(INT2, (item) => item.status),
  column(INT4, (item) => item.durationMs),
  column(INET, (item) => item.ip),
  column(INT4, (item) => item.credits),
  column(INT8, (item) => item.costMicros),
  column(INT8, (item) => item.tokensIn),
  column(INT8, (item) => item.tokensOut),
  column(TEXT, (item) => item.model),
];

export function usageChunk(items: readonly UsageItem[]): UsageChunk {
  const places = new Map<string, number>();
  const key = Int32Array.from(items, ({ keyId }) => (keyId === null ? 0 : placeOf(places, keyId.toLowerCase())));
  const known = items.every(({ requestId, keyId }) => requestId === null && keyId !== null);
  return {
    items: items.length,
    keys: [...places.keys()],
    key,
    charges: known ? chargesOf(items, key) : null,
    parts: COLUMNS.map((of) => of(items)),
  };
}

/** Those of several reports, or of one in several parts. */
export function joinChunks(chunks: readonly UsageChunk[]): JoinedChunks {
  const keys = [...new Set(chunks.flatMap((chunk) => chunk.keys))].sort();
  const places = new Map(keys.map((id, index) => [id, index + 1]));
  const moved = chunks.map((chunk) => Int32Array.from([0, ...chunk.keys.map((id) => places.get(id) ?? 0)]));
  const items = chunks.reduce((sum, chunk) => sum + chunk.items, 0);
  const key = new Int32Array(items);
  let next = 0;
  chunks.forEach((chunk, index) => {
    for (const place of chunk.key) key[next++] = moved[index]?.[place] ?? 0;
  });
  const sums = createSums();
  const known = chunks.every((chunk) => chunk.charges !== null);
  if (known)
    chunks.forEach(({ charges }, index) => {
      for (const { key: place, second, credits, tokens } of charges ?? []) sums.add(moved[index]?.[place] ?? 0, second, credits, tokens);
    });
  return {
    items,
    keys,
    key,
    charges: known ? sums.all() : null,
    order: orderBy(key, keys.length),
    parts: COLUMNS.map((_, index) => chunks.flatMap((chunk) => chunk.parts[index] ?? [])),
  };
}

/** The places, from 1, of ascending values from 0 to `most`; counted, not compared. */
function orderBy(values: Int32Array, most: number): Int32Array {
  const from = new Int32Array(most + 2);
  for (const value of values) from[value + 1] = (from[value + 1] ?? 0) + 1;
  for (let value = 1; value <= most; value++) from[value] = (from[value] ?? 0) + (from[value - 1] ?? 0);
  const order = new Int32Array(values.length);
  values.forEach((value, index) => {
    const place = from[value] ?? 0;
    order[place] = index + 1;
    from[value] = place + 1;
  });
  return order;
}

function chargesOf(items: readonly UsageItem[], key: Int32Array): readonly Charge[] {
  const sums = createSums();
  items.forEach(({ at, credits, tokensIn, tokensOut }, index) => {
    sums.add(
      key[index] ?? 0,
      at === null ? null : Math.floor(at.getTime() / SECOND_MS),
      credits ?? 1,
      (tokensIn ?? 0n) + (tokensOut ?? 0n),
    );
  });
  return sums.all();
}

function createSums() {
  const sums = new Map<number, { -readonly [Field in keyof Charge]: Charge[Field] }>();
  return {
    add(key: number, second: number | null, credits: number, tokens: bigint): void {
      const name = key * 2 ** 32 + (second ?? -1);
      const sum = sums.get(name);
      if (sum === undefined) sums.set(name, { key, second, credits, tokens });
      else {
        sum.credits += credits;
        sum.tokens += tokens;
      }
    },
    all: (): readonly Charge[] => [...sums.values()],
  };
}

/** From 1. */
function placeOf(places: Map<string, number>, id: string): number {
  const known = places.get(id);
  if (known !== undefined) return known;
  places.set(id, places.size + 1);
  return places.size;
}

/** No event has a position above the greatest, so an id beyond it names no request, as that one doesn't. */
function generatedPosition(requestId: string | null): bigint | null {
  const position = requestId === null ? null : positionOfRequestId(requestId);
  return position !== null && position > MAX_POSITION ? MAX_POSITION : position;
}

function column<Value>(type: BinaryType<Value>, of: (item: UsageItem) => Value | null): Column {
  return (items) => arrayPart(type, items, of);
}
