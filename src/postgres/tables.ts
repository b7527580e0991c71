import type { ColumnType, GeneratedAlways } from 'kysely';

import type { JsonValue } from '../lib/canonical-json.ts';

type Timestamp = ColumnType<Date, Date | string, Date | string>;
type NullableTimestamp = ColumnType<Date | null, Date | string | null, Date | string | null>;
/** Written as text, read parsed. */
type Json = ColumnType<JsonValue, string, string>;

export interface EventsTable {
  readonly position: bigint;
  readonly id: GeneratedAlways<string>;
  readonly organization_id: string;
  readonly stream: string;
  readonly version: number;
  readonly type: string;
  readonly schema_version: number;
  readonly actor: string;
  readonly recorded_at: Timestamp;
  readonly data: Json;
}

export interface UsageEventsTable {
  readonly position: bigint;
  readonly recorded_at: Timestamp;
  readonly organization: number;
  readonly key: number;
  readonly credits: number;
  readonly kind: number;
  readonly code: number;
  readonly status: number | null;
  readonly duration_ms: number | null;
  readonly occurred_at: NullableTimestamp;
  readonly settles: bigint | null;
  readonly cost_micros: bigint | null;
  readonly tokens_in: bigint | null;
  readonly tokens_out: bigint | null;
  readonly ip: string | null;
  readonly endpoint: string | null;
  readonly model: string | null;
  readonly request_id: string | null;
  readonly detail: string | null;
}

export interface LedgerView {
  readonly position: bigint;
  readonly organization_id: string;
  readonly stream: string;
  readonly version: number | null;
  readonly type: string;
  readonly schema_version: number;
  readonly actor: string | null;
  readonly recorded_at: Date;
  readonly data: string;
}

export interface OrganizationsTable {
  readonly id: string;
  readonly number: number;
  readonly name: string;
  readonly plan: string;
  readonly team: boolean;
  readonly requests_per_second: bigint | null;
  readonly requests_per_minute: bigint | null;
  readonly deletion_policy: 'ANY_KEY' | 'UNUSED_KEYS';
  readonly quota_status: 429 | 401;
  readonly public_key_permissions: string[] | null;
  readonly key_operations_per_hour: number | null;
  readonly alert_quota_thresholds: number[];
  readonly alert_expiring_within_days: number | null;
  readonly alert_unused_for_days: number | null;
  readonly created_at: Timestamp;
  readonly version: number;
}

export interface MembersTable {
  readonly organization_id: string;
  readonly id: string;
  readonly role: 'OWNER' | 'ADMIN' | 'MEMBER' | 'AUDITOR';
  readonly person_id: string | null;
  readonly joined_at: Timestamp;
  readonly removed_at: NullableTimestamp;
}

export interface PeopleTable {
  readonly organization_id: string;
  readonly member_id: string;
  readonly name: string | null;
  readonly email: string | null;
  readonly oidc_subject: string | null;
}

export interface AccessTokensTable {
  readonly token_hash: Buffer;
  readonly id: string;
  readonly organization_id: string;
  readonly name: string;
  readonly member_id: string | null;
  readonly permissions: string[] | null;
  readonly issued_at: Timestamp;
  readonly issued_by: string;
  readonly expires_at: NullableTimestamp;
  readonly revoked_at: NullableTimestamp;
}

export interface ProfilesTable {
  readonly id: string;
  readonly organization_id: string;
  readonly name: string;
  readonly name_folded: string;
  readonly settings: Json;
  readonly created_at: Timestamp;
  readonly created_by: string;
  readonly version: number;
}

export interface ApiKeysTable {
  readonly id: string;
  readonly number: number;
  readonly organization_id: string;
  readonly name: string;
  readonly name_folded: string;
  readonly type: 'PUBLIC' | 'SECRET' | 'TEST';
  readonly category: string;
  readonly state: 'active' | 'inactive' | 'deleted';
  readonly permissions: string[];
  readonly expires_at: NullableTimestamp;
  readonly expired_event: boolean;
  readonly profile_id: string | null;
  readonly metadata: Json;
  readonly ip_allowlist: string[];
  readonly allowed_origins: string[];
  readonly owner_id: string | null;
  readonly archived: boolean;
  readonly quota_total: bigint | null;
  readonly quota_daily: bigint | null;
  readonly quota_weekly: bigint | null;
  readonly quota_monthly: bigint | null;
  readonly requests_per_minute: bigint | null;
  readonly tokens_per_minute: bigint | null;
  readonly rotate_every_days: number | null;
  readonly masked: string;
  readonly created_at: Timestamp;
  readonly created_by: string;
  readonly secret_created_at: Timestamp;
  readonly version: number;
}

export interface KeyVerifiersTable {
  readonly lookup_id: string;
  readonly key_id: string;
  readonly key: number;
  readonly argon2: string;
  readonly pepper_id: string;
  readonly mac: Buffer;
  readonly current: boolean;
  readonly expires_at: NullableTimestamp;
  readonly created_at: Timestamp;
}

export interface IdempotencyTable {
  readonly actor: string;
  readonly key_hash: Buffer;
  readonly input_hash: Buffer;
  readonly operation: string;
  readonly result: Json;
  readonly sealed_secret: Buffer | null;
  readonly subject_id: string | null;
  readonly position: bigint;
  readonly recorded_at: ColumnType<Date, never, never>;
}

export interface ProjectionsTable {
  readonly name: string;
  readonly slot: number;
  readonly state: 'live' | 'building' | 'retired';
  readonly position: bigint;
  readonly started_at: NullableTimestamp;
}

export interface ParkedEventsTable {
  readonly projection: string;
  readonly slot: number;
  readonly position: bigint;
  readonly reason: string;
  readonly parked_at: ColumnType<Date, never, never>;
}

export interface UsageCountersTable {
  readonly slot: number;
  readonly grain: number;
  readonly organization: number;
  readonly key: number;
  readonly at: Timestamp;
  readonly requests: bigint;
  readonly succeeded: bigint;
  readonly failed: bigint;
  readonly refused: bigint;
  readonly credits: bigint;
  readonly cost_micros: bigint;
  readonly tokens_in: bigint;
  readonly tokens_out: bigint;
  readonly duration_ms: bigint;
  readonly timed: bigint;
}

export type UsageOpenMinutesTable = Omit<UsageCountersTable, 'grain'>;

export interface UsageBreakdownTable {
  readonly slot: number;
  readonly grain: number;
  readonly organization: number;
  readonly key: number;
  readonly at: Timestamp;
  readonly dimension: number;
  readonly value: string;
  readonly events: bigint;
}

export interface KeyLastUsedTable {
  readonly slot: number;
  /** A key's number, or minus the number of a category. */
  readonly key: number;
  readonly organization: number;
  readonly last_used_at: Timestamp;
  readonly last_used_minute: ColumnType<Date, never, never>;
}

export interface ImportedSecretsTable {
  readonly hash: Buffer;
  readonly organization_id: string;
  readonly lookup_id: string | null;
}

export interface BalancesTable {
  readonly organization: number;
  readonly micros: bigint;
  readonly suspended: GeneratedAlways<boolean>;
}

export interface AlertRulesTable {
  readonly id: string;
  readonly organization_id: string;
  readonly kind: string;
  readonly condition: Json;
  readonly enabled: boolean;
  readonly category: string | null;
  readonly key_id: string | null;
  readonly deleted: boolean;
  readonly created_at: Timestamp;
  readonly version: number;
}

export interface AlertsTable {
  readonly id: string;
  readonly organization_id: string;
  readonly rule_id: string;
  readonly kind: string;
  readonly key_id: string | null;
  readonly severity: 'INFO' | 'WARNING' | 'CRITICAL';
  readonly message: string;
  readonly details: Json;
  readonly series: string;
  readonly ordinal: number;
  readonly position: bigint;
  readonly raised_at: Timestamp;
  readonly acknowledged_at: NullableTimestamp;
  readonly acknowledged_by: string | null;
  readonly version: number;
}

export interface AlertProgressTable {
  readonly name: string;
  readonly position: bigint;
}

export interface WebhookEndpointsTable {
  readonly id: string;
  readonly organization_id: string;
  readonly url: string;
  readonly description: string;
  readonly event_types: string[];
  readonly state: 'active' | 'inactive' | 'deleted';
  readonly inactive_reason: 'REQUESTED' | 'GONE' | 'FAILING' | null;
  readonly active_since: Timestamp;
  readonly created_at: Timestamp;
  readonly created_by: string;
  readonly secret_created_at: Timestamp;
  readonly version: number;
}

export interface WebhookSecretsTable {
  readonly endpoint_id: string;
  readonly fingerprint: string;
  readonly pepper_id: string;
  readonly sealed: Buffer;
  readonly expires_at: NullableTimestamp;
  readonly created_at: Timestamp;
}

export interface WebhookHealthTable {
  readonly endpoint_id: string;
  readonly failing_since: NullableTimestamp;
  readonly troubled: boolean;
  readonly rests_until: NullableTimestamp;
}

export interface WebhookDeliveriesTable {
  readonly id: GeneratedAlways<string>;
  readonly endpoint_id: string;
  readonly organization_id: string;
  readonly event_position: bigint;
  readonly state: 'pending' | 'delivered' | 'failed' | 'cancelled';
  readonly next_attempt_at: NullableTimestamp;
  readonly failures: number;
  readonly claims: number;
  readonly created_at: Timestamp;
  readonly finished_at: NullableTimestamp;
}

export interface WebhookAttemptsTable {
  readonly id: GeneratedAlways<string>;
  readonly delivery_id: string;
  readonly at: Timestamp;
  readonly duration_ms: number;
  readonly status: number | null;
  readonly error: string | null;
  readonly response_head: string | null;
}

/** The tables of schema `keyledger` as Kysely sees them. */
export interface Tables {
  readonly events: EventsTable;
  readonly usage_events: UsageEventsTable;
  readonly ledger: LedgerView;
  readonly organizations: OrganizationsTable;
  readonly members: MembersTable;
  readonly people: PeopleTable;
  readonly access_tokens: AccessTokensTable;
  readonly profiles: ProfilesTable;
  readonly api_keys: ApiKeysTable;
  readonly key_verifiers: KeyVerifiersTable;
  readonly idempotency: IdempotencyTable;
  readonly projections: ProjectionsTable;
  readonly parked_events: ParkedEventsTable;
  readonly usage_counters: UsageCountersTable;
  readonly usage_open_minutes: UsageOpenMinutesTable;
  /** Both of them, as counters; a bucket may have several rows. */
  readonly usage_sums: UsageCountersTable;
  readonly usage_breakdown: UsageBreakdownTable;
  readonly key_last_used: KeyLastUsedTable;
  readonly balances: BalancesTable;
  readonly alert_rules: AlertRulesTable;
  readonly alerts: AlertsTable;
  readonly alert_progress: AlertProgressTable;
  readonly webhook_endpoints: WebhookEndpointsTable;
  readonly webhook_secrets: WebhookSecretsTable;
  readonly webhook_health: WebhookHealthTable;
  readonly webhook_deliveries: WebhookDeliveriesTable;
  readonly webhook_attempts: WebhookAttemptsTable;
  readonly imported_secrets: ImportedSecretsTable;
}
