import { sql, type Kysely } from 'kysely';

import { arrayPart, binaryArray, INT4, INT8, TIMESTAMPTZ, UUID } from '../postgres/binary-array.ts';
import type { Tables } from '../postgres/tables.ts';
import type { UsageOutcome } from './admission.ts';
import { joinChunks, type UsageChunk } from './usage-chunk.ts';

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
    const row = await ask(db, organizationId, left.flat());
    const spans = spansOf(left);
    const good = spans.filter((span) => {
      const outcome = badItemOf(row, span);
      if (outcome !== null) outcomes.set(span.report, outcome);
      return outcome === null;
    });
    if (good.length === spans.length) {
      for (const [report, outcome] of recorded(row, spans)) outcomes.set(report, outcome);
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

/** Positions were given in the order of the items, without a gap. A report of duplicates alone is answered with the newest position: by then all that it holds is in the log. */
function* recorded({ first_position, again }: Row, spans: readonly Span[]): Generator<readonly [UsageReport, UsageOutcome]> {
  if (first_position === null) throw new Error('record_usage answered no position: the function of migration 0010 was changed.');
  const duplicatesBefore = (item: number) => again?.filter((duplicate) => duplicate < item).length ?? 0;
  const acceptedBefore = (item: number) => item - duplicatesBefore(item);
  const all = acceptedBefore(spans.at(-1)?.to ?? 0);
  for (const { report, from, to } of spans) {
    const accepted = acceptedBefore(to) - acceptedBefore(from);
    const position = first_position + BigInt(accepted === 0 ? all : acceptedBefore(to)) - 1n;
    yield [report, { kind: 'recorded', accepted, duplicates: to - from - accepted, position }];
  }
}

async function ask(db: Kysely<Tables>, organizationId: string, chunks: readonly UsageChunk[]): Promise<Row> {
  const { keys, key, charges, parts } = joinChunks(chunks);
  const { rows } = await sql<Row>`
    SELECT * FROM record_usage(${organizationId}, ${binaryArray([arrayPart(UUID, keys)])},
      ${
        charges &&
        binaryArray([
          arrayPart(
            INT4,
            charges.map((charge) => charge.key + 1),
          ),
        ])
      },
      ${
        charges &&
        binaryArray([
          arrayPart(
            TIMESTAMPTZ,
            charges.map(({ second }) => (second === null ? null : new Date(second * SECOND_MS))),
          ),
        ])
      },
      ${
        charges &&
        binaryArray([
          arrayPart(
            INT8,
            charges.map(({ credits }) => BigInt(credits)),
          ),
        ])
      },
      ${
        charges &&
        binaryArray([
          arrayPart(
            INT8,
            charges.map(({ tokens }) => tokens),
          ),
        ])
      },
      ${binaryArray([
        arrayPart(
          INT4,
          key.map((place) => (place === null ? null : place + 1)),
        ),
      ])},
      ${sql.join(parts.map((column) => sql`${binaryArray(column)}`))})`.execute(db);
  const row = rows[0];
  if (row === undefined) throw new Error('record_usage answered no row: the function of migration 0010 was changed.');
  return row;
}
