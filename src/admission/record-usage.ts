import { sql, type Kysely } from 'kysely';

import { positionOfRequestId } from '../domain/usage.ts';
import type { Tables } from '../postgres/tables.ts';
import type { UsageItem, UsageOutcome } from './admission.ts';

type Row = {
  readonly accepted: number;
  readonly duplicates: number;
  readonly last_position: bigint;
  readonly bad_item: number | null;
  readonly bad_reason: string | null;
};

/** What the SQL function `record_usage` (migration 0004) finds wrong, in the reader's words. */
const REASONS: Readonly<Record<string, string>> = {
  'unknown request': "'requestId' names no request of your organization that was verified; leave it out and give 'keyId'",
  'no key': "'keyId' is needed, as the request was not verified here",
  'unknown key': "'keyId' is no key of your organization",
};

/** Records and settles usage in one statement and one commit. Idempotent by request id; throws what the database throws. */
export async function recordUsage(db: Kysely<Tables>, organizationId: string, items: readonly UsageItem[]): Promise<UsageOutcome> {
  const generated = items.map((item) => (item.requestId === null ? null : positionOfRequestId(item.requestId)));
  const { rows } = await sql<Row>`
    SELECT * FROM record_usage(
      ${organizationId}::uuid, ${generated}::bigint[], ${items.map((item, index) => (generated[index] === null ? item.requestId : null))}::text[],
      ${items.map((item) => item.keyId)}::uuid[], ${items.map((item) => item.at)}::timestamptz[], ${items.map((item) => item.endpoint)}::text[],
      ${items.map((item) => item.status)}::smallint[], ${items.map((item) => item.durationMs)}::integer[], ${items.map((item) => item.ip)}::inet[],
      ${items.map((item) => item.credits)}::integer[], ${items.map((item) => item.costMicros)}::bigint[], ${items.map((item) => item.tokensIn)}::bigint[],
      ${items.map((item) => item.tokensOut)}::bigint[], ${items.map((item) => item.model)}::text[])`.execute(db);
  const row = rows[0];
  if (row === undefined) throw new Error('record_usage answered no row: the function of migration 0004 was changed.');
  if (row.bad_item !== null)
    return { kind: 'bad-item', index: row.bad_item, message: REASONS[row.bad_reason ?? ''] ?? 'the item can not be recorded' };
  return { kind: 'recorded', accepted: row.accepted, duplicates: row.duplicates, position: row.last_position };
}
