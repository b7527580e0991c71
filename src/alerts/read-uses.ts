import { sql, type Kysely } from 'kysely';

import type { Tables } from '../postgres/tables.ts';

/** Positions in a page. */
const PAGE = 20_000;

/** What a key has used on a page. */
export type KeyUse = {
  readonly key: number;
  readonly organization: number;
  readonly credits: number;
  readonly tokens: number;
  readonly costMicros: number;
};

/** A page of the log, by what it is about. */
export type UsePage = {
  /** Where the evaluation stands: another server may have moved it on. */
  readonly position: bigint;
  readonly after: bigint;
  readonly upTo: bigint;
  /** Whether the log goes on behind it. */
  readonly more: boolean;
  /** The ledger's clock, ms since 1970. */
  readonly nowMs: number;
  /** Goes up where state was repaired otherwise than by events. */
  readonly revision: bigint;
  /** Each key that was used once, also where all of its requests were refused. */
  readonly uses: readonly KeyUse[];
  /** Ids of the keys with any event, and of the organizations with one that may be about limits, rules or the balance. */
  readonly keysWithEvents: readonly string[];
  readonly organizationsWithEvents: readonly string[];
  /** Ids of the keys that were made or changed so that they may raise something without being used. */
  readonly changedKeys: readonly string[];
  /** Ids of the organizations whose rules were changed, and with them what every key of theirs raises. */
  readonly ruledOrganizations: readonly string[];
};

type Row = {
  readonly position: bigint;
  readonly head: bigint;
  readonly now_ms: number;
  readonly revision: bigint;
  readonly keys: string | null;
  readonly organizations: string | null;
  readonly credits: string | null;
  readonly tokens: string | null;
  readonly costs: string | null;
  readonly touched: readonly string[] | null;
  readonly ruling: readonly string[] | null;
  readonly changed: readonly string[] | null;
  readonly ruled: readonly string[] | null;
};

/**
 * The page of the log after a position, in one statement, and so in one snapshot. It runs many times a second: what is counted is grouped there, and comes as
 * one text a column, since the driver takes longer over a thousand rows than Postgres over making them.
 */
export async function readUses(db: Kysely<Tables>, after: bigint): Promise<UsePage> {
  const { rows } = await sql<Row>`
    SELECT p.position, head_position() AS head, extract(epoch FROM ledger_now())::float8 * 1000 AS now_ms, s.revision, u.*, e.*
    FROM alert_progress p CROSS JOIN state_revision s
    CROSS JOIN (
      SELECT array_agg(key)::text AS keys, array_agg(organization)::text AS organizations, array_agg(credits)::text AS credits,
             CASE WHEN max(tokens) > 0 THEN array_agg(tokens)::text END AS tokens, CASE WHEN max(cost) > 0 THEN array_agg(cost)::text END AS costs
      FROM (
        SELECT key, organization, sum(credits) AS credits, coalesce(sum(tokens_in), 0) + coalesce(sum(tokens_out), 0) AS tokens, coalesce(sum(cost_micros), 0) AS cost
        FROM usage_events WHERE position > ${after}::bigint AND position <= ${after + BigInt(PAGE)}::bigint GROUP BY key, organization) AS k) AS u
    CROSS JOIN (
      SELECT array_agg(DISTINCT substr(stream, 5)) FILTER (WHERE stream LIKE 'key:%') AS touched,
             array_agg(DISTINCT organization_id::text) FILTER (WHERE split_part(stream, ':', 1) NOT IN ('key', 'alert', 'token', 'person', 'webhook')) AS ruling,
             array_agg(DISTINCT substr(stream, 5)) FILTER (WHERE type IN ('KeyCreated', 'KeyImported', 'Updated', 'Activated')) AS changed,
             array_agg(DISTINCT organization_id::text) FILTER (WHERE type IN ('AlertRuleSet', 'OrganizationSettingsChanged')) AS ruled
      FROM events WHERE position > ${after}::bigint AND position <= ${after + BigInt(PAGE)}::bigint) AS e
    WHERE p.name = 'windows'`.execute(db);
  const row = rows[0];
  if (row === undefined) throw new Error("The place in the log of the evaluation 'windows' is missing; restore the row of alert_progress.");
  const end = after + BigInt(PAGE);
  return {
    position: row.position,
    after,
    upTo: row.head < end ? row.head : end,
    more: row.head > end,
    nowMs: row.now_ms,
    revision: row.revision,
    uses: usesOf(row),
    keysWithEvents: row.touched ?? [],
    organizationsWithEvents: row.ruling ?? [],
    changedKeys: row.changed ?? [],
    ruledOrganizations: row.ruled ?? [],
  };
}

function usesOf(row: Row): readonly KeyUse[] {
  const [keys, organizations, credits, tokens, costs] = [row.keys, row.organizations, row.credits, row.tokens, row.costs].map(numbersOf);
  return (keys ?? []).map((key, index) => ({
    key,
    organization: organizations?.[index] ?? 0,
    credits: credits?.[index] ?? 0,
    tokens: tokens?.[index] ?? 0,
    costMicros: costs?.[index] ?? 0,
  }));
}

/** An array as Postgres writes it, of numbers without NULLs. */
function numbersOf(text: string | null): readonly number[] {
  return text === null ? [] : text.slice(1, -1).split(',').map(Number);
}
