import { randomBytes } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import { decodeBase62, encodeBase62, encodeBase62Uint32, isBase62 } from '../../src/lib/base62.ts';

describe('base62', () => {
  it('writes any 256-bit number in 43 characters, and the largest in no fewer', () => {
    expect(encodeBase62(new Uint8Array(32), 43)).toBe('0'.repeat(43));
    const largest = encodeBase62(new Uint8Array(32).fill(0xff), 43);
    expect(largest).toHaveLength(43);
    expect(() => encodeBase62(new Uint8Array(32).fill(0xff), 42)).toThrow(RangeError);
  });

  it('keeps the order of the numbers and loses none of their bits', () => {
    for (let round = 0; round < 200; round += 1) {
      const bytes = randomBytes(32);
      const text = encodeBase62(bytes, 43);
      const number = text.split('').reduce((sum, digit) => sum * 62n + BigInt(decodeBase62(digit, 0, 1)), 0n);
      expect(number.toString(16).padStart(64, '0')).toBe(bytes.toString('hex'));
    }
  });

  it('reads a view of a larger buffer, not the buffer', () => {
    const large = Uint8Array.of(9, 9, 0, 61, 9);
    expect(encodeBase62(large.subarray(2, 4), 2)).toBe('0z');
  });

  it('writes a 32-bit number in six characters that read back', () => {
    for (const number of [0, 1, 61, 62, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
      const text = encodeBase62Uint32(number);
      expect(text).toHaveLength(6);
      expect(decodeBase62(text, 0, 6)).toBe(number);
    }
    expect(() => encodeBase62Uint32(-1)).toThrow(RangeError);
    expect(() => encodeBase62Uint32(2 ** 32)).toThrow(RangeError);
    expect(() => encodeBase62Uint32(0.5)).toThrow(RangeError);
  });

  it('knows every character that is no digit, of any script, and a text that is too short', () => {
    for (let code = 0; code <= 0xffff; code += 1) {
      const character = String.fromCharCode(code);
      expect(isBase62(character, 0, 1)).toBe(/^[0-9A-Za-z]$/.test(character));
    }
    expect(isBase62('abc', 0, 4)).toBe(false);
    expect(decodeBase62('ab-', 0, 3)).toBeNaN();
    expect(decodeBase62('abc', 0, 4)).toBeNaN();
  });
});
