/**
 * One-dimensional arrays in Postgres' binary format, as it takes a Buffer for a parameter: five int32 (dimensions, whether it has NULLs, the element type's OID, length, lower bound), and
 * then each element as its length and its bytes, a NULL as the length -1 (array_recv in src/backend/utils/adt/arrayfuncs.c). Neither side reads or writes a digit of text.
 */
export type ArrayPart = { readonly type: ElementType; readonly length: number; readonly nulls: number; readonly elements: Buffer };

type ElementType = { readonly oid: number };

export type FixedType<Value> = ElementType & {
  readonly bytes: number;
  readonly write: (buffer: Buffer, value: Value, offset: number) => void;
};

/** Of as many bytes as its text has; each at most three for a UTF-16 unit. */
export type TextType = ElementType & { readonly text: true };

const HEADER_BYTES = 20;
const LENGTH_BYTES = 4;
const UTF8_BYTES_A_UNIT = 3;
/** Postgres counts microseconds from the beginning of 2000. */
const POSTGRES_EPOCH_MS = 946_684_800_000;

export const INT2: FixedType<number> = { oid: 21, bytes: 2, write: (buffer, value, offset) => buffer.writeInt16BE(value, offset) };
export const INT4: FixedType<number> = { oid: 23, bytes: 4, write: (buffer, value, offset) => buffer.writeInt32BE(value, offset) };
export const INT8: FixedType<bigint> = { oid: 20, bytes: 8, write: (buffer, value, offset) => buffer.writeBigInt64BE(value, offset) };
export const TIMESTAMPTZ: FixedType<Date> = {
  oid: 1184,
  bytes: 8,
  write: (buffer, value, offset) => buffer.writeBigInt64BE(BigInt(value.getTime() - POSTGRES_EPOCH_MS) * 1000n, offset),
};
export const UUID: FixedType<string> = {
  oid: 2950,
  bytes: 16,
  write: (buffer, value, offset) => buffer.write(value.replaceAll('-', ''), offset, 'hex'),
};
export const TEXT: TextType = { oid: 25, text: true };

/** The part of an array that these values make; values of a fixed type must lie within its range. */
export function arrayPart<Value>(type: FixedType<Value>, values: readonly (Value | null)[]): ArrayPart {
  const elements = Buffer.allocUnsafe(values.length * (LENGTH_BYTES + type.bytes));
  let offset = 0;
  let nulls = 0;
  for (const value of values) {
    if (value === null) {
      nulls++;
      offset = elements.writeInt32BE(-1, offset);
      continue;
    }
    offset = elements.writeInt32BE(type.bytes, offset);
    type.write(elements, value, offset);
    offset += type.bytes;
  }
  return { type, length: values.length, nulls, elements: elements.subarray(0, offset) };
}

/** The same of texts, which hold no NUL and no lone surrogate. */
export function textArrayPart(values: readonly (string | null)[]): ArrayPart {
  const most = values.reduce((sum, value) => sum + LENGTH_BYTES + (value === null ? 0 : value.length * UTF8_BYTES_A_UNIT), 0);
  const elements = Buffer.allocUnsafe(most);
  let offset = 0;
  let nulls = 0;
  for (const value of values) {
    if (value === null) {
      nulls++;
      offset = elements.writeInt32BE(-1, offset);
      continue;
    }
    const bytes = elements.write(value, offset + LENGTH_BYTES);
    offset = elements.writeInt32BE(bytes, offset) + bytes;
  }
  return { type: TEXT, length: values.length, nulls, elements: elements.subarray(0, offset) };
}

/** The array of several parts of one type, one after the other. Null where all its elements are: a NULL says so in fewer bytes. */
export function binaryArray(parts: readonly ArrayPart[]): Buffer | null {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const nulls = parts.reduce((sum, part) => sum + part.nulls, 0);
  if (nulls === length) return null;
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  [1, nulls > 0 ? 1 : 0, parts[0]?.type.oid ?? 0, length, 1].forEach((value, index) => header.writeInt32BE(value, index * 4));
  return Buffer.concat([header, ...parts.map((part) => part.elements)]);
}
