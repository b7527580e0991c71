const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** Digit value by character code, -1 for what is no base62 digit. A table, because the check runs on every verification. */
const DIGIT_VALUES = Int8Array.from({ length: 128 }, (_, code) => ALPHABET.indexOf(String.fromCharCode(code)));

/** Digits that hold any 256-bit number: 62^43 is a little above 2^256. */
export const BASE62_DIGITS_256_BIT = 43;

/** Digits that hold any 32-bit number. */
export const BASE62_DIGITS_32_BIT = 6;

/**
 * The bytes, read as one big-endian number, as base62 (`0-9A-Za-z`, most significant digit first), padded with `0` to `length` characters.
 * Throws a RangeError where the number needs more.
 */
export function encodeBase62(bytes: Uint8Array, length: number): string {
  let rest = bytes.length === 0 ? 0n : BigInt(`0x${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')}`);
  let text = '';
  for (let position = 0; position < length; position += 1) {
    text = ALPHABET.charAt(Number(rest % 62n)) + text;
    rest /= 62n;
  }
  if (rest !== 0n) {
    throw new RangeError(`${bytes.length} bytes don't fit in ${length} base62 characters`);
  }
  return text;
}

/** An unsigned 32-bit number as six base62 characters. */
export function encodeBase62Uint32(value: number): string {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) {
    throw new RangeError('not an unsigned 32-bit number');
  }
  let rest = value;
  let text = '';
  for (let position = 0; position < BASE62_DIGITS_32_BIT; position += 1) {
    text = ALPHABET.charAt(rest % 62) + text;
    rest = Math.floor(rest / 62);
  }
  return text;
}

/** Whether every character from `start` up to, not including, `end` is a base62 digit. Allocates nothing; false where the text is shorter. */
export function isBase62(text: string, start: number, end: number): boolean {
  for (let position = start; position < end; position += 1) {
    // charCodeAt is NaN past the end and above 127 for other scripts: the table answers undefined for both.
    if ((DIGIT_VALUES[text.charCodeAt(position)] ?? -1) < 0) {
      return false;
    }
  }
  return true;
}

/**
 * The number that the base62 digits from `start` up to, not including, `end` stand for: at most 8 digits, so that it is exact in a double.
 * NaN where a character is no digit.
 */
export function decodeBase62(text: string, start: number, end: number): number {
  let value = 0;
  for (let position = start; position < end; position += 1) {
    const digit = DIGIT_VALUES[text.charCodeAt(position)] ?? -1;
    if (digit < 0) {
      return Number.NaN;
    }
    value = value * 62 + digit;
  }
  return value;
}
