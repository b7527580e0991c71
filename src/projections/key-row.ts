import { sql, type RawBuilder } from 'kysely';

import type { KeyState } from '../domain/api-key.ts';
import { canonicalJson } from '../lib/canonical-json.ts';
import type { Effect } from '../ledger/append.ts';

type ExistingKey = Exclude<KeyState, { kind: 'absent' }>;

type KeyRowFacts = {
  readonly organizationId: string;
  readonly version: number;
  readonly actorId: string;
  readonly created: boolean;
  readonly newSecret: boolean;
};

/** Key names that differ only in case or compatibility forms (NFKC) are the same name. */
export function foldName(name: string): string {
  return name.normalize('NFKC').toLowerCase();
}

/**
 * The row of `api_keys` that a state folds to: what admission and lists read. What only the envelope of an event knows (who, when) is left out here and
 * comes from the event itself: see {@link writeKeyRow}. Also what `keyledger check` compares.
 */
export function keyRow(state: ExistingKey) {
  const { settings } = state;
  return {
    id: state.keyId,
    number: state.number,
    name: settings.name,
    name_folded: foldName(settings.name),
    type: state.type,
    category: settings.category,
    state: state.kind,
    permissions: [...settings.permissions],
    expires_at: settings.expiresAt === null ? null : new Date(settings.expiresAt),
    expired_event: settings.expiresAt !== null && state.expiredFor === settings.expiresAt,
    profile_id: state.kind === 'deleted' ? null : settings.profileId,
    metadata: canonicalJson(settings.metadata),
    ip_allowlist: [...settings.ipAllowlist],
    allowed_origins: [...settings.allowedOrigins],
    owner_id: state.ownerId,
    archived: state.archived,
    quota_total: settings.quotas.total,
    quota_daily: settings.quotas.daily,
    quota_weekly: settings.quotas.weekly,
    quota_monthly: settings.quotas.monthly,
    requests_per_minute: settings.limits.requestsPerMinute,
    tokens_per_minute: settings.limits.tokensPerMinute,
    rotate_every_days: settings.rotateEveryDays,
    masked: state.secret.masked,
  } as const;
}

/**
 * The effect that writes a key's row in the statement that appends. `created` and `newSecret` say whether the appended events created the key and gave it
 * a new secret: then the moments come from `appended`.
 */
export function writeKeyRow(state: ExistingKey, facts: KeyRowFacts): Effect {
  return { name: 'key_row', statement: facts.created ? insertRow(state, facts) : updateRow(state, facts) };
}

function insertRow(state: ExistingKey, facts: KeyRowFacts): RawBuilder<unknown> {
  const row = keyRow(state);
  return sql`
      INSERT INTO api_keys (id, number, organization_id, name, name_folded, type, category, state, permissions, expires_at, expired_event, profile_id, metadata,
        ip_allowlist, allowed_origins, owner_id, quota_total, quota_daily, quota_weekly, quota_monthly, requests_per_minute, tokens_per_minute, rotate_every_days,
        masked, created_at, created_by, secret_created_at, version)
      SELECT ${row.id}::uuid, ${row.number}::integer, ${facts.organizationId}::uuid, ${row.name}, ${row.name_folded}, ${row.type}, ${row.category}, ${row.state},
        ${row.permissions}::text[], ${row.expires_at}::timestamptz, ${row.expired_event}::boolean, ${row.profile_id}::uuid, ${row.metadata}::json,
        ${row.ip_allowlist}::cidr[], ${row.allowed_origins}::text[], ${row.owner_id}::uuid, ${row.quota_total}::bigint, ${row.quota_daily}::bigint,
        ${row.quota_weekly}::bigint, ${row.quota_monthly}::bigint, ${row.requests_per_minute}::bigint, ${row.tokens_per_minute}::bigint,
        ${row.rotate_every_days}::integer, ${row.masked}, appended.recorded_at, ${facts.actorId}, appended.recorded_at, ${facts.version}::integer
      FROM appended`;
}

function updateRow(state: ExistingKey, facts: KeyRowFacts): RawBuilder<unknown> {
  const row = keyRow(state);
  return sql`
    UPDATE api_keys SET
      name = ${row.name}, name_folded = ${row.name_folded}, category = ${row.category}, state = ${row.state}, permissions = ${row.permissions}::text[],
      expires_at = ${row.expires_at}::timestamptz, expired_event = ${row.expired_event}::boolean, profile_id = ${row.profile_id}::uuid,
      metadata = ${row.metadata}::json, ip_allowlist = ${row.ip_allowlist}::cidr[], allowed_origins = ${row.allowed_origins}::text[],
      quota_total = ${row.quota_total}::bigint, quota_daily = ${row.quota_daily}::bigint, quota_weekly = ${row.quota_weekly}::bigint,
      quota_monthly = ${row.quota_monthly}::bigint, requests_per_minute = ${row.requests_per_minute}::bigint, tokens_per_minute = ${row.tokens_per_minute}::bigint,
      rotate_every_days = ${row.rotate_every_days}::integer, masked = ${row.masked},
      secret_created_at = CASE WHEN ${facts.newSecret}::boolean THEN appended.recorded_at ELSE secret_created_at END,
      version = ${facts.version}::integer
    FROM appended
    WHERE id = ${row.id}::uuid AND organization_id = ${facts.organizationId}::uuid`;
}
