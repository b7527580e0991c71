import type { GeneratedAlways } from 'kysely';

import type { NullableTimestamp, Timestamp } from './column-types.ts';

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
