import type { ColumnType } from 'kysely';

import type { NullableTimestamp, Timestamp } from './column-types.ts';

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
