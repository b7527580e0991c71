import { sql, type Kysely } from 'kysely';

import { streamOf } from '../domain/event.ts';
import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import type { CheckStep } from './finding.ts';

/** Positions in one statement. */
const CHUNK = 250_000n;
const STREAMS = 1000;
/** Of one kind and chunk; the first ones tell what happened. */
const FINDINGS = 100;

/** The positions 1 … head are all there, once, over both tables; and along the life-cycle events time never runs backwards. */
export async function checkPositions({ kysely: db }: Database, head: bigint, step: CheckStep): Promise<void> {
  for (let after = 0n; after < head && step.signal?.aborted !== true; after += CHUNK) {
    const upTo = after + CHUNK < head ? after + CHUNK : head;
    await checkChunk(db, after, upTo, step);
    await checkTime(db, after, upTo, step);
    await checkSettlements(db, after, upTo, step);
    step.progress(Number(upTo), Number(head));
  }
}

async function checkChunk(db: Kysely<Tables>, after: bigint, upTo: bigint, { report }: CheckStep): Promise<void> {
  const within = sql`position > ${after}::bigint AND position <= ${upTo}::bigint`;
  const { rows } = await sql<{ n: bigint; doubles: readonly bigint[] }>`
    SELECT (SELECT count(*) FROM events WHERE ${within}) + (SELECT count(*) FROM usage_events WHERE ${within}) AS n,
           ARRAY(SELECT position FROM events JOIN usage_events USING (position) WHERE ${within} ORDER BY 1 LIMIT ${FINDINGS}) AS doubles`.execute(
    db,
  );
  const { n = 0n, doubles = [] } = rows[0] ?? {};
  for (const position of doubles) {
    report({
      kind: 'position-double',
      subject: `position ${position}`,
      expected: 'one event',
      found: 'a life-cycle event and a usage event',
    });
  }
  if (n - BigInt(doubles.length) === upTo - after) return;
  const gaps = await sql<{ first: bigint; last: bigint }>`
    SELECT previous + 1 AS first, position - 1 AS last
    FROM (
      SELECT position, coalesce(lag(position) OVER (ORDER BY position), ${after}::bigint) AS previous
      FROM (SELECT position FROM events WHERE ${within} UNION SELECT position FROM usage_events WHERE ${within} UNION SELECT ${upTo}::bigint + 1) AS all_positions
    ) AS pairs WHERE position > previous + 1 ORDER BY 1 LIMIT ${FINDINGS}`.execute(db);
  for (const { first, last } of gaps.rows) {
    report({
      kind: 'position-missing',
      subject: first === last ? `position ${first}` : `positions ${first} to ${last}`,
      expected: 'events',
      found: 'nothing',
    });
  }
}

async function checkTime(db: Kysely<Tables>, after: bigint, upTo: bigint, { report }: CheckStep): Promise<void> {
  const { rows } = await sql<{ position: bigint; at: string; previous: string }>`
    SELECT position, recorded_at::text AS at, previous::text
    FROM (
      SELECT position, recorded_at, lag(recorded_at) OVER (ORDER BY position) AS previous FROM events
      WHERE position <= ${upTo}::bigint AND position >= coalesce((SELECT max(position) FROM events WHERE position <= ${after}::bigint), 0)
    ) AS pairs WHERE recorded_at < previous ORDER BY 1 LIMIT ${FINDINGS}`.execute(db);
  for (const { position, at, previous } of rows) {
    report({
      kind: 'time-backwards',
      subject: `position ${position}`,
      expected: `not before ${previous}, as the event before it`,
      found: at,
    });
  }
}

/** Each UsageSettled stands in `settlements`, and nothing else does. */
async function checkSettlements(db: Kysely<Tables>, after: bigint, upTo: bigint, { report }: CheckStep): Promise<void> {
  const { rows } = await sql<{ request: bigint | null; expected: string | null; found: string | null }>`
    SELECT coalesce(u.settles, s.request) AS request, u.position::text AS expected, s.settled_by::text AS found
    FROM (SELECT position, settles FROM usage_events WHERE kind = 3 AND position > ${after}::bigint AND position <= ${upTo}::bigint) AS u
    FULL JOIN (SELECT * FROM settlements WHERE settled_by > ${after}::bigint AND settled_by <= ${upTo}::bigint) AS s ON s.settled_by = u.position AND s.request = u.settles
    WHERE u.position IS NULL OR s.request IS NULL ORDER BY 1 LIMIT ${FINDINGS}`.execute(db);
  for (const { request, expected, found } of rows) {
    report({
      kind: 'settlement-differs',
      subject: `request ${String(request)}`,
      expected: `settled by ${expected ?? 'nothing'}`,
      found: `settled by ${found ?? 'nothing'}`,
    });
  }
}

type StreamRow = {
  readonly stream: string;
  readonly n: bigint;
  readonly first: number;
  readonly last: number;
  readonly organizations: bigint;
  readonly misordered: boolean;
};

/** The versions of each stream are 1, 2, 3 … in the order of the log, and all of one organization; a person's alone may be of several. */
export async function checkVersions({ kysely: db }: Database, step: CheckStep): Promise<void> {
  const { rows: counted } = await sql<{ n: bigint }>`SELECT count(*) AS n FROM events WHERE version = 1`.execute(db);
  let after = '';
  for (let done = 0; step.signal?.aborted !== true;) {
    const { rows } = await sql<StreamRow>`
      SELECT stream, count(*) AS n, min(version) AS first, max(version) AS last, count(DISTINCT organization_id) AS organizations, bool_or(position < previous) AS misordered
      FROM (
        SELECT e.*, lag(e.position) OVER (PARTITION BY e.stream ORDER BY e.version) AS previous
        FROM (SELECT DISTINCT stream FROM events WHERE stream > ${after} ORDER BY stream LIMIT ${STREAMS}) AS picked JOIN events e USING (stream)
      ) AS numbered GROUP BY stream ORDER BY stream`.execute(db);
    for (const { stream, n, first, last, organizations, misordered } of rows) {
      const subject = stream;
      if (first !== 1 || BigInt(last) !== n)
        step.report({
          kind: 'stream-gap',
          subject,
          expected: `versions 1 to ${last}`,
          found: `${n} events, the first of version ${first}`,
        });
      if (misordered)
        step.report({
          kind: 'stream-gap',
          subject,
          expected: 'versions in the order of the log',
          found: 'a version whose position lies before that of the one before it',
        });
      if (organizations !== 1n && !stream.startsWith(streamOf.person('')))
        step.report({ kind: 'stream-gap', subject, expected: 'events of one organization', found: `events of ${organizations}` });
    }
    const last = rows.at(-1);
    if (last === undefined) return;
    after = last.stream;
    step.progress((done += rows.length), Math.max(done, Number(counted[0]?.n ?? 0n)));
  }
}
