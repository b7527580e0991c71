import type { JsonValue } from '../lib/canonical-json.ts';

/** The tables whose rows are the fold of the log's streams, with their primary keys. */
export const STATE_TABLES = {
  organizations: ['id'],
  members: ['organization_id', 'id'],
  access_tokens: ['id'],
  profiles: ['id'],
  api_keys: ['id'],
  alert_rules: ['id'],
  alerts: ['id'],
  webhook_endpoints: ['id'],
} as const;
export type StateTable = keyof typeof STATE_TABLES;

/** A row as the log has it: columns by name, moments as texts with all their microseconds. */
export type FoldedRow = { readonly table: StateTable; readonly row: Readonly<Record<string, JsonValue>> };

/** A row's primary key as one text, its parts joined by a slash; all of them are UUIDs. */
export function keyOf({ table, row }: FoldedRow): string {
  return STATE_TABLES[table].map((column) => keyPart(row, column)).join('/');
}

/** One column of a row's primary key. */
export function keyPart(row: FoldedRow['row'], column: string): string {
  const part = row[column];
  if (typeof part !== 'string') throw new TypeError(`The column ${column} is no part of a primary key.`);
  return part;
}

/** An event with what of its envelope a row holds; moments as texts. */
export type RecordedEvent<Event> = {
  readonly event: Event;
  readonly organizationId: string;
  readonly version: number;
  readonly actor: string;
  readonly at: string;
  readonly position: string;
};
