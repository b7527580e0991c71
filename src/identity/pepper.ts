import type { KeyObject } from 'node:crypto';
import { createHmac, createSecretKey, timingSafeEqual } from 'node:crypto';

/** A server secret that keys the fast verifier. Its id is stored beside each verifier; its key never leaves the process. */
export type Pepper = { readonly id: string; readonly key: KeyObject };

/** All peppers that a server knows: it verifies with any of them, and writes with the current one. */
export type Peppers = {
  readonly current: Pepper;
  /** The pepper with that id; undefined where it was retired or lost, and only the argon2id verifier can answer. */
  get(id: string): Pepper | undefined;
};

const MIN_KEY_BYTES = 32;

/**
 * The peppers of a server, the current one first. Throws a RangeError for an empty list, an empty or repeated id, or a key below 32 bytes.
 *
 * Each key becomes a KeyObject once, here: an HMAC with a Buffer as key is nine times slower, on the path of every request.
 */
export function createPeppers(list: readonly { readonly id: string; readonly key: Uint8Array }[]): Peppers {
  const byId = new Map<string, Pepper>();
  for (const { id, key } of list) {
    if (id === '' || byId.has(id)) {
      throw new RangeError(id === '' ? 'a pepper needs an id' : `two peppers have the id ${JSON.stringify(id)}`);
    }
    if (key.length < MIN_KEY_BYTES) {
      throw new RangeError(`pepper ${JSON.stringify(id)} has ${key.length} bytes; it needs ${MIN_KEY_BYTES} at least`);
    }
    byId.set(id, { id, key: createSecretKey(key) });
  }
  const [current] = byId.values();
  if (current === undefined) {
    throw new RangeError('at least one pepper is needed');
  }
  return { current, get: (id) => byId.get(id) };
}

/**
 * The fast verifier of a key's secret: HMAC-SHA-256(pepper, secret text), 32 bytes. Keyed, so that a stolen table alone lets nobody test a guess; fast is
 * safe, because the secret has 256 random bits.
 */
export function fastVerifier(pepper: Pepper, secretText: string): Buffer {
  return createHmac('sha256', pepper.key).update(secretText).digest();
}

/** Whether two MACs are equal, in a time that does not depend on where they differ. The length is no secret. */
export function sameMac(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
