import { positionOfRequestId } from '../domain/usage.ts';
import { arrayPart, INT2, INT4, INT8, textArrayPart, TIMESTAMPTZ, type ArrayPart, type FixedType } from '../postgres/binary-array.ts';
import type { UsageItem } from './admission.ts';

const SECOND_MS = 1000;
const MAX_POSITION = 2n ** 63n - 1n;

/** Some items of a report as columns, ready to be put behind those of others. */
export type UsageChunk = {
  readonly items: number;
  /** The ids of the keys that its items name, each once. */
  readonly keys: readonly string[];
  /** Each item's place in `keys`. */
  readonly key: readonly (number | null)[];
  /** Null where an item has a request id or names no key: what is charged then only the database can know. */
  readonly charges: readonly Charge[] | null;
  /** In the order of {@link COLUMNS}. */
  readonly parts: readonly ArrayPart[];
};

/** What a key is charged for one second, or for now. No window has a finer bucket. */
export type Charge = {
  /** Its place in `keys`. */
  readonly key: number;
  readonly second: number | null;
  readonly credits: number;
  readonly tokens: bigint;
};

type Column = (items: readonly UsageItem[]) => ArrayPart;

/** As the last parameters of the SQL function `record_usage` stand. */
const COLUMNS: readonly Column[] = [
  fixed(INT8, ({ requestId }) => generatedPosition(requestId)),
  text(({ requestId }) => (generatedPosition(requestId) === null ? requestId : null)),
  fixed(TIMESTAMPTZ, (item) => item.at),
  text((item) => item.endpoint),
  fixed(INT2, (item) => item.status),
  fixed(INT4, (item) => item.durationMs),
  text((item) => item.ip),
  fixed(INT4, (item) => item.credits),
  fixed(INT8, (item) => item.costMicros),
  fixed(INT8, (item) => item.tokensIn),
  fixed(INT8, (item) => item.tokensOut),
  text((item) => item.model),
];

export function usageChunk(items: readonly UsageItem[]): UsageChunk {
  const places = new Map<string, number>();
  const key = items.map(({ keyId }) => (keyId === null ? null : placeOf(places, keyId.toLowerCase())));
  const known = items.every(({ requestId, keyId }) => requestId === null && keyId !== null);
  const charges = items.map(({ at, credits, tokensIn, tokensOut }, index) => ({
    key: key[index] ?? 0,
    second: at === null ? null : Math.floor(at.getTime() / SECOND_MS),
    credits: credits ?? 1,
    tokens: (tokensIn ?? 0n) + (tokensOut ?? 0n),
  }));
  return {
    items: items.length,
    keys: [...places.keys()],
    key,
    charges: known ? addedUp(charges) : null,
    parts: COLUMNS.map((column) => column(items)),
  };
}

/** Those of several reports, or of one in several parts, as one. */
export function joinChunks(
  chunks: readonly UsageChunk[],
): Omit<UsageChunk, 'parts'> & { readonly parts: readonly (readonly ArrayPart[])[] } {
  const places = new Map<string, number>();
  const moved = chunks.map(({ keys }) => keys.map((id) => placeOf(places, id)));
  const charges: Charge[] = [];
  let known = true;
  chunks.forEach((chunk, index) => {
    if (chunk.charges === null) known = false;
    else for (const charge of chunk.charges) charges.push({ ...charge, key: moved[index]?.[charge.key] ?? 0 });
  });
  return {
    items: chunks.reduce((sum, chunk) => sum + chunk.items, 0),
    keys: [...places.keys()],
    key: chunks.flatMap((chunk, index) => chunk.key.map((place) => (place === null ? null : (moved[index]?.[place] ?? null)))),
    charges: known ? (chunks.length === 1 ? charges : addedUp(charges)) : null,
    parts: COLUMNS.map((_, column) => chunks.flatMap((chunk) => chunk.parts[column] ?? [])),
  };
}

function addedUp(charges: readonly Charge[]): readonly Charge[] {
  const sums = new Map<number, { -readonly [Field in keyof Charge]: Charge[Field] }>();
  for (const charge of charges) {
    const name = charge.key * 2 ** 32 + (charge.second ?? -1);
    const sum = sums.get(name);
    if (sum === undefined) sums.set(name, { ...charge });
    else {
      sum.credits += charge.credits;
      sum.tokens += charge.tokens;
    }
  }
  return [...sums.values()];
}

function placeOf(places: Map<string, number>, id: string): number {
  const known = places.get(id);
  if (known !== undefined) return known;
  places.set(id, places.size);
  return places.size - 1;
}

/** No event has a position above the greatest, so an id beyond it names no request, as that one doesn't. */
function generatedPosition(requestId: string | null): bigint | null {
  const position = requestId === null ? null : positionOfRequestId(requestId);
  return position !== null && position > MAX_POSITION ? MAX_POSITION : position;
}

function fixed<Value>(type: FixedType<Value>, of: (item: UsageItem) => Value | null): Column {
  return (items) => arrayPart(type, items.map(of));
}

function text(of: (item: UsageItem) => string | null): Column {
  return (items) => textArrayPart(items.map(of));
}
