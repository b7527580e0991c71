import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

import { UnsecuredJWT } from 'jose';
import { describe, expect, it } from 'vitest';

import { accessTokenHash, looksLikeJwt, newAccessToken } from '../../src/identity/access-token.ts';
import { decodeBase62 } from '../../src/lib/base62.ts';

describe('an access token', () => {
  it('is klat_, 256 random bits and a checksum, in characters that a double click selects', () => {
    const text = newAccessToken(randomBytes(32)).reveal();
    expect(text).toMatch(/^klat_[0-9A-Za-z]{49}$/);
    expect(decodeBase62(text, 48, 54)).toBe(crc32(text.slice(0, 48)));
  });

  it('stays what it is, since tokens are for long', () => {
    // Computed by another program.
    expect(newAccessToken(Uint8Array.from({ length: 32 }, (_, index) => index)).reveal()).toBe(
      'klat_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf0fK5AG',
    );
  });

  it('holds all of its randomness and does not show itself', () => {
    const one = Buffer.alloc(32);
    const other = Buffer.from(one);
    other[31] = 1;
    expect(newAccessToken(one).reveal()).not.toBe(newAccessToken(other).reveal());
    expect(String(newAccessToken(one))).toBe('[redacted]');
    expect(() => newAccessToken(randomBytes(16))).toThrow(RangeError);
  });

  it('is stored as its SHA-256, whatever form the operator gave it', () => {
    // FIPS 180-2, appendix B.1.
    expect(accessTokenHash('abc')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
    expect(accessTokenHash('ключ'.repeat(8))).toHaveLength(64);
  });

  it('is never taken for a JWT, nor a JWT for it', () => {
    const jwt = new UnsecuredJWT({ sub: 'x' }).encode();
    expect(looksLikeJwt(jwt)).toBe(true);
    expect(looksLikeJwt(`${jwt}c2ln`)).toBe(true);
    for (const other of [
      newAccessToken(randomBytes(32)).reveal(),
      '',
      'eyJhbGciOi',
      'eyJ.a',
      'eyJ.a.b.c',
      'a.b.c',
      `${jwt}\n`,
      `eyJ${'.'.repeat(50_000)}`,
    ]) {
      expect(looksLikeJwt(other)).toBe(false);
    }
  });
});
