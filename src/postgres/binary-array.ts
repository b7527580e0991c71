import { addressBytes } from '../lib/ip-address.ts';

/** A type's elements in Postgres' binary format. */
export type BinaryType<Value> = {
  readonly oid: number;
  readonly bytes: (value: Value) => number;
  readonly write: (into: Memory, value: Value, offset: number) => void;
};

/** The same bytes twice: Buffer knows text, and DataView writes a bigint in a fiftieth of Buffer's time. */
type Memory = { readonly buffer: Buffer; readonly view: DataView };

/** Some elements, ready to be put behind others. */
export type ArrayPart = { readonly oid: number; readonly length: number; readonly nulls: number; readonly elements: Buffer };

const HEADER_BYTES = 20;
const LENGTH_BYTES = 4;
const ADDRESS_HEADER_BYTES = 4;
/** Postgres counts microseconds from the beginning of 2000. */
const POSTGRES_EPOCH_MS = 946_684_800_000;

/** Values of these three must lie within their range. */
export const INT2 = ofBytes<number>(21, 2, ({ view }, value, offset) => view.setInt16(offset, value));
export const INT4 = ofBytes<number>(23, 4, ({ view }, value, offset) => view.setInt32(offset, value));
export const INT8 = ofBytes<bigint>(20, 8, ({ view }, value, offset) => view.setBigInt64(offset, value));
export const TIMESTAMPTZ = ofBytes<Date>(1184, 8, ({ view }, value, offset) =>
  view.setBigInt64(offset, BigInt(value.getTime() - POSTGRES_EPOCH_MS) * 1000n),
);
export const UUID = ofBytes<string>(2950, 16, ({ buffer }, value, offset) => buffer.write(value.replaceAll('-', ''), offset, 'hex'));
/** Text without NUL and lone surrogates. */
export const TEXT: BinaryType<string> = {
  oid: 25,
  bytes: (value) => Buffer.byteLength(value),
  write: ({ buffer }, value, offset) => buffer.write(value, offset),
};
/** Addresses of hosts: family (2 for IPv4, 3 for IPv6), bits of the network, whether it is a cidr, bytes that follow, and these (network_recv in src/backend/utils/adt/network.c). */
export const INET: BinaryType<string> = {
  oid: 869,
  bytes: (value) => ADDRESS_HEADER_BYTES + (value.includes(':') ? 16 : 4),
  write({ view }, value, offset) {
    const bytes = addressBytes(value);
    const { length } = bytes;
    view.setUint32(offset, ((length === 4 ? 2 : 3) << 24) | ((length * 8) << 16) | length);
    for (let index = 0; index < length; index++) view.setUint8(offset + ADDRESS_HEADER_BYTES + index, bytes[index] ?? 0);
  },
};

/** A timestamptz parameter of so many microseconds since 1970. */
export function binaryTimestamp(microseconds: number): Buffer {
  const bytes = Buffer.allocUnsafe(8);
  bytes.writeBigInt64BE(BigInt(microseconds) - BigInt(POSTGRES_EPOCH_MS) * 1000n);
  return bytes;
}

/** The part of an array that these sources make. */
export function arrayPart<Source, Value>(
  type: BinaryType<Value>,
  sources: ArrayLike<Source>,
  of: (source: Source) => Value | null,
): ArrayPart {
  const { bytes, nulls } = measure(type, sources, of);
  const elements = Buffer.allocUnsafe(bytes);
  writeElements(type, sources, of, elements, 0);
  return { oid: type.oid, length: sources.length, nulls, elements };
}

/** The array that these sources make: {@link binaryArray} of one part, without its copy. */
export function arrayOf<Source, Value>(
  type: BinaryType<Value>,
  sources: ArrayLike<Source>,
  of: (source: Source) => Value | null,
): Buffer | null {
  const { bytes, nulls } = measure(type, sources, of);
  if (nulls === sources.length) return null;
  const array = Buffer.allocUnsafe(HEADER_BYTES + bytes);
  writeHeader(array, type.oid, sources.length, nulls);
  writeElements(type, sources, of, array, HEADER_BYTES);
  return array;
}

/**
 * The array of several parts of one type, one after the other, for a parameter of that array type. Null where all its elements are: a NULL says so in fewer bytes.
 *
 * One-dimensional arrays in Postgres' binary format, which it takes where a parameter is a Buffer: five int32 (dimensions, whether it has NULLs, the elements' OID, length, lower bound), and
 * each element as its length and its bytes, a NULL as the length -1 (array_recv in src/backend/utils/adt/arrayfuncs.c). Neither side writes or reads a digit of text.
 */
export function binaryArray(parts: readonly ArrayPart[]): Buffer | null {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const nulls = parts.reduce((sum, part) => sum + part.nulls, 0);
  if (nulls === length) return null;
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  writeHeader(header, parts[0]?.oid ?? 0, length, nulls);
  return Buffer.concat([header, ...parts.map((part) => part.elements)]);
}

function measure<Source, Value>(
  type: BinaryType<Value>,
  sources: ArrayLike<Source>,
  of: (source: Source) => Value | null,
): { readonly bytes: number; readonly nulls: number } {
  let bytes = sources.length * LENGTH_BYTES;
  let nulls = 0;
  for (let index = 0; index < sources.length; index++) {
    const value = of(sources[index] as Source);
    if (value === null) nulls++;
    else bytes += type.bytes(value);
  }
  return { bytes, nulls };
}

function writeHeader(into: Buffer, oid: number, length: number, nulls: number): void {
  into.writeInt32BE(1, 0);
  into.writeInt32BE(nulls > 0 ? 1 : 0, 4);
  into.writeInt32BE(oid, 8);
  into.writeInt32BE(length, 12);
  into.writeInt32BE(1, 16);
}

function writeElements<Source, Value>(
  type: BinaryType<Value>,
  sources: ArrayLike<Source>,
  of: (source: Source) => Value | null,
  buffer: Buffer,
  start: number,
): void {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  const into = { buffer, view };
  let offset = start;
  for (let index = 0; index < sources.length; index++) {
    const value = of(sources[index] as Source);
    const bytes = value === null ? 0 : type.bytes(value);
    view.setInt32(offset, value === null ? -1 : bytes);
    if (value !== null) type.write(into, value, offset + LENGTH_BYTES);
    offset += LENGTH_BYTES + bytes;
  }
}

function ofBytes<Value>(oid: number, bytes: number, write: BinaryType<Value>['write']): BinaryType<Value> {
  return { oid, bytes: () => bytes, write };
}
