import { sql, type Kysely } from 'kysely';

import { arrayOf, binaryArray, INT4, INT8, TIMESTAMPTZ, UUID, type BinaryType } from '../postgres/binary-array.ts';
import type { Tables } from '../postgres/tables.ts';
import type { UsageOutcome } from './admission.ts';
import { joinChunks, type Charge, type JoinedChunks, type UsageChunk } from './usage-chunk.ts';

const SECOND_MS = 1000;

/** A report, its items in one chunk or more. */
export type UsageReport = readonly UsageChunk[];

type Row = {
  readonly first_position: bigint | null;
  readonly again: readonly number[] | null;
  readonly bad_items: readonly number[] | null;
  readonly bad_reasons: readonly string[] | null;
};

/** What the SQL function `record_usage` (migration 0010) finds wrong, in the reader's words. */
const REASONS: Readonly<Record<string, string>> = {
  'unknown request': "'requestId' names no request of your organization that was verified; leave it out and give 'keyId'",
  'no key': "'keyId' is needed, as the request was not verified here",
  'unknown key': "'keyId' is no key of your organization",
};

/**
 * Records and settles the usage of one organization's reports in one statement and one commit. Idempotent by request id; throws what the database throws. Where an item of a report is
 * bad, that report is left out whole and the others are recorded without it: which items are bad is asked before anything is written, and of what stood before all of them.
 */
export async function recordUsage(
  db: Kysely<Tables>,
  organizationId: string,
  reports: readonly UsageReport[],
): Promise<readonly UsageOutcome[]> {
  const outcomes = new Map<UsageReport, UsageOutcome>();
  let left = reports;
  while (left.length > 0) {
    const chunks = joinChunks(left.flat());
    const row = await ask(db, organizationId, chunks);
    const spans = spansOf(left);
    const good = spans.filter((span) => {
      const outcome = badItemOf(row, span);
      if (outcome !== null) outcomes.set(span.report, outcome);
      return outcome === null;
    });
    if (good.length === spans.length) {
      for (const [report, outcome] of recorded(row, chunks.order, spans)) outcomes.set(report, outcome);
      break;
    }
    left = good.map(({ report }) => report);
  }
  return reports.map((report) => {
    const outcome = outcomes.get(report);
    if (outcome === undefined) throw new Error('record_usage told nothing of a report: the function of migration 0010 was changed.');
    return outcome;
  });
}

/** A report's items among those of all. */
type Span = { readonly report: UsageReport; readonly from: number; readonly to: number };

function spansOf(reports: readonly UsageReport[]): readonly Span[] {
  let from = 0;
  return reports.map((report) => {
    const to = from + report.reduce((sum, chunk) => sum + chunk.items, 0);
    const span = { report, from, to };
    from = to;
    return span;
  });
}

function badItemOf({ bad_items, bad_reasons }: Row, { from, to }: Span): UsageOutcome | null {
  const which = bad_items?.findIndex((item) => item >= from && item < to) ?? -1;
  const item = bad_items?.[which];
  if (item === undefined) return null;
  return { kind: 'bad-item', index: item - from, message: REASONS[bad_reasons?.[which] ?? ''] ?? 'the item can not be recorded' };
}

/** Positions were given in this order, without a gap. A report of duplicates alone is answered with the newest position: by then all that it holds is in the log. */
function* recorded(
  { first_position, again }: Row,
  order: Int32Array,
  spans: readonly Span[],
): Generator<readonly [UsageReport, UsageOutcome]> {
  if (first_position === null) throw new Error('record_usage answered no position: the function of migration 0010 was changed.');
  const duplicates = new Set(again);
  const places = new Int32Array(order.length);
  let next = 0;
  for (const item of order) places[item - 1] = duplicates.has(item - 1) ? -1 : next++;
  for (const { report, from, to } of spans) {
    const own = places.subarray(from, to).filter((place) => place >= 0);
    const last = own.length === 0 ? next - 1 : own.reduce((most, place) => Math.max(most, place), 0);
    yield [report, { kind: 'recorded', accepted: own.length, duplicates: to - from - own.length, position: first_position + BigInt(last) }];
  }
}

async function ask(db: Kysely<Tables>, organizationId: string, { keys, key, charges, order, parts }: JoinedChunks): Promise<Row> {
  const charged = <Value>(type: BinaryType<Value>, of: (charge: Charge) => Value | null) => charges && arrayOf(type, charges, of);
  const { rows } = await sql<Row>`
    SELECT * FROM record_usage(${organizationId}, ${arrayOf(UUID, keys, (id) => id)},
      ${charged(INT4, (charge) => charge.key)}, ${charged(TIMESTAMPTZ, ({ second }) => (second === null ? null : new Date(second * SECOND_MS)))},
      ${charged(INT8, ({ credits }) => BigInt(credits))}, ${charged(INT8, ({ tokens }) => tokens)},
      ${arrayOf(INT4, key, (place) => place)}, ${arrayOf(INT4, order, (place) => place)}, ${sql.join(parts.map((column) => sql`${binaryArray(column)}`))})`.execute(
    db,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('record_usage answered no row: the function of migration 0010 was changed.');
  return row;
}
