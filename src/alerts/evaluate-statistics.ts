import { sql, type Kysely } from 'kysely';

import type { AlertRule } from '../domain/alert-rule.ts';
import type { AlertFinding } from '../domain/alert.ts';
import { keyStatisticsFindings, organizationStatisticsFindings, type Spent } from '../domain/statistics-alerts.ts';
import { GRAINS } from '../projections/usage-period.ts';
import type { Tables } from '../postgres/tables.ts';
import type { LogPage } from './follow-log-pages.ts';
import { loadRules } from './load-rules.ts';

/** A status from which on statistics call a request failed. */
const FAILED_STATUS = 400;

type Touched = {
  readonly number: number;
  readonly organization: number;
  readonly organization_id: string;
  readonly failed: boolean;
  readonly paid: boolean;
};
type Sums = {
  readonly requests: bigint;
  readonly failed: bigint;
  readonly day: string;
  readonly day_micros: bigint;
  readonly month: string;
  readonly month_micros: bigint;
};
type KeySums = Sums & { readonly id: string; readonly organization_id: string; readonly name: string; readonly category: string };
type OrganizationSums = Sums & { readonly id: string };

/** How far statistics are folded: no page may be looked at before. */
export const STATISTICS_POSITION = sql<{ position: bigint }>`SELECT position FROM projections WHERE name = 'usage' AND state = 'live'`;

/** What the statistics of keys and organizations raise in which a page of the log has made something fail or cost. */
export async function evaluateStatistics(db: Kysely<Tables>, page: LogPage): Promise<readonly AlertFinding[]> {
  const touched = await touchedKeys(db, page);
  if (touched.length === 0) return [];
  const rules = await loadRules(
    db,
    touched.map((key) => key.organization_id),
  );
  const wants = (organizationId: string, wanted: (rule: AlertRule) => boolean): boolean =>
    rules.get(organizationId)?.some((rule) => rule.enabled && wanted(rule)) === true;
  const keys = touched.filter(
    (key) =>
      (key.failed && wants(key.organization_id, ({ condition }) => condition.kind === 'ERROR_RATE')) ||
      (key.paid && wants(key.organization_id, ({ condition }) => condition.kind === 'SPENDING' && condition.subject === 'KEY')),
  );
  const organizations = new Set(
    touched
      .filter(
        (key) =>
          key.paid && wants(key.organization_id, ({ condition }) => condition.kind === 'SPENDING' && condition.subject === 'ORGANIZATION'),
      )
      .map((key) => key.organization),
  );
  const keySums = await keyStatistics(
    db,
    keys.map(({ number }) => number),
  );
  const organizationSums = await organizationStatistics(db, [...organizations]);
  return [
    ...keySums.flatMap((row) =>
      keyStatisticsFindings(
        { ...row, organizationId: row.organization_id, keyId: row.id, spent: spentOf(row) },
        rules.get(row.organization_id) ?? [],
      ),
    ),
    ...organizationSums.flatMap((row) =>
      organizationStatisticsFindings({ organizationId: row.id, spent: spentOf(row) }, rules.get(row.id) ?? []),
    ),
  ];
}

/** A rule that is new is asked with the next request that fails or costs. */
async function touchedKeys(db: Kysely<Tables>, { after, upTo }: LogPage): Promise<readonly Touched[]> {
  const { rows } = await sql<Touched>`
    SELECT t.key AS number, t.organization, o.id AS organization_id, t.failed, t.paid
    FROM (
      SELECT u.key, u.organization, bool_or(coalesce(u.status >= ${FAILED_STATUS}, false)) AS failed, bool_or(coalesce(u.cost_micros > 0, false)) AS paid
      FROM usage_events u
      WHERE u.position > ${after}::bigint AND u.position <= ${upTo}::bigint AND (u.status >= ${FAILED_STATUS} OR u.cost_micros > 0)
      GROUP BY u.key, u.organization) AS t
    JOIN organizations o ON o.number = t.organization`.execute(db);
  return rows;
}

/** Sums of the last 60 minutes, and the costs of today and of this month, over one subject's counters. The laterals are walked by the index. */
const SUMS = sql`
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.requests), 0)::bigint AS requests, coalesce(sum(c.failed), 0)::bigint AS failed FROM usage_sums c
    WHERE c.slot = live.slot AND c.grain = ${GRAINS.MINUTE} AND c.organization = s.organization AND c.key = s.key
      AND c.at > live.now - interval '1 hour') AS hour
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.cost_micros) FILTER (WHERE c.at = date_trunc('day', live.now, 'UTC')), 0)::bigint AS day_micros,
           coalesce(sum(c.cost_micros), 0)::bigint AS month_micros
    FROM usage_sums c
    WHERE c.slot = live.slot AND c.grain = ${GRAINS.DAY} AND c.organization = s.organization AND c.key = s.key
      AND c.at >= date_trunc('month', live.now, 'UTC')) AS spent`;
const LIVE = sql`(SELECT slot, ledger_now() AS now FROM projections WHERE name = 'usage' AND state = 'live') AS live`;
const COLUMNS = sql`
  hour.requests, hour.failed, spent.day_micros, spent.month_micros, to_char(live.now AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
  to_char(live.now AT TIME ZONE 'UTC', 'YYYY-MM') AS month`;

async function keyStatistics(db: Kysely<Tables>, keys: readonly number[]): Promise<readonly KeySums[]> {
  if (keys.length === 0) return [];
  const { rows } = await sql<KeySums>`
    SELECT s.id, s.organization_id, s.name, s.category, ${COLUMNS}
    FROM ${LIVE} CROSS JOIN (
      SELECT k.id, k.organization_id, k.name, k.category, k.number AS key, o.number AS organization
      FROM api_keys k JOIN organizations o ON o.id = k.organization_id
      WHERE k.number = ANY(${[...keys]}::integer[]) AND k.state <> 'deleted') AS s ${SUMS}`.execute(db);
  return rows;
}

async function organizationStatistics(db: Kysely<Tables>, organizations: readonly number[]): Promise<readonly OrganizationSums[]> {
  if (organizations.length === 0) return [];
  const { rows } = await sql<OrganizationSums>`
    SELECT s.id, ${COLUMNS}
    FROM ${LIVE} CROSS JOIN (
      SELECT o.id, 0 AS key, o.number AS organization FROM organizations o WHERE o.number = ANY(${[...organizations]}::integer[])) AS s ${SUMS}`.execute(
    db,
  );
  return rows;
}

function spentOf({ day, day_micros: dayMicros, month, month_micros: monthMicros }: Sums): Spent {
  return { day, dayMicros, month, monthMicros };
}
