import { sql, type Kysely } from 'kysely';

import type { KeyType } from '../domain/key-format.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';

/** What an answer tells of a key, as it was at one version. */
export type KeyFacts = {
  readonly number: number;
  readonly version: number;
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  readonly type: KeyType;
  readonly category: string;
  readonly permissions: readonly string[];
  readonly metadata: JsonValue;
  readonly expiresAt: Date | null;
  readonly ownerId: string | null;
  readonly quotas: {
    readonly total: number | null;
    readonly daily: number | null;
    readonly weekly: number | null;
    readonly monthly: number | null;
  };
  readonly requestsPerMinute: number | null;
};

/** A row of `api_keys` as JSON. */
export type StoredKey = {
  readonly number: number;
  readonly version: number;
  readonly id: string;
  readonly organization_id: string;
  readonly name: string;
  readonly type: KeyType;
  readonly category: string;
  readonly permissions: readonly string[];
  readonly metadata: JsonValue;
  readonly expires_at: string | null;
  readonly owner_id: string | null;
  readonly quota_total: number | null;
  readonly quota_daily: number | null;
  readonly quota_weekly: number | null;
  readonly quota_monthly: number | null;
  readonly requests_per_minute: number | null;
};

/**
 * The unchanging part of answers in memory. What decides is never cached: the batch's statement reads the key each time and names its version, and only the
 * facts of that very version are taken from here. So nothing here can be out of date.
 */
export type KeyFactsCache = {
  /** Facts by key number at the versions asked for, or a later one where the key has changed since. */
  load(wanted: ReadonlyMap<number, number>): Promise<ReadonlyMap<number, KeyFacts>>;
};

export function createKeyFactsCache(db: Kysely<Tables>, capacity: number): KeyFactsCache {
  const cached = new Map<number, KeyFacts>();

  return {
    async load(wanted) {
      const found = new Map<number, KeyFacts>();
      const missing: number[] = [];
      for (const [number, version] of wanted) {
        const facts = cached.get(number);
        if (facts?.version === version) found.set(number, facts);
        else missing.push(number);
      }
      if (missing.length === 0) return found;
      const { rows } = await sql<{
        key: StoredKey;
      }>`SELECT to_json(k) AS key FROM api_keys k WHERE number = ANY (${missing}::integer[])`.execute(db);
      for (const { key } of rows) {
        const facts = toKeyFacts(key);
        found.set(facts.number, facts);
        cached.delete(facts.number);
        cached.set(facts.number, facts);
      }
      // The oldest entries go: a Map keeps the order of insertion.
      for (const number of cached.keys()) {
        if (cached.size <= capacity) break;
        cached.delete(number);
      }
      return found;
    },
  };
}

export function toKeyFacts(key: StoredKey): KeyFacts {
  return {
    number: key.number,
    version: key.version,
    id: key.id,
    organizationId: key.organization_id,
    name: key.name,
    type: key.type,
    category: key.category,
    permissions: key.permissions,
    metadata: key.metadata,
    expiresAt: key.expires_at === null ? null : new Date(key.expires_at),
    ownerId: key.owner_id,
    quotas: { total: key.quota_total, daily: key.quota_daily, weekly: key.quota_weekly, monthly: key.quota_monthly },
    requestsPerMinute: key.requests_per_minute,
  };
}
