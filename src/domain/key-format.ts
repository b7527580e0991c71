import { crc32 } from 'node:zlib';

import { BASE62_DIGITS_256_BIT, BASE62_DIGITS_32_BIT, decodeBase62, encodeBase62, encodeBase62Uint32, isBase62 } from '../lib/base62.ts';
import { Secret } from '../lib/secret.ts';

/** PUBLIC keys are for browsers, TEST keys are refused in live environments and the others in test environments. */
export type KeyType = 'PUBLIC' | 'SECRET' | 'TEST';

/** How a key of each type begins. All have the same length, which the parser relies on. */
export const KEY_PREFIXES: Readonly<Record<KeyType, string>> = {
  PUBLIC: 'pk_live_',
  SECRET: 'sk_live_',
  TEST: 'sk_test_',
};

/** Characters of a lookup id: the public half of a key, by which its row is found. */
export const LOOKUP_ID_LENGTH = 16;

const RANDOM_BYTES = 32;
const PREFIX_LENGTH = 8;
const LOOKUP_END = PREFIX_LENGTH + LOOKUP_ID_LENGTH;
const CHECKSUM_START = LOOKUP_END + BASE62_DIGITS_256_BIT;

/** Characters of a whole key. */
export const KEY_LENGTH = CHECKSUM_START + BASE62_DIGITS_32_BIT;

/**
 * A new key's text: prefix, 16 base62 characters of lookup id, 43 of 256 random bits, 6 of the CRC32 of all before (for secret scanners and
 * typing errors; it protects nothing). Only `[0-9A-Za-z_]`, so that a double click selects all of it.
 *
 * `random` is 32 bytes from a cryptographic source, not those that the lookup id was made of: the lookup id is no secret.
 */
export function formatKey(type: KeyType, lookupId: string, random: Uint8Array): Secret {
  if (lookupId.length !== LOOKUP_ID_LENGTH || !isBase62(lookupId, 0, LOOKUP_ID_LENGTH)) {
    throw new RangeError(`a lookup id is ${LOOKUP_ID_LENGTH} base62 characters`);
  }
  requireRandomBytes(random);
  const body = KEY_PREFIXES[type] + lookupId + encodeBase62(random, BASE62_DIGITS_256_BIT);
  return new Secret(body + encodeBase62Uint32(crc32(body)));
}

/**
 * The type and lookup id of a text that has the form of a key, null for any other text. It never throws and says nothing about
 * whether the key exists: it refuses typing errors and noise before they cost a look at the database.
 */
export function parseKey(text: string): { readonly type: KeyType; readonly lookupId: string } | null {
  if (text.length !== KEY_LENGTH) {
    return null;
  }
  const type = typeByPrefix(text);
  if (type === null || !isBase62(text, PREFIX_LENGTH, CHECKSUM_START)) {
    return null;
  }
  // NaN, for a checksum that is not base62, equals nothing.
  if (decodeBase62(text, CHECKSUM_START, KEY_LENGTH) !== crc32(text.slice(0, CHECKSUM_START))) {
    return null;
  }
  return { type, lookupId: text.slice(PREFIX_LENGTH, LOOKUP_END) };
}

/**
 * A lookup id of 16 base62 characters from 32 random bytes. It is the number they spell modulo 62^16; since 2^256 is no multiple of that, some
 * ids are likelier than others by a factor of 1 + 2^-160, which is nothing. Bytes taken modulo 62 one by one would be biased by a quarter.
 */
export function newLookupId(random: Uint8Array): string {
  requireRandomBytes(random);
  return encodeBase62(random, BASE62_DIGITS_256_BIT).slice(-LOOKUP_ID_LENGTH);
}

/**
 * How a key is shown after its creation: `sk_live_a1b2...wxyz`, the type's prefix, four characters, the last four.
 *
 * What that gives away: the four characters are of the lookup id, which is no secret, and the last four are of the checksum. Those let a guesser throw
 * away wrong guesses without asking us, which is worth at most 24 of the 256 random bits; none of the random characters is shown.
 *
 * Throws a TypeError, without the text, where the secret is no key.
 */
export function maskKey(secret: Secret): string {
  const text = secret.reveal();
  if (parseKey(text) === null) {
    throw new TypeError('not a key: it has no masked form');
  }
  return `${text.slice(0, PREFIX_LENGTH + 4)}...${text.slice(-4)}`;
}

function typeByPrefix(text: string): KeyType | null {
  if (text.startsWith(KEY_PREFIXES.SECRET)) {
    return 'SECRET';
  }
  if (text.startsWith(KEY_PREFIXES.PUBLIC)) {
    return 'PUBLIC';
  }
  return text.startsWith(KEY_PREFIXES.TEST) ? 'TEST' : null;
}

function requireRandomBytes(random: Uint8Array): void {
  if (random.length !== RANDOM_BYTES) {
    throw new RangeError(`${RANDOM_BYTES} random bytes are needed, not ${random.length}`);
  }
}
