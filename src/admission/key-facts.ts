import type { KeyType } from '../domain/key-format.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { VerifiedKey } from './admission.ts';

/** What an answer tells of a key. */
export type KeyFacts = Omit<VerifiedKey, 'profile' | 'outdatedSecret'> & {
  readonly number: number;
  readonly profile: ProfileFacts | null;
  readonly quotas: {
    readonly total: number | null;
    readonly daily: number | null;
    readonly weekly: number | null;
    readonly monthly: number | null;
  };
  readonly requestsPerMinute: number | null;
  /** What it is told as where its current secret passes: the same object each time. */
  readonly verified: VerifiedKey;
};

/** The profile of a key, as it was at one version. Keys that have it share it. */
export type ProfileFacts = { readonly id: string; readonly version: number; readonly name: string; readonly settings: JsonValue };

/** A row of `profiles` as JSON. */
export type StoredProfile = ProfileFacts;

/** A row of `api_keys` as JSON, as far as an answer tells of it. */
export type StoredKey = {
  readonly number: number;
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

/** As {@link toKeyFacts} takes it. */
export function toStoredKey(key: KeyFacts): StoredKey {
  return {
    number: key.number,
    id: key.id,
    organization_id: key.organizationId,
    name: key.name,
    type: key.type,
    category: key.category,
    permissions: key.permissions,
    metadata: key.metadata,
    expires_at: key.expiresAt?.toISOString() ?? null,
    owner_id: key.ownerId,
    profile_id: key.profile?.id ?? null,
    quota_total: key.quotas.total,
    quota_daily: key.quotas.daily,
    quota_weekly: key.quotas.weekly,
    quota_monthly: key.quotas.monthly,
    requests_per_minute: key.requestsPerMinute,
  };
}

/** Without what else a stored row holds. */
export function toProfileFacts({ id, version, name, settings }: StoredProfile): ProfileFacts {
  return { id, version, name, settings };
}

export function toKeyFacts(key: StoredKey, profile: ProfileFacts | null): KeyFacts {
  const verified: VerifiedKey = {
    id: key.id,
    name: key.name,
    type: key.type,
    category: key.category,
    permissions: key.permissions,
    metadata: key.metadata,
    expiresAt: key.expires_at === null ? null : new Date(key.expires_at),
    profile: profile === null ? null : { name: profile.name, settings: profile.settings },
    organizationId: key.organization_id,
    ownerId: key.owner_id,
    outdatedSecret: false,
  };
  return {
    ...verified,
    number: key.number,
    profile,
    quotas: { total: key.quota_total, daily: key.quota_daily, weekly: key.quota_weekly, monthly: key.quota_monthly },
    requestsPerMinute: key.requests_per_minute,
    verified,
  };
}
