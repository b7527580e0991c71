import { sql } from 'kysely';

import type { KeyState } from '../domain/api-key.ts';
import { NO_MAC, NO_PEPPER } from '../identity/imported-verifier.ts';
import type { Effect } from '../ledger/append.ts';
import { keyRow } from './key-row.ts';

export type ImportedKeyRow = {
  readonly state: Exclude<KeyState, { kind: 'absent' }>;
  readonly version: number;
  readonly hash: Buffer;
  /** The durable verifier, which is the imported hash until the key is used. */
  readonly durable: string;
};

/** The effects that write many new keys with what finds and verifies their secrets, in the statement that appends: one statement a table, however many keys. */
export function writeImportedKeys(
  keys: readonly ImportedKeyRow[],
  { organizationId, actorId }: { readonly organizationId: string; readonly actorId: string },
): readonly Effect[] {
  const rows = keys.map(({ state, version }) => ({
    ...keyRow(state),
    metadata: state.settings.metadata,
    organization_id: organizationId,
    created_by: actorId,
    version,
  }));
  const columns = sql.join(Object.keys(rows[0] ?? {}).map((name) => sql.id(name)));
  const numbers = keys.map(({ state }) => state.number);
  const lookupIds = keys.map(({ state }) => state.secret.lookupId);
  return [
    {
      name: 'key_rows',
      statement: sql`
        INSERT INTO api_keys (${columns}, created_at, secret_created_at)
        SELECT ${columns}, appended.recorded_at, appended.recorded_at FROM appended, json_populate_recordset(NULL::api_keys, ${JSON.stringify(rows)}::json)`,
    },
    {
      name: 'new_windows',
      statement: sql`
        INSERT INTO key_windows (key, second_bucket, half_hour_bucket, quarter_bucket)
        SELECT k, floor(epoch), floor(epoch / 1800), floor(epoch / 21600)
        FROM (SELECT extract(epoch FROM recorded_at) AS epoch FROM appended) AS e, unnest(${numbers}::integer[]) AS k`,
    },
    {
      name: 'new_window_buckets',
      statement: sql`INSERT INTO key_window_buckets (key) SELECT k FROM appended, unnest(${numbers}::integer[]) AS k`,
    },
    {
      name: 'new_verifiers',
      statement: sql`
        INSERT INTO key_verifiers (lookup_id, key_id, key, argon2, pepper_id, mac, current, created_at)
        SELECT k.lookup_id, k.key_id, k.number, k.durable, ${NO_PEPPER}, ${NO_MAC}::bytea, true, appended.recorded_at
        FROM appended, unnest(${lookupIds}::text[], ${keys.map(({ state }) => state.keyId)}::uuid[], ${numbers}::integer[], ${keys.map(({ durable }) => durable)}::text[])
          AS k (lookup_id, key_id, number, durable)`,
    },
    {
      name: 'imported_hashes',
      statement: sql`
        INSERT INTO imported_secrets (hash, organization_id, lookup_id)
        SELECT k.hash, ${organizationId}::uuid, k.lookup_id
        FROM appended, unnest(${keys.map(({ hash }) => hash)}::bytea[], ${lookupIds}::text[]) AS k (hash, lookup_id)`,
    },
  ];
}
