import type { Json, NullableTimestamp, Timestamp } from './column-types.ts';

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
