import { hash, randomBytes, timingSafeEqual } from 'node:crypto';

const FORM = /^\$imported-sha256\$[A-Za-z0-9_-]{22}\$([A-Za-z0-9_-]{43})$/;

/** The id of no pepper: a verifier that bears it has no MAC yet. */
export const NO_PEPPER = '';
/** Stands where a MAC will be; compared with nothing. */
export const NO_MAC = Buffer.alloc(32);

/**
 * The durable verifier of an imported secret until it is first presented: its SHA-256, which was all that came. The salt keeps the log's fingerprint of this
 * text from telling anything about the secret once the text itself is erased.
 */
export function importedVerifier(sha256: Uint8Array): string {
  return `$imported-sha256$${randomBytes(16).toString('base64url')}$${Buffer.from(sha256).toString('base64url')}`;
}

export function isImportedVerifier(durable: string): boolean {
  return FORM.test(durable);
}

/** Whether a text is the secret that was imported. SHA-256 is enough where secrets are random and long, which those of the products were that we import from. */
export function matchesImported(durable: string, secretText: string): boolean {
  const encoded = FORM.exec(durable)?.[1];
  return encoded !== undefined && timingSafeEqual(Buffer.from(encoded, 'base64url'), hash('sha256', secretText, 'buffer'));
}
