import { randomBytes } from 'node:crypto';

import { sql } from 'kysely';

import { ABSENT_KEY, decideKey, evolveKey } from '../../src/domain/api-key.ts';
import { SYSTEM_ACTOR_ID } from '../../src/domain/actor.ts';
import { streamOf } from '../../src/domain/event.ts';
import { formatKey, maskKey, newLookupId } from '../../src/domain/key-format.ts';
import { isRefusal } from '../../src/domain/refusals.ts';
import { createArgon2Verifiers, fingerprint } from '../../src/identity/argon2-verifier.ts';
import { fastVerifier, type Peppers } from '../../src/identity/pepper.ts';
import { append, type Effect } from '../../src/ledger/append.ts';
import type { Database } from '../../src/postgres/pool.ts';
import { keyRow } from '../../src/projections/key-row.ts';

export type SeededKey = { readonly id: string; readonly number: number; readonly secret: string };

export type SeedKeysOptions = {
  readonly organizationId: string;
  readonly peppers: Peppers;
  readonly count: number;
  /** Of the n-th key; `production` unless told. */
  readonly categoryOf?: ((index: number) => string) | undefined;
  readonly onProgress: (line: string) => void;
};

const CHUNK = 1_000;
/** Far above what a run can use, so that every verification passes and every limit is checked and charged. */
const CAP = 1_000_000_000_000;
const SETTINGS = {
  category: 'production',
  permissions: ['read:experiences'],
  expiresAt: null,
  profileId: null,
  metadata: {},
  ipAllowlist: [],
  allowedOrigins: [],
  quotas: { total: null, daily: CAP, weekly: null, monthly: null },
  limits: { requestsPerMinute: CAP, tokensPerMinute: null },
  rotateEveryDays: null,
} as const;

/**
 * Makes keys as `createApiKey` does, a thousand in one append: the events are decided by the domain and appended by the product's own statement, and the same rows are written.
 * One thing differs: all share one argon2id string, since a hundred thousand of their own would take an hour. No verification with a known pepper reads it.
 */
export async function seedKeys(database: Database, options: SeedKeysOptions): Promise<readonly SeededKey[]> {
  const argon2 = createArgon2Verifiers({ concurrency: 1, queueLimit: 1 });
  const phc = await argon2.hash(randomBytes(32).toString('hex'));
  await argon2.close();
  const keys: SeededKey[] = [];
  while (keys.length < options.count) {
    keys.push(...(await seedChunk(database, options, phc, keys.length, Math.min(CHUNK, options.count - keys.length))));
    if (keys.length % (20 * CHUNK) === 0) options.onProgress(`${keys.length} of ${options.count} keys made`);
  }
  return keys;
}

async function seedChunk(
  database: Database,
  options: SeedKeysOptions,
  phc: string,
  made: number,
  count: number,
): Promise<readonly SeededKey[]> {
  const { organizationId, peppers } = options;
  const { rows: identities } = await sql<{ id: string; number: number }>`
    SELECT uuidv7() AS id, nextval('api_key_numbers')::integer AS number FROM generate_series(1, ${count})`.execute(database.kysely);
  const now = new Date();
  const minted = identities.map(({ id, number }, index) => {
    const lookupId = newLookupId(randomBytes(32));
    const secret = formatKey('SECRET', lookupId, randomBytes(32));
    const facts = { lookupId, masked: maskKey(secret), verifierFingerprint: fingerprint(phc) };
    const settings = {
      ...SETTINGS,
      name: `Key ${made + index + 1}`,
      category: options.categoryOf?.(made + index) ?? SETTINGS.category,
      permissions: [...SETTINGS.permissions],
      ipAllowlist: [],
      allowedOrigins: [],
    };
    const events = decideKey(
      ABSENT_KEY,
      { kind: 'create', keyId: id, number, type: 'SECRET', ownerId: null, settings, secret: facts },
      now,
    );
    if (isRefusal(events)) throw new Error(events.message);
    const state = events.reduce(evolveKey, ABSENT_KEY);
    if (state.kind === 'absent') throw new Error('a key was decided on that is none');
    const mac = fastVerifier(peppers.current, secret.reveal());
    return {
      key: { id, number, secret: secret.reveal() },
      events,
      row: { ...keyRow(state), metadata: {} },
      verifier: { lookup_id: lookupId, key_id: id, key: number, mac: `\\x${mac}` },
    };
  });
  await append(database.kysely, {
    actorId: SYSTEM_ACTOR_ID,
    streams: minted.map(({ key, events }) => ({ organizationId, stream: streamOf.key(key.id), version: 0, events })),
    effects: seedEffects(organizationId, phc, peppers.current.id, minted),
    keyOperationsPerHour: null,
  });
  return minted.map(({ key }) => key);
}

/** The rows that the product's own effects write for one key (key-row.ts, key-commands.ts, window-rows.ts), here for many. */
function seedEffects(
  organizationId: string,
  phc: string,
  pepperId: string,
  minted: readonly { readonly row: object; readonly verifier: object }[],
): readonly Effect[] {
  const rows = JSON.stringify(minted.map(({ row }) => row));
  const verifiers = JSON.stringify(minted.map(({ verifier }) => verifier));
  const columns = sql.raw(
    `id, number, name, name_folded, type, category, state, permissions, expires_at, expired_event, profile_id, metadata, ip_allowlist, allowed_origins, owner_id,
     quota_total, quota_daily, quota_weekly, quota_monthly, requests_per_minute, tokens_per_minute, rotate_every_days, masked`,
  );
  return [
    {
      name: 'key_rows',
      statement: sql`
        INSERT INTO api_keys (organization_id, created_at, created_by, secret_created_at, version, ${columns})
        SELECT ${organizationId}::uuid, a.recorded_at, ${SYSTEM_ACTOR_ID}, a.recorded_at, 1, ${columns}
        FROM appended a, json_populate_recordset(NULL::api_keys, ${rows}::json)`,
    },
    {
      name: 'verifiers',
      statement: sql`
        INSERT INTO key_verifiers (lookup_id, key_id, key, argon2, pepper_id, mac, current, created_at)
        SELECT v.lookup_id, v.key_id, v.key, ${phc}, ${pepperId}, v.mac, true, a.recorded_at
        FROM appended a, json_populate_recordset(NULL::key_verifiers, ${verifiers}::json) AS v`,
    },
    {
      name: 'windows',
      statement: sql`
        INSERT INTO key_windows (key, second_bucket, half_hour_bucket, quarter_bucket)
        SELECT v.key, floor(e.epoch), floor(e.epoch / 1800), floor(e.epoch / 21600)
        FROM (SELECT extract(epoch FROM recorded_at) AS epoch FROM appended) AS e, json_populate_recordset(NULL::key_verifiers, ${verifiers}::json) AS v`,
    },
    {
      name: 'window_buckets',
      statement: sql`
        INSERT INTO key_window_buckets (key) SELECT v.key FROM appended, json_populate_recordset(NULL::key_verifiers, ${verifiers}::json) AS v`,
    },
  ];
}
