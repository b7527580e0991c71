import { sql, type RawBuilder } from 'kysely';

import { VERIFICATION_REFUSALS } from '../domain/refusals.ts';
import { codeNumber, USAGE_KINDS } from '../domain/usage.ts';
import type { VerificationCode } from '../domain/refusals.ts';

const VALID = codeNumber('VALID');
const KNOWN_CODES = [VALID, ...Object.keys(VERIFICATION_REFUSALS).map((code) => codeNumber(code as VerificationCode))];
const FAILED_STATUS = 400;

/** The columns of `usage_counters` that are sums, named alike in the facts. */
export const COUNTERS = [
  'requests',
  'succeeded',
  'failed',
  'refused',
  'credits',
  'cost_micros',
  'tokens_in',
  'tokens_out',
  'duration_ms',
  'timed',
] as const;

/**
 * What each usage event adds to the counters, and to which key and moment. `page` names a relation with the columns of `usage_events`; `settling`, where it
 * has been read already, those of its rows that settle.
 *
 * A request counts when it happened (`occurred_at` where a report says so). A UsageSettled counts no request: it adds its cost, tokens and duration
 * to the bucket of the request that it settles, and where that one failed after all, it moves there from succeeded to failed.
 * `request` is the position of the request that it is about. `fault` says why an event can't be counted, and is NULL for the others.
 */
export function usageFacts(page: RawBuilder<unknown>, settling: RawBuilder<unknown> = page): RawBuilder<unknown> {
  const { verified, reported, settled } = USAGE_KINDS;
  return sql`
    SELECT p.position, p.position AS request, p.organization, p.key, coalesce(p.occurred_at, p.recorded_at) AS at,
           1 AS requests, (p.code = ${VALID} AND (p.status IS NULL OR p.status < ${FAILED_STATUS}))::integer AS succeeded,
           (p.code = ${VALID} AND p.status IS NOT NULL AND p.status >= ${FAILED_STATUS})::integer AS failed, (p.code <> ${VALID})::integer AS refused,
           p.credits, p.cost_micros, p.tokens_in, p.tokens_out, p.duration_ms, (p.duration_ms IS NOT NULL)::integer AS timed,
           CASE WHEN p.code <> ${VALID} THEN p.code::text END AS refusal, p.model,
           CASE WHEN p.code = ${VALID} OR p.kind = ${reported} THEN coalesce(p.occurred_at, p.recorded_at) END AS used_at,
           CASE
             WHEN p.kind NOT IN (${verified}, ${reported}) THEN 'its kind ' || p.kind || ' is not known to this version'
             WHEN NOT p.code = ANY (${KNOWN_CODES}::smallint[]) THEN 'its outcome ' || p.code || ' is not known to this version'
           END AS fault
    FROM ${page} p WHERE p.kind <> ${settled}
  UNION ALL
    SELECT p.position, t.position AS request, p.organization, p.key, coalesce(t.occurred_at, t.recorded_at, p.recorded_at) AS at,
           0 AS requests, -(t.code = ${VALID} AND p.status IS NOT NULL AND p.status >= ${FAILED_STATUS})::integer AS succeeded,
           (t.code = ${VALID} AND p.status IS NOT NULL AND p.status >= ${FAILED_STATUS})::integer AS failed, 0 AS refused,
           p.credits, p.cost_micros, p.tokens_in, p.tokens_out, p.duration_ms, (p.duration_ms IS NOT NULL)::integer AS timed,
           NULL AS refusal, p.model, NULL AS used_at,
           CASE WHEN t.position IS NULL THEN 'it settles position ' || coalesce(p.settles::text, 'none') || ', which is no verified request of its key' END AS fault
    FROM ${settling} p
    -- LIMIT keeps this a look-up by position for each row, whatever the planner believes about the size of the page.
    LEFT JOIN LATERAL (
      SELECT u.position, u.code, u.occurred_at, u.recorded_at FROM usage_events u
      WHERE u.position = p.settles AND u.kind = ${verified} AND u.key = p.key AND u.organization = p.organization LIMIT 1) AS t ON true
    WHERE p.kind = ${settled}`;
}

/** The condition on `events e` that finds changes of a key's category; the index events_recategorized has the same. */
export const RECATEGORIZED = sql`e.type = 'Updated' AND e.data ->> 'category' IS NOT NULL`;

/** The category that a key had at a position, by the log; NULL where it has none. */
export function categoryAt(keyId: RawBuilder<unknown>, position: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`(
    SELECT e.data ->> 'category' FROM events e
    WHERE e.stream = 'key:' || ${keyId} AND e.position <= ${position} AND (e.type IN ('KeyCreated', 'KeyImported') OR ${RECATEGORIZED})
    ORDER BY e.version DESC LIMIT 1)`;
}

/**
 * Facts with the category that each one counts to: the one that its key had, by the log, when the request was recorded; what is settled later follows its
 * request. So a period's numbers stay as they are when a key moves on, whenever they are folded. NULL where the log knows no such key.
 */
export function categorized(facts: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`
    SELECT f.*, CASE WHEN NOT k.changed THEN k.category ELSE ${categoryAt(sql`k.id`, sql`f.request`)} END AS category
    FROM ${facts} f LEFT JOIN (
      SELECT used.key, k.id, k.category, k.changed
      FROM (SELECT DISTINCT key FROM ${facts} AS u) AS used
      -- LIMIT keeps this a look-up for each key, whatever the planner believes about their number.
      CROSS JOIN LATERAL (
        SELECT a.id, a.category, EXISTS (SELECT FROM events e WHERE e.stream = 'key:' || a.id AND ${RECATEGORIZED}) AS changed
        FROM api_keys a WHERE a.number = used.key LIMIT 1) AS k
    ) AS k ON k.key = f.key`;
}

/** `sum(x)::bigint AS x, …` over facts or counters. */
export function sumsOf(alias: string): RawBuilder<unknown> {
  return sql.join(COUNTERS.map((name) => sql`coalesce(sum(${sql.ref(`${alias}.${name}`)}), 0)::bigint AS ${sql.id(name)}`));
}
