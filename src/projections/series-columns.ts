/** A whole number, exact whichever it is: a `number` where that can hold it. */
export type Whole = number | bigint;

const ZERO = 48;
const NINE = 57;
const COMMA = 44;
const MINUS = 45;

/** Columns of a series' buckets are arrays of bigint as Postgres writes them, `{1,2,…}`; null where there is no bucket. */
type Column = string | null | undefined;

/** The point of each bucket, by the second since 1970 at which it begins. Throws where one lies outside of the `count` points. */
export function placesOf(seconds: Column, placeOf: (second: number) => number, count: number): readonly number[] {
  const places: number[] = [];
  readNumbers(seconds, (second) => {
    const place = placeOf(second);
    if (!(place >= 0 && place < count)) throw new Error('A bucket lies outside of the period that was asked for.');
    places.push(place);
  });
  return places;
}

/** The sums of a column's buckets by point: as numbers where all of them are exact, which takes a tenth of the time that bigints take, else as bigints. */
export function addUp(column: Column, places: readonly number[], count: number): ArrayLike<Whole> {
  const sums = new Float64Array(count);
  let index = 0;
  let exact = true;
  const read = readNumbers(column, (number) => {
    const place = places[index++] ?? -1;
    const sum = (sums[place] ?? 0) + number;
    if (!Number.isSafeInteger(sum)) exact = false;
    sums[place] = sum;
  });
  return read && exact ? sums : addUpBigints(column, places, count);
}

function addUpBigints(column: Column, places: readonly number[], count: number): readonly bigint[] {
  const sums = Array.from({ length: count }, () => 0n);
  const cells = column == null ? [] : column.slice(1, -1).split(',');
  for (const [index, cell] of cells.entries()) {
    const place = places[index] ?? -1;
    sums[place] = (sums[place] ?? 0n) + BigInt(cell);
  }
  return sums;
}

/** Number by number, without a text of each: half of the time that `split` and `Number` take. False where one is too large to be exact, as soon as it is met. */
function readNumbers(column: Column, take: (number: number) => void): boolean {
  if (column == null || column.length <= 2) return true;
  let number = 0;
  let negative = false;
  for (let at = 1; at < column.length; at++) {
    const code = column.charCodeAt(at);
    if (code >= ZERO && code <= NINE) number = number * 10 + (code - ZERO);
    else if (code === MINUS) negative = true;
    else if (code === COMMA || at === column.length - 1) {
      if (!Number.isSafeInteger(number)) return false;
      take(negative ? -number : number);
      number = 0;
      negative = false;
    } else throw new Error(`A series' column holds what is no number: ${column.slice(at, at + 20)}`);
  }
  return true;
}
