import { createCipheriv, createDecipheriv, hash, hkdfSync, randomBytes, type KeyObject } from 'node:crypto';
import { sql, type Kysely } from 'kysely';

import { canonicalJson, type JsonValue } from '../lib/canonical-json.ts';
import { Secret } from '../lib/secret.ts';
import type { Tables } from '../postgres/tables.ts';
import type { Effect } from './append.ts';

const MINUTE_MS = 60_000;
/** For so long a retry is shown the secret that the first answer showed; after that only what was done. */
export const SECRET_REPLAY_MS = 60 * MINUTE_MS;

/** One mutation with an idempotency key: who, what, and the input it stands for. */
export type IdempotentRequest = { readonly actorId: string; readonly operation: string; readonly key: Secret; readonly input: JsonValue };

/** What the first request did. */
export type Replay =
  | { readonly kind: 'none' }
  | { readonly kind: 'conflict' }
  | { readonly kind: 'replay'; readonly result: JsonValue; readonly position: bigint; readonly secret: Secret | null };

/** The key that seals a replayed secret: from the server's pepper and the idempotency key, so that neither a copy of the database nor the pepper alone opens it. */
export type SealingKeys = { readonly current: SealingKey; readonly get: (id: string) => SealingKey | undefined };
export type SealingKey = { readonly id: string; readonly derive: (info: string) => Buffer };

/** Derives sealing keys from a pepper (HKDF-SHA-256, RFC 5869). */
export function sealingKey(id: string, pepper: KeyObject): SealingKey {
  return { id, derive: (info) => Buffer.from(hkdfSync('sha256', pepper, 'keyledger/idempotency/v1', info, 32)) };
}

/** What is stored of the key: its SHA-256. */
export function keyHash(request: IdempotentRequest): Buffer {
  return hash('sha256', request.key.reveal(), 'buffer');
}

function inputHash(request: IdempotentRequest): Buffer {
  return hash('sha256', canonicalJson([request.operation, request.input]), 'buffer');
}

function sealingInfo(request: IdempotentRequest): string {
  return canonicalJson([request.actorId, request.operation, request.key.reveal()]);
}

/** AES-256-GCM: `pepper id length (1) | pepper id | nonce (12) | tag (16) | ciphertext`. */
function seal(keys: SealingKeys, request: IdempotentRequest, secret: Secret): Buffer {
  const id = Buffer.from(keys.current.id);
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', keys.current.derive(sealingInfo(request)), nonce);
  const ciphertext = Buffer.concat([cipher.update(secret.reveal(), 'utf8'), cipher.final()]);
  return Buffer.concat([Buffer.from([id.length]), id, nonce, cipher.getAuthTag(), ciphertext]);
}

function unseal(keys: SealingKeys, request: IdempotentRequest, sealed: Buffer): Secret | null {
  const idEnd = 1 + (sealed[0] ?? 0);
  const key = keys.get(sealed.subarray(1, idEnd).toString());
  if (key === undefined) return null; // that pepper was retired: the answer is then without the secret
  const nonce = sealed.subarray(idEnd, idEnd + 12);
  const decipher = createDecipheriv('aes-256-gcm', key.derive(sealingInfo(request)), nonce);
  decipher.setAuthTag(sealed.subarray(idEnd + 12, idEnd + 28));
  return new Secret(Buffer.concat([decipher.update(sealed.subarray(idEnd + 28)), decipher.final()]).toString('utf8'));
}

/** Looks up what an earlier request with this idempotency key did. */
export async function findReplay(db: Kysely<Tables>, keys: SealingKeys, request: IdempotentRequest): Promise<Replay> {
  const row = await db
    .selectFrom('idempotency')
    .select([
      'input_hash',
      'result',
      'position',
      'sealed_secret',
      sql<boolean>`recorded_at > now() - make_interval(secs => ${SECRET_REPLAY_MS / 1000})`.as('fresh'),
    ])
    .where('actor', '=', request.actorId)
    .where('key_hash', '=', keyHash(request))
    .executeTakeFirst();
  if (row === undefined) return { kind: 'none' };
  if (!row.input_hash.equals(inputHash(request))) return { kind: 'conflict' };
  const secret = row.sealed_secret !== null && row.fresh ? unseal(keys, request, row.sealed_secret) : null;
  return { kind: 'replay', result: row.result, position: row.position, secret };
}

/** The effect that remembers an answer, in the statement that appends. Its unique violation is on `idempotency_pkey`. */
export function rememberAnswer(
  keys: SealingKeys,
  request: IdempotentRequest,
  answer: { readonly result: JsonValue; readonly secret: Secret | null; readonly subjectId: string | null },
): Effect {
  const sealed = answer.secret === null ? null : seal(keys, request, answer.secret);
  const statement = sql`
    INSERT INTO idempotency (actor, key_hash, input_hash, operation, result, sealed_secret, subject_id, position)
    SELECT ${request.actorId}, ${keyHash(request)}::bytea, ${inputHash(request)}::bytea, ${request.operation}, ${canonicalJson(answer.result)}::json, ${sealed}::bytea,
           ${answer.subjectId}::uuid, appended.last_position
    FROM appended`;
  return { name: 'remembered_answer', statement };
}
