import { sql, type Kysely } from 'kysely';

import type { AlertFinding } from '../domain/alert.ts';
import { watches, type AlertRule } from '../domain/alert-rule.ts';
import {
  ACTIVITY_DAYS,
  ACTIVITY_MIN_REQUESTS,
  ACTIVITY_WEEKS,
  ACTIVITY_WEEKS_NEEDED,
  unusualActivity,
  type ActivityEvidence,
} from '../domain/unusual-activity.ts';
import { groupDigits } from '../lib/group-digits.ts';
import { GRAINS } from '../projections/usage-period.ts';
import type { Tables } from '../postgres/tables.ts';
import { loadRules } from './load-rules.ts';
import type { RoundOptions } from './round-options.ts';

const HOUR_MS = 60 * 60 * 1000;
const DAY_MS = 24 * HOUR_MS;
const WEEK_MS = 7 * DAY_MS;
const BATCH = 500;

type KeyRow = {
  readonly id: string;
  readonly number: number;
  readonly organization_id: string;
  readonly name: string;
  readonly category: string;
  readonly created_at: Date;
};
type Counts = ReadonlyMap<number, bigint>;

/** Asks, for every key that is old enough, whether its use in the hour that begins at `hour` was unusual. */
export async function raiseUnusualActivity(
  db: Kysely<Tables>,
  { raise, hour, keepLeading, signal }: { readonly hour: Date } & RoundOptions,
): Promise<void> {
  for (let after = 0; ;) {
    if (signal.aborted) return;
    await keepLeading();
    const keys = await nextKeys(db, after, hour);
    const last = keys.at(-1);
    if (last === undefined) return;
    const rules = await loadRules(
      db,
      keys.map((key) => key.organization_id),
    );
    const watched = keys.filter((key) => rulesFor(key, rules).length > 0);
    const counts = await countsOf(db, watched, hour);
    await raise(
      watched.flatMap((key) => findingsOf(key, rulesFor(key, rules), evidenceOf(key, counts.get(key.number) ?? NONE, hour), hour)),
    );
    after = last.number;
  }
}

const NONE: { readonly hours: Counts; readonly days: Counts } = { hours: new Map(), days: new Map() };

/**
 * Keys that the rule can have something to say of; younger ones have not enough history, whatever they do. A surge takes as many requests in this hour, a silence as
 * many in the same hour of half of the weeks before, of which at least one is then among the last four: so of a hundred thousand keys only those are read
 * that the hours' BRIN index finds in five hours.
 */
async function nextKeys(db: Kysely<Tables>, after: number, hour: Date): Promise<readonly KeyRow[]> {
  const hours = [hour.getTime(), ...weeksBefore(hour.getTime()).slice(0, ACTIVITY_WEEKS_NEEDED)].map((ms) => new Date(ms));
  const { rows } = await sql<KeyRow>`
    SELECT k.id, k.number, k.organization_id, k.name, k.category, k.created_at FROM api_keys k
    WHERE k.number > ${after}::integer AND k.state = 'active' AND NOT k.archived
      AND k.created_at <= ${new Date(hour.getTime() - ACTIVITY_WEEKS_NEEDED * WEEK_MS)}::timestamptz
      AND k.number IN (
        SELECT u.key FROM usage_counters u
        WHERE u.slot = (SELECT slot FROM projections WHERE name = 'usage' AND state = 'live') AND u.grain = ${GRAINS.HOUR}
          AND u.at = ANY(${hours}::timestamptz[]) AND u.key > 0 AND u.requests >= ${ACTIVITY_MIN_REQUESTS}
        UNION ALL
        -- Of these the hour may lack a minute that is still to be added to it.
        SELECT o.key FROM usage_open_minutes o
        WHERE o.slot = (SELECT slot FROM projections WHERE name = 'usage' AND state = 'live') AND o.at < ${new Date(hour.getTime() + HOUR_MS)}::timestamptz AND o.key > 0)
    ORDER BY k.number LIMIT ${BATCH}`.execute(db);
  return rows;
}

function rulesFor(key: KeyRow, rules: ReadonlyMap<string, readonly AlertRule[]>): readonly AlertRule[] {
  const facts = { keyId: key.id, category: key.category };
  return (rules.get(key.organization_id) ?? []).filter((rule) => rule.condition.kind === 'UNUSUAL_ACTIVITY' && watches(rule, facts));
}

/** The requests of each key in the hours and days that the rule looks at, by the moment at which these begin. */
async function countsOf(db: Kysely<Tables>, keys: readonly KeyRow[], hour: Date) {
  if (keys.length === 0) return new Map<number, typeof NONE>();
  const hours = [hour.getTime(), ...weeksBefore(hour.getTime()).flatMap((week) => [week - HOUR_MS, week, week + HOUR_MS])];
  const days = wholeDays(hour).flatMap((day) => [day, ...weeksBefore(day)]);
  const dates = (moments: readonly number[]): Date[] => moments.map((ms) => new Date(ms));
  const { rows } = await sql<{ key: number; grain: number; at: Date; requests: bigint }>`
    SELECT k.number AS key, c.grain, c.at, sum(c.requests)::bigint AS requests
    FROM (SELECT slot FROM projections WHERE name = 'usage' AND state = 'live') AS live
    CROSS JOIN (SELECT k.number, o.number AS organization FROM api_keys k JOIN organizations o ON o.id = k.organization_id
                WHERE k.number = ANY(${keys.map(({ number }) => number)}::integer[])) AS k
    CROSS JOIN LATERAL (
      SELECT u.grain, u.at, u.requests FROM usage_sums u
      WHERE u.slot = live.slot AND u.grain = ${GRAINS.HOUR} AND u.organization = k.organization AND u.key = k.number AND u.at = ANY(${dates(hours)}::timestamptz[])
    UNION ALL
      SELECT u.grain, u.at, u.requests FROM usage_sums u
      WHERE u.slot = live.slot AND u.grain = ${GRAINS.DAY} AND u.organization = k.organization AND u.key = k.number AND u.at = ANY(${dates(days)}::timestamptz[])
    ) AS c GROUP BY 1, 2, 3`.execute(db);
  return new Map(
    [...Map.groupBy(rows, ({ key }) => key)].map(([key, counts]) => {
      const of = (grain: number): Counts =>
        new Map(counts.filter((row) => row.grain === grain).map(({ at, requests }) => [at.getTime(), requests]));
      return [key, { hours: of(GRAINS.HOUR), days: of(GRAINS.DAY) }];
    }),
  );
}

function evidenceOf(key: KeyRow, { hours, days }: typeof NONE, hour: Date): ActivityEvidence {
  const born = key.created_at.getTime();
  const at = (counts: Counts, ms: number): number => Number(counts.get(ms) ?? 0n);
  return {
    requests: at(hours, hour.getTime()),
    weeks: weeksBefore(hour.getTime())
      .filter((week) => week >= born)
      .map((week) => [at(hours, week - HOUR_MS), at(hours, week), at(hours, week + HOUR_MS)] as const),
    days: wholeDays(hour).map((day) => ({
      requests: at(days, day),
      before: weeksBefore(day)
        .filter((before) => before >= born)
        .map((before) => at(days, before)),
    })),
  };
}

function weeksBefore(ms: number): readonly number[] {
  return Array.from({ length: ACTIVITY_WEEKS }, (_, index) => ms - (index + 1) * WEEK_MS);
}

/** Where the last whole days before an hour begin, in UTC. */
function wholeDays(hour: Date): readonly number[] {
  const today = Math.floor(hour.getTime() / DAY_MS) * DAY_MS;
  return Array.from({ length: ACTIVITY_DAYS }, (_, index) => today - (index + 1) * DAY_MS);
}

/** Once a key, direction and day (UTC). */
function findingsOf(key: KeyRow, rules: readonly AlertRule[], evidence: ActivityEvidence, hour: Date): readonly AlertFinding[] {
  const unusual = unusualActivity(evidence);
  if (unusual === null) return [];
  const { direction, requests, expected } = unusual;
  const day = hour.toISOString().slice(0, 10);
  const counted = `${groupDigits(requests)} requests in the hour from ${hour.toISOString()}, where ${groupDigits(expected)} are usual`;
  return rules.map(({ ruleId }) => ({
    organizationId: key.organization_id,
    ruleId,
    kind: 'UNUSUAL_ACTIVITY',
    keyId: key.id,
    severity: 'WARNING',
    message: `Key "${key.name}" is used far ${direction === 'SURGE' ? 'more' : 'less'} than usual: ${counted}.`,
    details: { direction, requests, expected, hour: hour.toISOString() },
    series: `${ruleId}/${key.id}/activity/${direction}/${day}`,
    windowMs: null,
  }));
}
