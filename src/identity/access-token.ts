import { hash } from 'node:crypto';
import { crc32 } from 'node:zlib';

import { BASE62_DIGITS_256_BIT, encodeBase62, encodeBase62Uint32 } from '../lib/base62.ts';
import { Secret } from '../lib/secret.ts';

/** How every access token begins, so that secret scanners know one. */
export const ACCESS_TOKEN_PREFIX = 'klat_';

const RANDOM_BYTES = 32;

/**
 * A new access token: `klat_`, 43 base62 characters of 256 random bits, 6 of the CRC32 of all before (for secret scanners). `random` is 32 bytes from
 * a cryptographic source.
 */
export function newAccessToken(random: Uint8Array): Secret {
  if (random.length !== RANDOM_BYTES) {
    throw new RangeError(`${RANDOM_BYTES} random bytes are needed, not ${random.length}`);
  }
  const body = ACCESS_TOKEN_PREFIX + encodeBase62(random, BASE62_DIGITS_256_BIT);
  return new Secret(body + encodeBase62Uint32(crc32(body)));
}

/**
 * What is stored of a token, and what it is found by: its SHA-256 (32 bytes). Salt and a slow function protect what people choose, because
 * guesses can be tried; 256 random bits can't be guessed at any speed, and no two tokens are equal, so neither buys anything here. The index lookup by hash is not
 * constant in time, and need not be: what leaks is about the hash, from which no token can be built.
 *
 * It takes a text of any form, since the operator may fix the first owner's token (32 characters at least, which must be random as well).
 */
export function accessTokenHash(text: string): string {
  return hash('sha256', text, 'hex');
}

// A JWS header is a JSON object, and the base64url of `{"` is `eyJ`. (RFC 7515, 7.1: three parts; the signature may be empty, to be refused later.)
const JWT_FORM = /^eyJ[\w-]*\.[\w-]+\.[\w-]*$/;

/** Whether a bearer credential has the form of a JWT, and so belongs to the OIDC verifier instead of the table of access tokens. */
export function looksLikeJwt(text: string): boolean {
  return JWT_FORM.test(text);
}
