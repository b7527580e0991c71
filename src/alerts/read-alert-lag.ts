import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';

/** How far an evaluation of alerts is behind the log. */
export type AlertLag = {
  readonly evaluation: 'windows' | 'statistics';
  readonly events: number;
  /** For so long the oldest event that it has not seen has been in the log; 0 where it has seen all. */
  readonly seconds: number;
};

/** Of the evaluations that follow the log, whichever server is at them. Costs a few looks into indexes, however far behind they are. */
export async function readAlertLag(db: Kysely<Tables>): Promise<readonly AlertLag[]> {
  const { rows } = await sql<{ evaluation: AlertLag['evaluation']; events: bigint; seconds: number }>`
    SELECT p.name AS evaluation, greatest(head_position() - p.position, 0) AS events,
           coalesce(greatest(extract(epoch FROM ledger_now() - least(e.recorded_at, u.recorded_at)), 0), 0)::float8 AS seconds
    FROM alert_progress p
    LEFT JOIN LATERAL (SELECT recorded_at FROM events WHERE position > p.position ORDER BY position LIMIT 1) AS e ON true
    LEFT JOIN LATERAL (SELECT recorded_at FROM usage_events WHERE position > p.position ORDER BY position LIMIT 1) AS u ON true
    WHERE p.name IN ('windows', 'statistics')`.execute(db);
  return rows.map(({ evaluation, events, seconds }) => ({ evaluation, events: Number(events), seconds }));
}
