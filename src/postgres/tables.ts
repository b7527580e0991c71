import type { ColumnType, GeneratedAlways } from 'kysely';

import type { AlertRulesTable, AlertsTable, AlertProgressTable } from './alert-tables.ts';
import type { Json, NullableTimestamp, Timestamp } from './column-types.ts';
import type {
  ProjectionsTable,
  ParkedEventsTable,
  UsageCountersTable,
  UsageOpenMinutesTable,
  UsageBreakdownTable,
  KeyLastUsedTable,
} from './projection-tables.ts';
import type {
  WebhookEndpointsTable,
  WebhookSecretsTable,
  WebhookHealthTable,
  WebhookDeliveriesTable,
  WebhookAttemptsTable,
} from './webhook-tables.ts';

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
