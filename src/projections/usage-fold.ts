import { sql, type Kysely, type RawBuilder } from 'kysely';

import { USAGE_KINDS } from '../domain/usage.ts';
import { PREPARED } from '../postgres/prepared.ts';
import type { Tables } from '../postgres/tables.ts';
import type { Folded, FoldRequest, Projection } from './projection.ts';
import { categoryAt, COUNTERS, RECATEGORIZED, usageFacts } from './usage-facts.ts';
import { GRAINS, MINUTES_ERASED_MS } from './usage-period.ts';

type Parked = readonly { readonly position: string; readonly reason: string }[];

/** What a fold is about: positions above `after`, and up to `upTo`, into a slot. */
type Bounds = {
  readonly slot: number;
  readonly after: bigint;
  readonly up_to: bigint;
  readonly head: bigint;
  /** Where the minute begins that is not over; a timestamptz as text, since it may be infinity. */
  readonly open_from: string;
  /** Of the slot's `usage_open_minutes`. */
  readonly open_pages: number;
};

/** The counters per key, category, organization and minute, hour and day, and when each key and category was last used. */
export const USAGE_PROJECTION: Projection = {
  name: 'usage',
  tables: ['usage_counters', 'usage_open_minutes', 'usage_breakdown', 'key_last_used'],
  async fold(db, request) {
    const run = (tx: Kysely<Tables>): Promise<Folded | null> => foldUsage(tx, request);
    return (await nothingToFold(db, request)) ?? (db.isTransaction ? run(db) : db.transaction().execute(run));
  },
  restsInProportion: true,
};

/** Where the log and the clock stand still; to plan the fold costs more than all that an idle server does besides. */
async function nothingToFold(db: Kysely<Tables>, { state }: FoldRequest): Promise<Folded | null> {
  const { rows } = await sql<{ position: bigint; head: bigint }>`
    SELECT p.position, p.head FROM (SELECT slot, position, head_position() AS head FROM projections WHERE name = 'usage' AND state = ${state}) AS p
    WHERE p.position >= p.head AND NOT EXISTS (SELECT FROM usage_open_minutes o WHERE o.slot = p.slot AND o.at < (SELECT ${THIS_MINUTE}))`.execute(
    db,
  );
  const row = rows[0];
  return row === undefined ? null : { ...row, parked: [] };
}

/**
 * Folds the next page of the log: lock the checkpoint, and then in one statement read, group, add, and move the checkpoint.
 *
 * The events of a page are grouped at once, and all else is done with the groups, of which a busy page has far fewer. What happens in the minute that is not
 * over yet is added to one row a key, its category and its organization; hours and days are written when the minute has closed. A row that is there already,
 * as nearly all are under load, is updated: INSERT … ON CONFLICT costs twice that.
 *
 * Right under concurrency: one session at a time has the checkpoint's row lock, and the others skip. The statement that folds comes after the one that locks,
 * so it sees all that was folded before, and nobody changes a row under it. As one statement it would have to read rows anew that the fold before it changed
 * after its snapshot, which makes Postgres 18.4 crash where a plan picks partitions while it runs. The log is dense and visible in order of position, so up to the head nothing is missing.
 */
async function foldUsage(db: Kysely<Tables>, request: FoldRequest): Promise<Folded | null> {
  const bounds = await lockCheckpoint(db, request);
  if (bounds === null) return null;
  const { after, up_to: upTo, head } = bounds;
  const { parked, rows } = await foldPage(db, request, bounds);
  return {
    position: upTo > after ? upTo : after,
    head,
    parked: parked.map(({ position, reason }) => ({ position: BigInt(position), reason })),
    ...(rows > 0 && { eventsPerRow: Number(upTo - after) / rows }),
  };
}

/**
 * The planner takes the groups of a page for a few, and then joins them in nested loops: time by the square of the page. What has to be looked up row by row
 * says so itself, by LIMIT or an array of keys. The live fold comes several times a second and keeps its plan ({@link planFor}), which walks indexes only.
 */
async function lockCheckpoint(db: Kysely<Tables>, { state, limit }: FoldRequest): Promise<Bounds | null> {
  const live = state === 'live';
  const settings = live
    ? sql`set_config('enable_nestloop', 'off', true), set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`
    : sql`set_config('enable_nestloop', 'off', true)`;
  const { rows } = await sql<Bounds>`${PREPARED}
    SELECT p.slot, p.position AS after, least(p.position + ${limit}::bigint, h.head) AS up_to, h.head,
           ${live ? sql`${THIS_MINUTE}::text` : sql`'infinity'`} AS open_from,
           (pg_relation_size(('usage_open_minutes_' || p.slot)::regclass) / current_setting('block_size')::integer)::integer AS open_pages, ${settings}
    FROM projections p, head_position() AS h (head) WHERE p.name = 'usage' AND p.state = ${state} FOR UPDATE OF p SKIP LOCKED`.execute(db);
  return rows[0] ?? null;
}

/** A plan that was made while few minutes were open is none for many: each fourfold of their pages has a text, and so a plan, of its own. */
function planFor(openPages: number): RawBuilder<unknown> {
  return sql`${PREPARED}${sql.raw(`/* below ${4 ** Math.ceil(Math.log2(openPages + 1) / 2)} pages */`)}`;
}

async function foldPage(
  db: Kysely<Tables>,
  { state }: FoldRequest,
  bounds: Bounds,
): Promise<{ readonly parked: Parked; readonly rows: number }> {
  // The slot stands in the text, so that the plan has its partitions alone.
  const [slot, after, upTo] = [sql`${sql.lit(bounds.slot)}::smallint`, sql`${bounds.after}::bigint`, sql`${bounds.up_to}::bigint`];
  const openFrom = sql`${bounds.open_from}::timestamptz`;
  const columns = sql.join(COUNTERS.map((name) => sql.id(name)));
  const { rows } = await sql<{ parked: Parked | null; rows: number }>`${state === 'live' ? planFor(bounds.open_pages) : sql``}
    WITH page AS NOT MATERIALIZED (SELECT * FROM usage_events WHERE position > ${after} AND position <= ${upTo}),
    settling AS MATERIALIZED (SELECT * FROM page WHERE kind = ${USAGE_KINDS.settled}),
    recategorized AS MATERIALIZED (
      SELECT k.number AS key FROM events e JOIN api_keys k ON k.id = substr(e.stream, 5)::uuid
      WHERE ${RECATEGORIZED} AND e.position > (SELECT least(min(s.settles), ${after}) FROM settling s)
    ),
    -- What can't be counted, and requests of keys that have changed their category since, stay apart by their positions; the others at 0.
    grouped AS MATERIALIZED (
      SELECT f.organization, f.key, date_bin('1 minute', f.at, ${BIN_ORIGIN}) AS at, f.refusal, f.model, f.fault,
             CASE WHEN f.fault IS NOT NULL THEN f.position WHEN f.key IN (SELECT key FROM recategorized) THEN f.request ELSE 0 END AS apart,
             ${addedUp('f')}, max(f.used_at) AS used_at, count(*) AS events
      FROM (${usageFacts(sql`page`, sql`settling`)}) AS f GROUP BY 1, 2, 3, 4, 5, 6, 7
    ),
    named AS MATERIALIZED (
      SELECT g.*, CASE WHEN g.apart = 0 THEN k.category ELSE ${categoryAt(sql`k.id`, sql`g.apart`)} END AS category
      FROM (SELECT DISTINCT organization, key, apart FROM grouped WHERE fault IS NULL) AS g
      -- LIMIT keeps this a look-up for each key, whatever the planner believes about their number.
      LEFT JOIN LATERAL (SELECT a.id, a.category FROM api_keys a WHERE a.number = g.key LIMIT 1) AS k ON true
    ),
    wanted AS MATERIALIZED (SELECT DISTINCT organization, category FROM named WHERE category IS NOT NULL),
    known AS MATERIALIZED (
      SELECT w.organization, w.category, c.number
      FROM wanted w LEFT JOIN LATERAL (
        SELECT u.number FROM usage_categories u WHERE u.organization = w.organization AND u.category = w.category LIMIT 1) AS c ON true
    ),
    -- In order, since a rebuild may do the same; DO UPDATE answers the number that a snapshot too old to see it would miss.
    numbered AS (
      INSERT INTO usage_categories (organization, category) SELECT organization, category FROM known WHERE number IS NULL ORDER BY 1, 2
      ON CONFLICT (organization, category) DO UPDATE SET category = excluded.category RETURNING organization, category, number
    ),
    category AS MATERIALIZED (
      SELECT n.organization, n.key, n.apart, -c.number AS of_category
      FROM named n JOIN (SELECT * FROM known WHERE number IS NOT NULL UNION ALL SELECT * FROM numbered) AS c USING (organization, category)
    ),
    -- Inlined, since copying a row of so many columns costs as much as adding it up.
    fact AS NOT MATERIALIZED (
      SELECT g.*, c.of_category FROM grouped g LEFT JOIN category c USING (organization, key, apart) WHERE g.fault IS NULL
    ),
    -- Each bucket of a key is also one of its category and of its organization (key 0).
    tally AS MATERIALIZED (
      SELECT f.organization, CASE WHEN grouping(f.key) = 0 THEN f.key WHEN grouping(f.of_category) = 0 THEN f.of_category ELSE 0 END AS key, f.at,
             ${addedUp('f')}, max(f.used_at) AS used_at
      FROM fact f GROUP BY GROUPING SETS ((f.organization, f.key, f.at), (f.organization, f.of_category, f.at), (f.organization, f.at))
      HAVING grouping(f.of_category) = 1 OR f.of_category IS NOT NULL
    ),
    open_now AS NOT MATERIALIZED (SELECT * FROM tally t WHERE t.at >= ${openFrom} AND NOT ${isExtreme('t')}),
    added AS (
      UPDATE usage_open_minutes kept SET ${sumsWith('t')} FROM open_now t
      WHERE kept.slot = ${slot} AND kept.key = ANY (ARRAY(SELECT key FROM open_now))
        AND kept.key = t.key AND kept.organization = t.organization AND kept.at = t.at
      RETURNING kept.organization, kept.key, kept.at
    ),
    opened AS (
      INSERT INTO usage_open_minutes AS kept (slot, organization, key, at, ${columns})
      SELECT ${slot}, t.organization, t.key, t.at, ${columns} FROM open_now t
      WHERE NOT EXISTS (SELECT FROM added a WHERE a.organization = t.organization AND a.key = t.key AND a.at = t.at)
      ON CONFLICT (slot, key, organization, at) DO UPDATE SET ${sumsWith('excluded')}
    ),
    closed AS (
      DELETE FROM usage_open_minutes o
      WHERE o.slot = ${slot} AND o.ctid = ANY (ARRAY(
        SELECT c.ctid FROM usage_open_minutes c
        WHERE c.slot = ${slot} AND c.at < ${openFrom} AND ${fitsItsDay('c')} ORDER BY c.at LIMIT ${closedAtOnce(slot, openFrom)}))
      RETURNING o.organization, o.key, o.at, ${sql.join(COUNTERS.map((name) => sql`o.${sql.id(name)}`))}
    ),
    counted AS (
      INSERT INTO usage_counters AS kept (slot, grain, organization, key, at, ${columns})
      SELECT ${slot}, g.grain, m.organization, m.key, date_bin(g.step, m.at, ${BIN_ORIGIN}), ${addedUp('m')}
      FROM (
        SELECT organization, key, at, ${columns} FROM closed
        UNION ALL
        SELECT organization, key, at, ${columns} FROM tally t WHERE t.at < ${openFrom} OR ${isExtreme('t')}
      ) AS m CROSS JOIN (${GRAIN_ROWS}) AS g (grain, step, oldest)
      WHERE m.at >= g.oldest GROUP BY 1, 2, 3, 4, 5
      ON CONFLICT (slot, grain, organization, key, at) DO UPDATE SET ${sumsWith('excluded')}
    ),
    broken_down AS (
      INSERT INTO usage_breakdown AS kept (slot, grain, organization, key, at, dimension, value, events)
      SELECT ${slot}, g.grain, f.organization, subject.key, date_bin(g.step, f.at, ${BIN_ORIGIN}), d.dimension, d.value, add_up(f.events)
      FROM fact f CROSS JOIN LATERAL (VALUES (1, f.refusal), (2, f.model)) AS d (dimension, value)
      CROSS JOIN (${GRAIN_ROWS}) AS g (grain, step, oldest) CROSS JOIN LATERAL (VALUES (f.key), (f.of_category), (0)) AS subject (key)
      WHERE (f.refusal IS NOT NULL OR f.model IS NOT NULL) AND d.value IS NOT NULL AND f.at >= g.oldest AND subject.key IS NOT NULL
      GROUP BY 1, 2, 3, 4, 5, 6, 7
      ON CONFLICT (slot, grain, organization, key, at, dimension, value) DO UPDATE SET events = kept.events + excluded.events
    ),
    used AS MATERIALIZED (
      SELECT t.key, t.organization, max(t.used_at) AS at FROM tally t WHERE t.key <> 0 AND t.used_at IS NOT NULL GROUP BY 1, 2
    ),
    used_again AS (
      UPDATE key_last_used kept SET last_used_at = u.at FROM used u
      WHERE kept.slot = ${slot} AND kept.key = ANY (ARRAY(SELECT key FROM used)) AND kept.key = u.key AND kept.last_used_at < u.at
      RETURNING kept.key
    ),
    used_first AS (
      INSERT INTO key_last_used AS kept (slot, key, organization, last_used_at)
      SELECT ${slot}, u.key, u.organization, u.at FROM used u WHERE NOT EXISTS (SELECT FROM used_again a WHERE a.key = u.key)
      ON CONFLICT (slot, key) DO UPDATE SET last_used_at = excluded.last_used_at WHERE excluded.last_used_at > kept.last_used_at
    ),
    parked AS (
      INSERT INTO parked_events (projection, slot, position, reason)
      SELECT 'usage', ${slot}, g.apart, g.fault FROM grouped g WHERE g.fault IS NOT NULL
      RETURNING position, reason
    ),
    moved AS (UPDATE projections SET position = ${upTo} WHERE name = 'usage' AND slot = ${slot} AND ${upTo} > ${after})
    SELECT json_agg(json_build_object('position', p.position::text, 'reason', p.reason) ORDER BY p.position) AS parked, (SELECT count(*)::integer FROM tally) AS rows FROM parked p`.execute(
    db,
  );
  return { parked: rows[0]?.parked ?? [], rows: rows[0]?.rows ?? 0 };
}

/** Where every minute, hour and day (UTC) is counted from; quicker than date_trunc with a time zone. */
const BIN_ORIGIN = sql`'2000-01-01T00:00:00Z'::timestamptz`;
const THIS_MINUTE = sql`date_bin('1 minute', ledger_now(), ${BIN_ORIGIN})`;

/**
 * Rows of minutes that one fold closes at most. Each is three rows of counters, and ten thousand at once took a core for a second at the beginning of each minute; so they are closed in the course of
 * the next one, more at a time the longer the oldest has waited, until it is as many as there come.
 */
function closedAtOnce(slot: RawBuilder<unknown>, openFrom: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`(
    SELECT greatest(20, least(5000, 4 * extract(epoch FROM ledger_now() - (
      SELECT o.at FROM usage_open_minutes o WHERE o.slot = ${slot} AND o.at < ${openFrom} ORDER BY o.at LIMIT 1) - interval '1 minute'))))`;
}

/**
 * An event whose sums leave the range of a bigint is parked by the fold that meets it. To be that fold's fault and no later one's, a minute that closes must
 * always fit: sums so large that there could be a question are added to hours and days at once, and a minute of a day that is nearly full stays open.
 */
const EXTREME = 2n ** 45n;
const NEARLY_FULL = 2n ** 62n;

function isExtreme(alias: string): RawBuilder<unknown> {
  return sql`(${largestSum(alias)} > ${EXTREME}::bigint)`;
}

function fitsItsDay(minute: string): RawBuilder<unknown> {
  const of = (name: string) => sql.ref(`${minute}.${name}`);
  return sql`coalesce((
    SELECT ${largestSum('d')} FROM usage_counters d
    WHERE d.slot = ${of('slot')} AND d.grain = ${GRAINS.DAY} AND d.organization = ${of('organization')} AND d.key = ${of('key')}
      AND d.at = date_bin('1 day', ${of('at')}, ${BIN_ORIGIN}) LIMIT 1), 0) <= ${NEARLY_FULL}::bigint`;
}

function largestSum(alias: string): RawBuilder<unknown> {
  const sums = (['credits', 'cost_micros', 'tokens_in', 'tokens_out', 'duration_ms'] as const).map((name) => sql.ref(`${alias}.${name}`));
  return sql`greatest(${sql.join(sums)})`;
}

/** Like {@link sumsOf}, without making a numeric of each; see migration 0013. */
function addedUp(alias: string): RawBuilder<unknown> {
  return sql.join(COUNTERS.map((name) => sql`coalesce(add_up(${sql.ref(`${alias}.${name}`)}), 0) AS ${sql.id(name)}`));
}

function sumsWith(added: string): RawBuilder<unknown> {
  return sql.join(COUNTERS.map((name) => sql`${sql.id(name)} = kept.${sql.id(name)} + ${sql.ref(`${added}.${name}`)}`));
}

/** Minutes that are erased anyway are not folded: a rebuild of years would write them all. */
const GRAIN_ROWS = sql`
  VALUES (${GRAINS.MINUTE}::smallint, interval '1 minute', now() - make_interval(secs => ${MINUTES_ERASED_MS / 1000})),
         (${GRAINS.HOUR}::smallint, interval '1 hour', '-infinity'::timestamptz), (${GRAINS.DAY}::smallint, interval '1 day', '-infinity'::timestamptz)`;
