import { createHmac, timingSafeEqual } from 'node:crypto';

import { Secret } from '../lib/secret.ts';
import type { SealingKeys } from '../ledger/idempotency.ts';

const HOUR_MS = 3_600_000;
/** So long a code is good for. */
export const JOIN_CODE_LIFE_MS = HOUR_MS;

const PREFIX = 'join_';
const MAC_BYTES = 32;
const UUID_BYTES = 16;
const BODY_BYTES = 2 * UUID_BYTES + 4 + 6;

/** What a person agrees to: being made a member of one organization, for a while, and until they next join a team or leave an organization. */
export type JoinConsent = { readonly personId: string; readonly organizationId: string; readonly moves: number; readonly expiresAt: Date };

/**
 * A person's word that they join an organization, to be handed to who adds them. Whoever could name a person without it could switch off the personal keys of people in
 * other organizations. Nothing is stored: the code is the consent with a MAC (HMAC-SHA-256 under a key derived from the pepper), as
 * `join_` + base64url of: pepper id's length (1), pepper id, person (16), organization (16), moves (4), expiry in epoch ms (6), MAC (32).
 */
export function formatJoinCode(keys: SealingKeys, consent: JoinConsent): Secret {
  const id = Buffer.from(keys.current.id);
  const body = Buffer.alloc(BODY_BYTES);
  uuidBytes(consent.personId).copy(body, 0);
  uuidBytes(consent.organizationId).copy(body, UUID_BYTES);
  body.writeUInt32BE(consent.moves, 2 * UUID_BYTES);
  body.writeUIntBE(consent.expiresAt.getTime(), 2 * UUID_BYTES + 4, 6);
  const head = Buffer.concat([Buffer.from([id.length]), id, body]);
  return new Secret(PREFIX + Buffer.concat([head, macOf(keys.current.derive('join code'), head)]).toString('base64url'));
}

/** Reads a code; null where it is none of ours. Whether it still holds is for the caller to see. */
export function readJoinCode(keys: SealingKeys, text: string): JoinConsent | null {
  if (!text.startsWith(PREFIX)) return null;
  const bytes = Buffer.from(text.slice(PREFIX.length), 'base64url');
  const idEnd = 1 + (bytes[0] ?? 0);
  const headEnd = idEnd + BODY_BYTES;
  if (bytes.length !== headEnd + MAC_BYTES) return null;
  const key = keys.get(bytes.subarray(1, idEnd).toString());
  if (key === undefined || !timingSafeEqual(macOf(key.derive('join code'), bytes.subarray(0, headEnd)), bytes.subarray(headEnd)))
    return null;
  const body = bytes.subarray(idEnd, headEnd);
  return {
    personId: uuidText(body.subarray(0, UUID_BYTES)),
    organizationId: uuidText(body.subarray(UUID_BYTES, 2 * UUID_BYTES)),
    moves: body.readUInt32BE(2 * UUID_BYTES),
    expiresAt: new Date(body.readUIntBE(2 * UUID_BYTES + 4, 6)),
  };
}

function macOf(key: Buffer, head: Buffer): Buffer {
  return createHmac('sha256', key).update(head).digest();
}

function uuidBytes(uuid: string): Buffer {
  return Buffer.from(uuid.replaceAll('-', ''), 'hex');
}

function uuidText(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
