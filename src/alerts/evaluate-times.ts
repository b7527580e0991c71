import { sql, type Kysely, type RawBuilder } from 'kysely';

import { timeFinding, TIME_KINDS, type TimeFacts, type TimeKind } from '../domain/time-alerts.ts';
import { databaseNow } from '../ledger/run-command.ts';
import type { Tables } from '../postgres/tables.ts';
import type { UsePage } from './read-uses.ts';
import type { RoundOptions } from './round-options.ts';

const BATCH = 500;

type Row = {
  readonly organization_id: string;
  readonly rule_id: string;
  readonly key_id: string;
  readonly name: string;
  readonly since: Date;
  readonly days: number;
  readonly never_used: boolean;
  readonly series: string;
};

/** Every key of which a rule of time has something to say that has not been said. */
export async function raiseByTime(db: Kysely<Tables>, options: RoundOptions): Promise<void> {
  await raiseOf(db, sql`true`, options);
}

/** The same for the keys that a page of the log has changed, and for organizations whose rules it has, so that nobody waits for the next round. */
export async function raiseByChange(
  db: Kysely<Tables>,
  touched: Pick<UsePage, 'changedKeys' | 'ruledOrganizations'>,
  options: RoundOptions,
): Promise<void> {
  const { changedKeys, ruledOrganizations } = touched;
  if (changedKeys.length > 0) await raiseOf(db, sql`k.id = ANY(${[...changedKeys]}::uuid[])`, options);
  if (ruledOrganizations.length > 0) await raiseOf(db, sql`k.organization_id = ANY(${[...ruledOrganizations]}::uuid[])`, options);
}

async function raiseOf(db: Kysely<Tables>, among: RawBuilder<unknown>, { raise, keepLeading, signal }: RoundOptions): Promise<void> {
  for (const kind of TIME_KINDS) {
    for (;;) {
      if (signal.aborted) return;
      await keepLeading();
      const now = await databaseNow(db);
      const facts = await dueKeys(db, kind, now, among);
      const raised = await raise(facts.map((fact) => timeFinding(fact, now)));
      // None of a full batch raised: somebody else is at it.
      if (facts.length < BATCH || raised === 0) break;
    }
  }
}

/** What each kind is about: when, the threshold in days, whether a key has it, and the name of that in the series. */
const ABOUT: Readonly<
  Record<
    TimeKind,
    { readonly since: RawBuilder<unknown>; readonly days: RawBuilder<unknown>; readonly due: RawBuilder<unknown>; readonly word: string }
  >
> = {
  EXPIRING_SOON: {
    since: sql`k.expires_at`,
    days: sql`e.days`,
    due: sql`k.expires_at > n.now AND k.expires_at <= n.now + make_interval(days => e.days)`,
    word: 'expires',
  },
  UNUSED_KEY: {
    since: sql`coalesce(u.last_used_at, k.created_at)`,
    days: sql`e.days`,
    // The first condition follows from the second one, and an index serves it.
    due: sql`k.created_at <= n.now - make_interval(days => e.days) AND coalesce(u.last_used_at, k.created_at) <= n.now - make_interval(days => e.days)`,
    word: 'unused',
  },
  ROTATION_DUE: {
    since: sql`k.secret_created_at`,
    days: sql`coalesce(k.rotate_every_days, e.days)`,
    due: sql`k.secret_created_at <= n.now - make_interval(days => coalesce(k.rotate_every_days, e.days))`,
    word: 'rotation',
  },
};
/** Each threshold of a rule, as rows; the one of ROTATION_DUE may be NULL. */
const DAYS_OF: Readonly<Record<TimeKind, RawBuilder<unknown>>> = {
  EXPIRING_SOON: sql`SELECT json_array_elements_text(r.condition -> 'days')::integer`,
  UNUSED_KEY: sql`SELECT json_array_elements_text(r.condition -> 'days')::integer`,
  ROTATION_DUE: sql`SELECT (r.condition ->> 'everyDays')::integer`,
};
const DEFAULT_DAYS: Readonly<Record<TimeKind, { readonly days: RawBuilder<unknown>; readonly enabled: RawBuilder<unknown> }>> = {
  EXPIRING_SOON: { days: sql`o.alert_expiring_within_days`, enabled: sql`o.alert_expiring_within_days IS NOT NULL` },
  UNUSED_KEY: { days: sql`o.alert_unused_for_days`, enabled: sql`o.alert_unused_for_days IS NOT NULL` },
  ROTATION_DUE: { days: sql`NULL::integer`, enabled: sql`true` },
};

/**
 * Keys in use for which a rule of a kind is due and has no alert: the rules that organizations have set, and the default one of those that have not. In one
 * statement over all organizations, since most of them have nothing to be told. The defaults are those of src/domain/alert-defaults.ts, and the id of a default
 * rule is made as in src/domain/alert-rule.ts; a test holds them together.
 */
async function dueKeys(db: Kysely<Tables>, kind: TimeKind, now: Date, among: RawBuilder<unknown>): Promise<readonly TimeFacts[]> {
  const { since, days, due, word } = ABOUT[kind];
  const byDefault = DEFAULT_DAYS[kind];
  const { rows } = await sql<Row>`
    WITH effective AS MATERIALIZED (
      SELECT r.id, r.organization_id, r.category, r.key_id, d.days
      FROM alert_rules r CROSS JOIN LATERAL (${DAYS_OF[kind]}) AS d (days)
      WHERE r.kind = ${kind} AND r.enabled AND NOT r.deleted
    UNION ALL
      SELECT o.rule_id, o.id, NULL, NULL, o.days
      FROM (SELECT o.id, encode(substr(sha256(convert_to(o.id || ${`/${kind}`}, 'UTF8')), 1, 16), 'hex')::uuid AS rule_id, ${byDefault.days} AS days
            FROM organizations o WHERE ${byDefault.enabled}) AS o
      WHERE NOT EXISTS (SELECT FROM alert_rules r WHERE r.id = o.rule_id)
    )
    SELECT k.organization_id, e.id AS rule_id, k.id AS key_id, k.name, ${since} AS since, ${days} AS days, u.last_used_at IS NULL AS never_used, s.series
    FROM (SELECT ${now}::timestamptz AS now) AS n
    CROSS JOIN api_keys k
    JOIN effective e ON e.organization_id = k.organization_id AND (e.category IS NULL OR e.category = k.category) AND (e.key_id IS NULL OR e.key_id = k.id)
    LEFT JOIN key_last_used u ON u.key = k.number AND u.slot = (SELECT slot FROM projections WHERE name = 'usage' AND state = 'live')
    CROSS JOIN LATERAL (
      SELECT e.id || '/' || k.id || ${`/${word}/`} || floor(extract(epoch FROM ${since}) * 1000)::bigint || '/' || ${days} AS series) AS s
    WHERE k.state = 'active' AND NOT k.archived AND (k.expires_at IS NULL OR k.expires_at > n.now) AND ${due} AND ${among}
      AND NOT EXISTS (SELECT FROM alerts a WHERE a.series = s.series)
    LIMIT ${BATCH}`.execute(db);
  return rows.map((row) => ({
    organizationId: row.organization_id,
    ruleId: row.rule_id,
    kind,
    keyId: row.key_id,
    name: row.name,
    since: row.since,
    days: row.days,
    neverUsed: row.never_used,
    series: row.series,
  }));
}
