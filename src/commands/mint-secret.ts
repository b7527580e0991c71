import { randomBytes } from 'node:crypto';

import type { SecretFacts } from '../domain/api-key.ts';
import { formatKey, maskKey, newLookupId, type KeyType } from '../domain/key-format.ts';
import { fingerprint, type Argon2Verifiers } from '../identity/argon2-verifier.ts';
import { fastVerifier, type Peppers } from '../identity/pepper.ts';
import type { Secret } from '../lib/secret.ts';

/** A fresh secret with both verifiers, made once a command however often it is decided. */
export type MintedSecret = {
  readonly secret: Secret;
  readonly facts: SecretFacts;
  readonly argon2: string;
  readonly pepperId: string;
  readonly mac: Buffer;
};

/** Makes a key's secret. Takes as long as argon2id does. */
export async function mintSecret(
  { argon2: verifiers, peppers }: { readonly argon2: Argon2Verifiers; readonly peppers: Peppers },
  type: KeyType,
): Promise<MintedSecret> {
  const lookupId = newLookupId(randomBytes(32));
  const secret = formatKey(type, lookupId, randomBytes(32));
  const argon2 = await verifiers.hash(secret.reveal());
  return {
    secret,
    facts: { lookupId, masked: maskKey(secret), verifierFingerprint: fingerprint(argon2) },
    argon2,
    pepperId: peppers.current.id,
    mac: Buffer.from(fastVerifier(peppers.current, secret.reveal()), 'hex'),
  };
}
