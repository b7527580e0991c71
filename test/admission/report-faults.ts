import { sql, type Kysely } from 'kysely';

import type { UsageItem, UsageOutcome } from '../../src/admission/admission.ts';
import type { Tables } from '../../src/postgres/tables.ts';
import { numberingFaults, totalFaults } from '../support/log-invariants.ts';
import { windowFaults } from '../support/window-faults.ts';

/** One report as it was sent and answered. All its items bear its name as their model, by which they are found in the log. */
export type SentReport = {
  readonly name: string;
  readonly items: readonly UsageItem[];
  /** The place of its first bad item; null where all are good. */
  readonly bad: number | null;
  readonly outcome: UsageOutcome;
};

type Logged = { readonly model: string; readonly request_id: string | null; readonly settles: bigint | null; readonly position: bigint };

/** What is wrong with how reports were recorded and answered, whatever shared a statement with what. */
export async function reportFaults(db: Kysely<Tables>, sent: readonly SentReport[]): Promise<readonly string[]> {
  const { rows } = await sql<Logged>`SELECT model, request_id, settles, position FROM usage_events WHERE model IS NOT NULL`.execute(db);
  const byReport = Map.groupBy(rows, ({ model }) => model);
  return [
    ...sent.flatMap((report) => answerFaults(report, byReport.get(report.name) ?? [])),
    ...twice(rows, ({ request_id }) => request_id).map((id) => `the request id ${id} was recorded twice`),
    ...twice(rows, ({ settles }) => settles).map((position) => `the request at ${position} was settled twice`),
    ...missing(sent, rows),
    ...(await windowFaults(db)).map(String),
    ...(await totalFaults(db)),
    ...(await numberingFaults(db)),
  ];
}

function answerFaults({ name, items, bad, outcome }: SentReport, rows: readonly Logged[]): readonly string[] {
  if (outcome.kind === 'bad-item')
    return [
      ...(outcome.index === bad ? [] : [`${name}: item ${outcome.index} was called bad, and it is ${bad}`]),
      ...(rows.length === 0 ? [] : [`${name} was refused, and ${rows.length} of its items were recorded`]),
    ];
  const last = rows.reduce((most, { position }) => (position > most ? position : most), 0n);
  return [
    ...(bad === null ? [] : [`${name} was recorded though item ${bad} is bad`]),
    ...(outcome.accepted === rows.length ? [] : [`${name}: ${outcome.accepted} were accepted, ${rows.length} recorded`]),
    ...(outcome.accepted + outcome.duplicates === items.length
      ? []
      : [`${name}: of ${items.length} items only ${outcome.accepted} and ${outcome.duplicates} were told of`]),
    ...(rows.length === 0 || outcome.position === last
      ? []
      : [`${name} was answered with position ${outcome.position}, its last event is at ${last}`]),
  ];
}

/** What was answered as recorded or as a duplicate has to be in the log. */
function missing(sent: readonly SentReport[], rows: readonly Logged[]): readonly string[] {
  const found = new Set(rows.flatMap(({ request_id, settles }) => [request_id ?? '', settles === null ? '' : `req_${settles}`]));
  return sent
    .filter(({ outcome }) => outcome.kind === 'recorded')
    .flatMap(({ name, items }) =>
      items
        .filter(({ requestId }) => requestId !== null && !found.has(requestId))
        .map(({ requestId }) => `${name}: ${requestId} is not in the log`),
    );
}

function twice<Row>(rows: readonly Row[], of: (row: Row) => unknown): readonly string[] {
  const values = rows.map(of).filter((value) => value !== null);
  return [...Map.groupBy(values, String)].filter(([, same]) => same.length > 1).map(([value]) => value);
}
