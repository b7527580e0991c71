import { hash } from 'node:crypto';

/** What a secret that was made elsewhere may consist of: printable ASCII without spaces, long enough to be no password. */
const FOREIGN_KEY = /^[\x21-\x7e]{16,512}$/;

/** The SHA-256 by which a secret that was made elsewhere is found; null for a text that can be none, so that noise costs nothing. */
export function foreignHashOf(text: string): Buffer | null {
  return FOREIGN_KEY.test(text) ? hash('sha256', text, 'buffer') : null;
}

/** A SHA-256 as 64 hex digits, or as base64 or base64url with or without padding; null for any other text. */
export function parseSha256(text: string): Buffer | null {
  if (/^[0-9a-f]{64}$/i.test(text)) return Buffer.from(text, 'hex');
  if (!/^[A-Za-z0-9+/_-]{43}=?$/.test(text)) return null;
  const bytes = Buffer.from(text, 'base64');
  // The last of 43 digits holds four bits: with others set it is no base64 of 32 bytes.
  return bytes.length === 32 && bytes.toString('base64url') === text.replaceAll('+', '-').replaceAll('/', '_').replace('=', '')
    ? bytes
    : null;
}

/** How a key is shown of whose secret only the beginning and the end are known, and perhaps not those. */
export function maskForeign(start: string, last4: string): string {
  return `${start}...${last4}`;
}
