import { randomBytes } from 'node:crypto';
import { sql, type Kysely } from 'kysely';

import { SYSTEM_ACTOR_ID, type Actor } from '../domain/actor.ts';
import { ABSENT_KEY, decideKey, evolveKey } from '../domain/api-key.ts';
import { streamOf } from '../domain/event.ts';
import { maskForeign } from '../domain/foreign-key.ts';
import { newLookupId } from '../domain/key-format.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import { fingerprint } from '../identity/argon2-verifier.ts';
import { importedVerifier } from '../identity/imported-verifier.ts';
import { isForeignKeyViolation, isUniqueViolation, type StreamAppend } from '../ledger/append.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import type { Tables } from '../postgres/tables.ts';
import { requireFunds } from '../projections/balance-row.ts';
import { writeImportedKeys, type ImportedKeyRow } from '../projections/imported-key-rows.ts';
import { foldName, writeKeyRow } from '../projections/key-row.ts';
import type { VerifierReplacement } from '../admission/verifier-adoption.ts';
import { requirePermission } from './authorization.ts';
import { importKeysSchema, type ImportedKey } from './import-input.ts';
import { parseInput } from './input.ts';
import { loadKey } from './key-commands.ts';
import { newKeyIdentities, type KeyIdentity } from './key-identity.ts';
import { operationsUnder, readKeyPolicy } from './key-policy.ts';
import { bindPersonalKeys, isUnbindable, type Unbindable } from './personal-keys.ts';

/** In the order of the input. */
export type ImportResult = { readonly keyIds: readonly string[] };

export type ImportCommands = {
  /** Keys whose secrets were made elsewhere, all or none; `actor` null: the command line, which no limit on key operations holds up. */
  importKeys(actor: Actor | null, input: unknown): Promise<Outcome<ImportResult>>;
  /** Writes the argon2id verifier of an imported secret that was presented; does nothing where the secret is no longer the key's. */
  replaceVerifier(replacement: VerifierReplacement): Promise<void>;
};

export function createImportCommands(context: CommandContext & { readonly keyOperationsPerHour: number | null }): ImportCommands {
  const { db } = context;

  return {
    async importKeys(actor, raw) {
      if (actor !== null) requirePermission(actor, 'keys:write');
      const input = parseInput(importKeysSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, keys, idempotencyKey } = input.value;
      if (actor !== null && organizationId !== actor.organizationId)
        return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const actorId = actor?.id ?? SYSTEM_ACTOR_ID;
      const made = keys.map((key) => ({
        ...key,
        lookupId: newLookupId(randomBytes(32)),
        durable: importedVerifier(Buffer.from(key.hash, 'hex')),
      }));
      let identities: readonly KeyIdentity[] | undefined;
      try {
        return await runCommand<ImportResult>(context, {
          actorId,
          operation: 'importApiKeys',
          input: { organizationId, keys },
          idempotencyKey,
          decide: async (now) => {
            const policy = await readKeyPolicy(db, organizationId);
            const refused = (await findTaken(db, organizationId, keys)) ?? (await findMissingProfile(db, organizationId, keys));
            if (refused !== null) return refused;
            identities ??= await newKeyIdentities(db, keys.length);
            const streams: StreamAppend[] = [];
            const rows: ImportedKeyRow[] = [];
            for (const [index, identity] of identities.entries()) {
              const key = made[index];
              if (key === undefined) throw new Error('There are more identities than keys to import.');
              const { hash, start, last4, enabled, type, ownerId, lookupId, durable, ...settings } = key;
              const secret = { lookupId, masked: maskForeign(start, last4), verifierFingerprint: fingerprint(durable) };
              const { publicPermissions } = policy;
              const imported = decideKey(
                ABSENT_KEY,
                { kind: 'import', ...identity, type, ownerId, settings, secret, publicPermissions },
                now,
              );
              if (isRefusal(imported)) return ofKey(index, imported);
              const events = enabled ? imported : [...imported, { type: 'Deactivated', data: {} } as const];
              const state = events.reduce(evolveKey, ABSENT_KEY);
              if (state.kind === 'absent') throw new Error('A decided import left no key.');
              streams.push({ organizationId, stream: streamOf.key(identity.keyId), version: 0, events });
              rows.push({ state, version: events.length, hash: Buffer.from(hash, 'hex'), durable });
            }
            const owned = rows.flatMap(({ state: { keyId, ownerId } }) => (ownerId === null ? [] : [{ keyId, ownerId }]));
            const bound = await bindPersonalKeys(db, organizationId, owned);
            if (isUnbindable(bound)) {
              return ofKey(
                identities.findIndex(({ keyId }) => keyId === bound.keyId),
                refuseOwner(bound),
              );
            }
            return {
              streams: [...streams, ...bound],
              effects: [...writeImportedKeys(rows, { organizationId, actorId }), requireFunds(organizationId)],
              decidedOn: { streams: policy.decidedOn },
              keyOperationsPerHour: actor === null ? null : operationsUnder(policy, context.keyOperationsPerHour),
              result: { keyIds: rows.map(({ state }) => state.keyId) },
            };
          },
        });
      } catch (error) {
        // Another request came first, after this one had looked.
        if (isUniqueViolation(error, 'api_keys_name')) return refusal('NAME_TAKEN', undefined, 'keys');
        if (isForeignKeyViolation(error, 'api_keys_profile'))
          return refusal('NOT_FOUND', 'A profile of this import was deleted meanwhile', 'keys');
        if (isUniqueViolation(error, 'imported_secrets_pkey')) return refusal('ALREADY_IMPORTED', undefined, 'keys');
        throw error;
      }
    },
    async replaceVerifier({ organizationId, keyId, lookupId, from, to }) {
      await runCommand(context, {
        actorId: SYSTEM_ACTOR_ID,
        operation: 'replaceVerifier',
        input: null,
        idempotencyKey: null,
        decide: async (now) => {
          const { state: before, version } = await loadKey(db, organizationId, keyId);
          const events = decideKey(before, { kind: 'replace-verifier', lookupId, from: fingerprint(from), to: fingerprint(to) }, now);
          if (isRefusal(events)) return events;
          const state = events.reduce(evolveKey, before);
          if (state.kind === 'absent') throw new Error('There is no key whose verifier could be replaced.');
          return {
            streams: [{ organizationId, stream: streamOf.key(keyId), version, events }],
            effects: [
              writeKeyRow(state, {
                organizationId,
                version: version + events.length,
                actorId: SYSTEM_ACTOR_ID,
                created: false,
                newSecret: false,
              }),
              {
                name: 'replaced_verifier',
                statement: sql`UPDATE key_verifiers SET argon2 = ${to} FROM appended WHERE lookup_id = ${lookupId} AND argon2 = ${from}`,
              },
            ],
            result: null,
          };
        },
      });
    },
  };
}

/** The first key of an import whose name or hash is there already. */
async function findTaken(db: Kysely<Tables>, organizationId: string, keys: readonly ImportedKey[]): Promise<Refusal | null> {
  const { rows } = await sql<{ ordinal: number; imported: boolean }>`
    SELECT k.ordinal::integer, i.hash IS NOT NULL AS imported
    FROM unnest(${keys.map(({ hash }) => Buffer.from(hash, 'hex'))}::bytea[], ${keys.map(({ name }) => foldName(name))}::text[]) WITH ORDINALITY AS k (hash, name, ordinal)
    LEFT JOIN imported_secrets i ON i.hash = k.hash AND i.organization_id = ${organizationId}::uuid
    LEFT JOIN api_keys a ON a.organization_id = ${organizationId}::uuid AND a.name_folded = k.name AND a.state <> 'deleted'
    WHERE i.hash IS NOT NULL OR a.id IS NOT NULL
    ORDER BY k.ordinal LIMIT 1`.execute(db);
  const first = rows[0];
  if (first === undefined) return null;
  const index = first.ordinal - 1;
  return first.imported
    ? ofKey(index, refusal('ALREADY_IMPORTED', undefined, 'hash'))
    : ofKey(index, refusal('NAME_TAKEN', undefined, 'name'));
}

/** The first key of an import whose profile the organization does not have. */
async function findMissingProfile(db: Kysely<Tables>, organizationId: string, keys: readonly ImportedKey[]): Promise<Refusal | null> {
  const asked = new Set(keys.flatMap(({ profileId }) => (profileId === null ? [] : [profileId])));
  if (asked.size === 0) return null;
  const found = await db
    .selectFrom('profiles')
    .select('id')
    .where('organization_id', '=', organizationId)
    .where('id', '=', sql<string>`ANY(${[...asked]}::uuid[])`)
    .execute();
  const there = new Set(found.map(({ id }) => id));
  const index = keys.findIndex(({ profileId }) => profileId !== null && !there.has(profileId));
  return index === -1 ? null : ofKey(index, refusal('NOT_FOUND', 'There is no such profile in your organization', 'profileId'));
}

/** Why a member can't be given a personal key; said to who imports it. */
function refuseOwner({ reason }: Unbindable): Refusal {
  switch (reason) {
    case 'NO_MEMBER':
    case 'OWNER_LEFT':
      return refusal('NOT_FOUND', 'There is no such member in your organization', 'ownerId');
    case 'TEAM_JOINED':
      return refusal('KEY_ARCHIVED', "The owner belongs to a team, which archives personal keys; leave 'ownerId' out", 'ownerId');
  }
  return reason satisfies never;
}

/** The refusal of one key of an import, which says in its sentence too which it is. */
function ofKey(index: number, refused: Refusal): Refusal {
  const field = ['keys', String(index), ...(refused.field === undefined ? [] : [refused.field])].join('.');
  return { ...refused, field, message: `'${field}': ${refused.message}` };
}
