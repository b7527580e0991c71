import { createCipheriv, createDecipheriv, hash, hkdfSync, randomBytes } from 'node:crypto';

import type { Pepper, Peppers } from '../identity/pepper.ts';
import { Secret } from '../lib/secret.ts';

const PREFIX = 'whsec_';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** A signing secret as the table has it: `nonce (12) | tag (16) | ciphertext`, AES-256-GCM. */
export type SealedSecret = { readonly fingerprint: string; readonly pepperId: string; readonly sealed: Buffer };

/** A new signing secret in the form of Standard Webhooks 1.0.0: `whsec_` and base64 of 32 random bytes. */
export function newWebhookSecret(): Secret {
  return new Secret(PREFIX + randomBytes(32).toString('base64'));
}

/** SHA-256 in hex, safe to show: the secret has 256 random bits. */
export function webhookSecretFingerprint(secret: Secret): string {
  return hash('sha256', secret.reveal());
}

/** The bytes that messages are signed with. */
export function signingKey(secret: Secret): Buffer {
  return Buffer.from(secret.reveal().slice(PREFIX.length), 'base64');
}

/** Seals under the current pepper, for one endpoint: a row that is moved to another endpoint opens no more. */
export function sealWebhookSecret(peppers: Peppers, endpointId: string, secret: Secret): SealedSecret {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv('aes-256-gcm', sealingKeyOf(peppers.current, endpointId), nonce);
  const ciphertext = Buffer.concat([cipher.update(secret.reveal(), 'utf8'), cipher.final()]);
  return {
    fingerprint: webhookSecretFingerprint(secret),
    pepperId: peppers.current.id,
    sealed: Buffer.concat([nonce, cipher.getAuthTag(), ciphertext]),
  };
}

/** The secret can't be opened; the message says what to do, and goes into the delivery log. */
export class SecretSealedError extends Error {
  override readonly name = 'SecretSealedError';
}

/** Opens a sealed secret. Throws {@link SecretSealedError} where its pepper is gone or the row is not what was sealed. */
export function unsealWebhookSecret(peppers: Peppers, endpointId: string, { fingerprint, pepperId, sealed }: SealedSecret): Secret {
  const pepper = peppers.get(pepperId);
  if (pepper === undefined)
    throw new SecretSealedError(
      `The signing secret is sealed under the pepper '${pepperId}', which KEY_PEPPERS no longer has. Put it back, or rotate the endpoint's secret.`,
    );
  const nonce = sealed.subarray(0, NONCE_BYTES);
  const decipher = createDecipheriv('aes-256-gcm', sealingKeyOf(pepper, endpointId), nonce, { authTagLength: TAG_BYTES });
  decipher.setAuthTag(sealed.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
  let secret: Secret;
  try {
    secret = new Secret(Buffer.concat([decipher.update(sealed.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()]).toString('utf8'));
  } catch (cause) {
    throw new SecretSealedError(
      "The signing secret's row was changed or belongs to another pepper of the same id. Rotate the endpoint's secret.",
      {
        cause,
      },
    );
  }
  if (webhookSecretFingerprint(secret) !== fingerprint)
    throw new SecretSealedError("The signing secret is not the one that the log tells of. Rotate the endpoint's secret.");
  return secret;
}

/** HKDF-SHA-256 (RFC 5869). */
function sealingKeyOf(pepper: Pepper, endpointId: string): Buffer {
  return Buffer.from(hkdfSync('sha256', pepper.key, 'keyledger/webhook-secret/v1', endpointId, 32));
}
