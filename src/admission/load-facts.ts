import type pg from 'pg';

import type { JsonValue } from '../lib/canonical-json.ts';
import { permissionsOf, ROLES, type Role } from '../domain/permissions.ts';
import type { Wanted } from './asked.ts';
import {
  addressRanges,
  ceilingOf,
  unitsLeft,
  type KeyRules,
  type KeyUsed,
  type OrganizationFacts,
  type TokenFacts,
  type VerifierFacts,
} from './facts.ts';
import { toKeyFacts, toProfileFacts, type ProfileFacts, type StoredKey, type StoredProfile } from './key-facts.ts';

/** What one snapshot of the database holds of all that some requests are about. */
export type LoadedFacts = {
  /** Of the newest life-cycle event; 0 and null where there is none. */
  readonly position: bigint;
  readonly positionId: string | null;
  /** Of rows that were mended without an event. */
  readonly revision: bigint;
  /** By the hash, in hex. */
  readonly tokens: ReadonlyMap<string, TokenFacts>;
  readonly organizations: ReadonlyMap<string, OrganizationFacts>;
  readonly verifiers: ReadonlyMap<string, VerifierFacts>;
  /** By the hash of a secret that was made elsewhere, as hexadecimal digits: its verifiers in all organizations that imported it. */
  readonly imported: ReadonlyMap<string, readonly VerifierFacts[]>;
};

/** Puts one statement to the database. */
export type Ask = <Row extends pg.QueryResultRow>(query: pg.QueryConfig) => Promise<readonly Row[]>;

/** `revision`: of the rows that were mended without an event, as it was when this one was read. */
export type Sharing = (profile: ProfileFacts, revision: bigint) => ProfileFacts;

const VERIFYING_ROLES: ReadonlySet<Role> = new Set(ROLES.filter((role) => permissionsOf(role).includes('keys:verify')));

type Row = {
  readonly position: bigint;
  readonly position_id: string | null;
  readonly revision: bigint;
  readonly tokens: readonly StoredToken[] | null;
  readonly organizations: readonly OrganizationFacts[] | null;
  readonly verifiers: readonly StoredVerifier[] | null;
  readonly imported: readonly { readonly hash: string; readonly lookup_id: string }[] | null;
  readonly keys: readonly (StoredKey & StoredRules)[] | null;
  readonly profiles: readonly StoredProfile[] | null;
};
type StoredToken = {
  readonly hash: string;
  readonly organization_id: string;
  readonly permissions: readonly string[] | null;
  readonly revoked: boolean;
  readonly expires_us: number | null;
  readonly of_member: boolean;
  readonly role: Role | null;
};
type StoredVerifier = {
  readonly lookup_id: string;
  readonly mac: string;
  readonly pepper_id: string;
  readonly current: boolean;
  readonly expires_us: number | null;
  readonly key: number;
};
type StoredRules = {
  readonly state: string;
  readonly archived: boolean;
  readonly expires_us: number | null;
  readonly ip_allowlist: readonly string[];
  readonly allowed_origins: readonly string[];
  readonly tokens_per_minute: number | null;
  readonly second: number | null;
  readonly used: KeyUsed;
};

/** Planned once a connection: to plan it takes longer than to look up a few dozen keys. */
const FACTS = `
  WITH tokens AS MATERIALIZED (
    SELECT encode(t.token_hash, 'hex') AS hash, t.organization_id, t.permissions, t.revoked_at IS NOT NULL AS revoked,
      (extract(epoch FROM t.expires_at) * 1000000)::bigint AS expires_us, t.member_id IS NOT NULL AS of_member, m.role
    FROM unnest($1::text[]) AS w (hash) JOIN access_tokens t ON t.token_hash = decode(w.hash, 'hex')
    LEFT JOIN members m ON m.organization_id = t.organization_id AND m.id = t.member_id AND m.removed_at IS NULL
  ),
  imported AS MATERIALIZED (
    SELECT w.hash, s.lookup_id FROM unnest($4::text[]) AS w (hash) JOIN imported_secrets s ON s.hash = decode(w.hash, 'hex') WHERE s.lookup_id IS NOT NULL
  ),
  verifiers AS MATERIALIZED (
    SELECT v.lookup_id, encode(v.mac, 'hex') AS mac, v.pepper_id, v.current, (extract(epoch FROM v.expires_at) * 1000000)::bigint AS expires_us, v.key
    FROM key_verifiers v WHERE v.lookup_id = ANY ($3::text[] || ARRAY(SELECT lookup_id FROM imported))
  ),
  keys AS MATERIALIZED (
    SELECT k.number, k.id, k.organization_id, k.name, k.type, k.category, k.permissions, k.metadata, k.expires_at, k.owner_id, k.profile_id, k.quota_total, k.quota_daily,
      k.quota_weekly, k.quota_monthly, k.requests_per_minute, k.tokens_per_minute, k.state, k.archived, k.ip_allowlist, k.allowed_origins,
      (extract(epoch FROM k.expires_at) * 1000000)::bigint AS expires_us, w.second_bucket AS second,
      json_build_object('total', w.total, 'minute', w.minute_closed + w.second_count, 'day', w.day_closed + w.half_hour_count, 'week', w.week_closed + w.quarter_count,
        'month', w.month_closed + w.quarter_count) AS used
    FROM api_keys k LEFT JOIN key_windows w ON w.key = k.number WHERE k.number = ANY (ARRAY(SELECT key FROM verifiers))
  )
  SELECT coalesce(newest.position, 0) AS position, newest.id AS position_id, (SELECT revision FROM state_revision) AS revision,
    (SELECT json_agg(t) FROM tokens t) AS tokens, (SELECT json_agg(v) FROM verifiers v) AS verifiers, (SELECT json_agg(i) FROM imported i) AS imported,
    (SELECT json_agg(k) FROM keys k) AS keys,
    (SELECT json_agg(p) FROM profiles p WHERE p.id = ANY (ARRAY(SELECT profile_id FROM keys))) AS profiles,
    (
      SELECT json_agg(json_build_object('id', o.id, 'number', o.number, 'capped', o.requests_per_second IS NOT NULL OR o.requests_per_minute IS NOT NULL,
        'balanced', EXISTS (SELECT FROM balances b WHERE b.organization = o.number)))
      FROM organizations o WHERE o.id = ANY ($2::uuid[] || ARRAY(SELECT organization_id FROM tokens))
    ) AS organizations
  FROM (VALUES (true)) AS one (row) LEFT JOIN (SELECT position, id FROM events ORDER BY position DESC LIMIT 1) AS newest ON true`;

/**
 * Reads who asks and what is presented, for all of some requests, in one statement and so in one snapshot. `sharing` may answer an equal profile that is in memory already: a hundred
 * thousand keys can have the same one.
 */
export async function loadFacts(ask: Ask, wanted: readonly Wanted[], sharing: Sharing): Promise<LoadedFacts> {
  const tokens = distinct(wanted, ({ caller }) => (caller.kind === 'token' ? caller.tokenHash : null));
  const organizations = distinct(wanted, ({ caller }) => (caller.kind === 'organization' ? caller.organizationId : null));
  const lookupIds = distinct(wanted, ({ lookupId }) => lookupId);
  const hashes = distinct(wanted, ({ foreignHash }) => foreignHash?.toString('hex') ?? null);
  const [row] = await ask<Row>({ name: 'facts', text: FACTS, values: [tokens, organizations, lookupIds, hashes] });
  if (row === undefined) throw new Error('The facts of a batch came without a row.');
  return toFacts(row, sharing);
}

function toFacts(row: Row, sharing: Sharing): LoadedFacts {
  const profiles = new Map((row.profiles ?? []).map((profile) => [profile.id, sharing(toProfileFacts(profile), row.revision)]));
  const keys = new Map((row.keys ?? []).map((key) => [key.number, toRules(key, profiles)]));
  const verifiers = new Map<string, VerifierFacts>();
  for (const stored of row.verifiers ?? []) {
    const key = keys.get(stored.key);
    if (key === undefined) continue;
    verifiers.set(stored.lookup_id, {
      lookupId: stored.lookup_id,
      mac: stored.mac,
      pepperId: stored.pepper_id,
      current: stored.current,
      expiresUs: stored.expires_us,
      key,
    });
  }
  const imported = new Map<string, VerifierFacts[]>();
  for (const { hash, lookup_id } of row.imported ?? []) {
    const verifier = verifiers.get(lookup_id);
    if (verifier !== undefined) imported.set(hash, [...(imported.get(hash) ?? []), verifier]);
  }
  return {
    position: row.position,
    positionId: row.position_id,
    revision: row.revision,
    tokens: new Map((row.tokens ?? []).map((token) => [token.hash, toToken(token)])),
    organizations: new Map((row.organizations ?? []).map((organization) => [organization.id, organization])),
    verifiers,
    imported,
  };
}

function toToken({ organization_id, permissions, revoked, expires_us, of_member, role }: StoredToken): TokenFacts {
  return {
    organizationId: organization_id,
    valid: !revoked && (!of_member || role !== null),
    mayVerify: (permissions === null || permissions.includes('keys:verify')) && (role === null || VERIFYING_ROLES.has(role)),
    expiresUs: expires_us,
  };
}

function toRules(key: StoredKey & StoredRules, profiles: ReadonlyMap<string, ProfileFacts>): KeyRules {
  const profile = key.profile_id === null ? null : (profiles.get(key.profile_id) ?? null);
  const limits = {
    minute: key.requests_per_minute,
    tokens: key.tokens_per_minute,
    total: key.quota_total,
    day: key.quota_daily,
    week: key.quota_weekly,
    month: key.quota_monthly,
  };
  return {
    number: key.number,
    organizationId: key.organization_id,
    active: key.state === 'active' && !key.archived,
    expiresUs: key.expires_us,
    test: key.type === 'TEST',
    addresses: addressRanges(key.ip_allowlist),
    origins: key.allowed_origins.length === 0 ? null : new Set(key.allowed_origins),
    permissions: new Set(key.permissions),
    limits,
    windows: { second: key.second ?? 0, ceiling: key.second === null ? 0 : ceilingOf(key.used.total, unitsLeft(limits, key.used)) },
    told: toKeyFacts(key, profile),
    bytes: bytesOf(key, profile),
  };
}

/** Measured, as the next one: a key without metadata, permissions and lists, with its places in the cache and the text of its answer. */
const BARE_KEY_BYTES = 2_000;
/** Of a value that was parsed for each character of its JSON, where that is little but brackets. */
const BYTES_A_CHARACTER = 15;
/** Of a text. */
const BYTES_A_TEXT_CHARACTER = 2;

/** About what a parsed value takes in memory. */
export function bytesOfJson(value: JsonValue): number {
  return BYTES_A_CHARACTER * JSON.stringify(value).length;
}

/** Without its profile, which it shares with others; but the text of its answer tells of that too. */
function bytesOf({ metadata, permissions, ip_allowlist, allowed_origins }: StoredKey & StoredRules, profile: ProfileFacts | null): number {
  const told = profile === null ? 0 : BYTES_A_TEXT_CHARACTER * JSON.stringify(profile.settings).length;
  return BARE_KEY_BYTES + bytesOfJson([metadata, permissions, ip_allowlist, allowed_origins]) + told;
}

function distinct(wanted: readonly Wanted[], valueOf: (wanted: Wanted) => string | null): readonly string[] {
  return [...new Set(wanted.map(valueOf).filter((value) => value !== null))];
}
