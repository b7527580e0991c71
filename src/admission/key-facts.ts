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
  readonly profile: ProfileFacts | null;
  readonly quotas: {
    readonly total: number | null;
    readonly daily: number | null;
    readonly weekly: number | null;
    readonly monthly: number | null;
  };
  readonly requestsPerMinute: number | null;
};

/** The profile of a key, as it was at one version. Keys that have it share it. */
export type ProfileFacts = { readonly id: string; readonly version: number; readonly name: string; readonly settings: JsonValue };

/** A row of `profiles` as JSON. */
export type StoredProfile = ProfileFacts;

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
  readonly profile_id: string | null;
  readonly quota_total: number | null;
  readonly quota_daily: number | null;
  readonly quota_weekly: number | null;
  readonly quota_monthly: number | null;
  readonly requests_per_minute: number | null;
};

/** The versions of a key and of its profile, null where it has none. */
export type WantedFacts = { readonly version: number; readonly profileVersion: number | null };

/**
 * The unchanging part of answers in memory. What decides is never cached: the batch's statement reads the key each time and names its version and that of
 * its profile, and only the facts of those very versions are taken from here. So nothing here can be out of date.
 */
export type KeyFactsCache = {
  /** Facts by key number at the versions asked for, or later ones where the key or its profile has changed since. */
  load(wanted: ReadonlyMap<number, WantedFacts>): Promise<ReadonlyMap<number, KeyFacts>>;
};

const CACHED_PROFILES = 1000;

export function createKeyFactsCache(db: Kysely<Tables>, capacity: number): KeyFactsCache {
  const cached = new Map<number, KeyFacts>();
  const cachedProfiles = new Map<string, ProfileFacts>();

  /** The object that other keys have already, where it is of the same version: settings of 16 KiB in 100,000 keys are kept once. */
  function shared(profile: ProfileFacts): ProfileFacts {
    const known = cachedProfiles.get(profile.id);
    if (known?.version === profile.version) return known;
    if (cachedProfiles.size >= CACHED_PROFILES) cachedProfiles.clear();
    cachedProfiles.set(profile.id, profile);
    return profile;
  }

  return {
    async load(wanted) {
      const found = new Map<number, KeyFacts>();
      const missing: number[] = [];
      for (const [number, { version, profileVersion }] of wanted) {
        const facts = cached.get(number);
        if (facts?.version === version && (facts.profile?.version ?? null) === profileVersion) found.set(number, facts);
        else missing.push(number);
      }
      if (missing.length === 0) return found;
      // One snapshot, so that each key's profile is there; and each profile once, however many of the keys have it.
      const { rows } = await sql<{ keys: readonly StoredKey[] | null; profiles: readonly StoredProfile[] | null }>`
        WITH wanted AS MATERIALIZED (SELECT * FROM api_keys WHERE number = ANY (${missing}::integer[]))
        SELECT (SELECT json_agg(k) FROM wanted k) AS keys,
          (SELECT json_agg(p) FROM profiles p WHERE p.id IN (SELECT profile_id FROM wanted)) AS profiles`.execute(db);
      const profiles = new Map((rows[0]?.profiles ?? []).map((row) => [row.id, shared(toProfileFacts(row))]));
      for (const key of rows[0]?.keys ?? []) {
        const facts = toKeyFacts(key, key.profile_id === null ? null : (profiles.get(key.profile_id) ?? null));
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

/** Without what else a stored row holds. */
export function toProfileFacts({ id, version, name, settings }: StoredProfile): ProfileFacts {
  return { id, version, name, settings };
}

export function toKeyFacts(key: StoredKey, profile: ProfileFacts | null): KeyFacts {
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
    profile,
    quotas: { total: key.quota_total, daily: key.quota_daily, weekly: key.quota_weekly, monthly: key.quota_monthly },
    requestsPerMinute: key.requests_per_minute,
  };
}
