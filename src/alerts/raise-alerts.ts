import { sql, type Kysely } from 'kysely';

import { SYSTEM_ACTOR_ID } from '../domain/actor.ts';
import type { AlertFinding, RaisedAlert } from '../domain/alert.ts';
import { streamOf } from '../domain/event.ts';
import { append, isPostgresError, isUniqueViolation, type Effect } from '../ledger/append.ts';
import type { Tables } from '../postgres/tables.ts';
import { writeAlertRows } from '../projections/alert-row.ts';

/** Alerts in one statement: the log's lock is held that long. */
const BATCH = 500;
const ATTEMPTS = 5;
/** Series that are remembered as raised; beyond it everything is forgotten, which costs look-ups and nothing else. */
const REMEMBERED = 200_000;
/** No longer than this, so that a clock of the database that is set is followed soon. */
const REMEMBER_MS = 2_000;

/** Is told that a series has its alert, and from when on, by the ledger's clock, it may have another one; Infinity for never. */
export type SeriesTold = (series: string, againAtMs: number) => void;

/** Raises what evaluations found, each series once in its window. Of those that were raised before, `told` hears; of those that are raised now, the next time. */
export type RaiseAlerts = (findings: readonly AlertFinding[], told?: SeriesTold) => Promise<number>;

type Raising = RaisedAlert & { readonly organizationId: string };
type SeriesRow = { readonly series: string; readonly ordinal: number; readonly raised_at_ms: number; readonly raised_ms_ago: number };

/**
 * Remembers, to spare look-ups alone, which series have their alert for now. What decides is the database: the alert's row, with its series and ordinal, is
 * written by the statement that appends AlertRaised, and the unique index refuses the second of two that raise the same.
 */
export function createRaiseAlerts(db: Kysely<Tables>): RaiseAlerts {
  /** Until when, by the clock of this process, a series is known to raise nothing, and by the ledger's clock. */
  const quiet = new Map<string, { readonly untilMs: number; readonly againAtMs: number }>();

  function remember({ series, windowMs }: AlertFinding, raised: SeriesRow): number {
    if (quiet.size >= REMEMBERED) quiet.clear();
    // A millisecond early: the database compares to the microsecond.
    const againAtMs = raised.raised_at_ms + (windowMs ?? Infinity) - 1;
    quiet.set(series, { untilMs: performance.now() + Math.min(REMEMBER_MS, (windowMs ?? Infinity) - raised.raised_ms_ago), againAtMs });
    return againAtMs;
  }

  async function raiseBatch(findings: readonly AlertFinding[], told: SeriesTold | undefined): Promise<number> {
    for (let attempt = 1; ; attempt++) {
      const due = await dueFindings(db, findings, (finding, raised) => {
        const againAtMs = remember(finding, raised);
        told?.(finding.series, againAtMs);
      });
      if (due.length === 0) return 0;
      try {
        await append(db, appendOf(due));
        return due.length;
      } catch (error) {
        // Somebody else raised one of them at the same moment, or 40P01: look again.
        const lost = isUniqueViolation(error, 'alerts_once') || (isPostgresError(error) && ['40P01', '40001'].includes(error.code));
        if (!lost || attempt === ATTEMPTS) throw error;
      }
    }
  }

  return async (findings, told) => {
    const now = performance.now();
    const open = new Map<string, AlertFinding>();
    for (const finding of findings) {
      const known = quiet.get(finding.series);
      if (known === undefined || known.untilMs <= now) open.set(finding.series, finding);
      else told?.(finding.series, known.againAtMs);
    }
    const all = [...open.values()];
    let raised = 0;
    for (let start = 0; start < all.length; start += BATCH) raised += await raiseBatch(all.slice(start, start + BATCH), told);
    return raised;
  };
}

/** Those findings whose series has no alert within its window, with their place in the series. */
async function dueFindings(
  db: Kysely<Tables>,
  findings: readonly AlertFinding[],
  standing: (finding: AlertFinding, raised: SeriesRow) => void,
): Promise<readonly Raising[]> {
  const { rows } = await sql<SeriesRow>`
    SELECT s.series, last.ordinal, extract(epoch FROM last.raised_at)::float8 * 1000 AS raised_at_ms, extract(epoch FROM ledger_now() - last.raised_at)::float8 * 1000 AS raised_ms_ago
    FROM unnest(${findings.map(({ series }) => series)}::text[]) AS s (series)
    CROSS JOIN LATERAL (SELECT a.ordinal, a.raised_at FROM alerts a WHERE a.series = s.series ORDER BY a.ordinal DESC LIMIT 1) AS last`.execute(
    db,
  );
  const last = new Map(rows.map((row) => [row.series, row]));
  const due = findings.filter((finding) => {
    const row = last.get(finding.series);
    if (row === undefined || (finding.windowMs !== null && row.raised_ms_ago >= finding.windowMs)) return true;
    standing(finding, row);
    return false;
  });
  if (due.length === 0) return [];
  const { rows: ids } = await sql<{ id: string }>`SELECT uuidv7() AS id FROM generate_series(1, ${due.length}::integer)`.execute(db);
  return due.map((finding, index) => raisingOf(finding, idAt(ids, index), (last.get(finding.series)?.ordinal ?? 0) + 1));
}

function raisingOf(finding: AlertFinding, alertId: string, ordinal: number): Raising {
  const { organizationId, ruleId, kind, keyId, severity, message, details, series } = finding;
  return { organizationId, alertId, ruleId, kind, keyId, severity, message, details, series, ordinal };
}

function idAt(ids: readonly { readonly id: string }[], index: number): string {
  const id = ids[index]?.id;
  if (id === undefined) throw new Error('The database gave too few ids for new alerts.');
  return id;
}

function appendOf(due: readonly Raising[]) {
  const streams = due.map(({ organizationId, ...data }) => ({
    organizationId,
    stream: streamOf.alert(data.alertId),
    version: 0,
    events: [{ type: 'AlertRaised' as const, data }],
  }));
  const effects: readonly Effect[] = [writeAlertRows(due)];
  return { actorId: SYSTEM_ACTOR_ID, streams, effects, keyOperationsPerHour: null };
}
