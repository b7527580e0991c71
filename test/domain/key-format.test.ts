import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

import { describe, expect, it } from 'vitest';

import type { KeyType } from '../../src/domain/key-format.ts';
import { formatKey, KEY_PREFIXES, maskKey, newLookupId, parseKey } from '../../src/domain/key-format.ts';
import { encodeBase62Uint32 } from '../../src/lib/base62.ts';
import { Secret } from '../../src/lib/secret.ts';

const TYPES: readonly KeyType[] = ['PUBLIC', 'SECRET', 'TEST'];
const ZEROS = new Uint8Array(32);

function newKey(type: KeyType): { readonly text: string; readonly lookupId: string } {
  const lookupId = newLookupId(randomBytes(32));
  return { text: formatKey(type, lookupId, randomBytes(32)).reveal(), lookupId };
}

describe('the format of a key', () => {
  it('is prefix, lookup id, 256 random bits and checksum, and a double click selects all of it', () => {
    for (const type of TYPES) {
      const { text, lookupId } = newKey(type);
      expect(text).toMatch(/^\w{73}$/);
      expect(text.startsWith(`${KEY_PREFIXES[type]}${lookupId}`)).toBe(true);
      expect(parseKey(text)).toEqual({ type, lookupId });
    }
  });

  it('stays what it is, since the keys that are out there are for ever', () => {
    const bytes = (first: number): Uint8Array => Uint8Array.from({ length: 32 }, (_, index) => first + index);
    // Computed by another program.
    const key = 'sk_live_XG9LRKRcwGkBIDlf7cMxemzhJjkW31yzTx5H07wJF2A2uBEOEec26ubYMsJ07utuV';
    expect(formatKey('SECRET', newLookupId(bytes(0)), bytes(32)).reveal()).toBe(key);
    expect(parseKey(key)).toEqual({ type: 'SECRET', lookupId: 'XG9LRKRcwGkBIDlf' });
  });

  it('gives a Secret, which does not show itself', () => {
    const key = formatKey('SECRET', newLookupId(ZEROS), randomBytes(32));
    expect(String(key)).toBe('[redacted]');
    expect(JSON.stringify({ key })).toBe('{"key":"[redacted]"}');
  });

  it('is refused after any change of one character', () => {
    const { text } = newKey('SECRET');
    for (let position = 0; position < text.length; position += 1) {
      for (const other of ['0', 'Z', 'a', '_', '-', ' ', '\u0000', 'é', '€', '\ud800']) {
        const changed = text.slice(0, position) + other + text.slice(position + 1);
        expect(parseKey(changed) === null).toBe(changed !== text);
      }
    }
  });

  it('is refused with two neighbours swapped, cut, lengthened, or with space around it', () => {
    const { text } = newKey('TEST');
    for (let position = 0; position + 1 < text.length; position += 1) {
      const swapped = text.slice(0, position) + text.charAt(position + 1) + text.charAt(position) + text.slice(position + 2);
      expect(parseKey(swapped) === null).toBe(swapped !== text);
    }
    for (const other of ['', text.slice(0, -1), `${text}0`, ` ${text}`, `${text}\n`, text.toUpperCase(), text.repeat(1_000)]) {
      expect(parseKey(other)).toBeNull();
    }
  });

  it('is refused with an unknown prefix, even where the checksum is right', () => {
    const { text } = newKey('SECRET');
    const withPrefix = (prefix: string): string => {
      const body = prefix + text.slice(8, 67);
      return body + encodeBase62Uint32(crc32(body));
    };
    expect(parseKey(withPrefix('pk_test_'))).toBeNull();
    expect(parseKey(withPrefix('klat_000'))).toBeNull();
    // The control: the same construction with a known prefix.
    expect(parseKey(withPrefix('sk_test_'))).toMatchObject({ type: 'TEST' });
  });

  it('is refused with a checksum that is right but above 32 bits', () => {
    const { text } = newKey('SECRET');
    expect(parseKey(`${text.slice(0, 67)}zzzzzz`)).toBeNull();
  });

  it('takes its randomness and lookup id only whole', () => {
    const lookupId = newLookupId(ZEROS);
    expect(() => formatKey('SECRET', lookupId, randomBytes(31))).toThrow(RangeError);
    expect(() => formatKey('SECRET', lookupId.slice(1), randomBytes(32))).toThrow(RangeError);
    expect(() => formatKey('SECRET', `${lookupId.slice(1)}_`, randomBytes(32))).toThrow(RangeError);
    expect(() => newLookupId(randomBytes(16))).toThrow(RangeError);
  });
});

describe('a lookup id', () => {
  it('has every digit in every place about equally often', () => {
    const rounds = 20_000;
    const counts = Array.from({ length: 16 }, () => new Map<string, number>());
    // A fixed sequence of bytes instead of random ones, so that the test gives one answer for ever.
    let state = 1n;
    for (let round = 0; round < rounds; round += 1) {
      const bytes = Buffer.alloc(32);
      for (let offset = 0; offset < 32; offset += 8) {
        state = (state * 6364136223846793005n + 1442695040888963407n) % 2n ** 64n;
        bytes.writeBigUInt64BE(((state >> 33n) ^ state) % 2n ** 64n, offset);
      }
      for (const [place, digit] of newLookupId(bytes).split('').entries()) {
        counts[place]?.set(digit, (counts[place]?.get(digit) ?? 0) + 1);
      }
    }
    const worst = Math.max(...counts.map(chiSquared));
    // 61 degrees of freedom: 130 is passed by chance once in 2 million. Bytes modulo 62 would reach 1,000: see the control.
    expect(worst).toBeLessThan(130);
    const biased = new Map<string, number>();
    for (let byte = 0; byte < rounds; byte += 1) {
      const digit = String((byte % 256) % 62);
      biased.set(digit, (biased.get(digit) ?? 0) + 1);
    }
    expect(chiSquared(biased)).toBeGreaterThan(130);

    function chiSquared(digits: ReadonlyMap<string, number>): number {
      const expected = rounds / 62;
      return digits.size < 62 ? Infinity : digits.values().reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    }
  });
});

describe('the masked form of a key', () => {
  it('1.10 is the prefix, four characters of the lookup id and the last four of the checksum', () => {
    for (const type of TYPES) {
      const { text, lookupId } = newKey(type);
      expect(maskKey(new Secret(text))).toBe(`${KEY_PREFIXES[type]}${lookupId.slice(0, 4)}...${text.slice(-4)}`);
    }
  });

  it('does not exist for what is no key, and the error does not show it', () => {
    expect(() => maskKey(new Secret('sk_live_canary'))).toThrow(/^not a key: it has no masked form$/);
  });
});
