import { setTimeout as sleep } from 'node:timers/promises';

import { codeNumber, USAGE_KINDS } from '../domain/usage.ts';
import { createWaker } from '../lib/waker.ts';
import type { Database } from '../postgres/pool.ts';
import { createUseFollowers, type KeyUse, type TakeUse, type UseFilter } from './use-followers.ts';

/** Positions in one read; who is further behind reads more than once. */
const PAGE = 20_000;

/**
 * Which keys are used, for any number of followers: requests that were let through or reported, counted by key. One reader a
 * server counts each request once, in the database: a follower is told what was used and never what was asked, so there is no event to bring here whole.
 * While nobody follows, nothing is read.
 */
export type KeyUses = {
  /** From now on: what was committed before the call is not counted. Gives what ends it; rejects where the database can not be asked. */
  follow(filter: UseFilter, take: TakeUse): Promise<() => void>;
  /** The log has grown (NOTIFY) or may have: read. */
  wake(): void;
  /** Who follows now. */
  followers(): number;
  close(): Promise<void>;
};

export type KeyUsesOptions = {
  readonly database: Database;
  /** How often to look without having been woken. */
  readonly pollMs: number;
  /** The least time between two reads, so that under load each takes many requests together. */
  readonly pauseMs: number;
  readonly onError: (error: Error) => void;
};

type Row = { readonly up_to: bigint; readonly head: bigint } & (
  | {
      readonly keys: string;
      readonly organizations: string;
      readonly requests: string;
      readonly positions: string;
      readonly used_at_ms: string;
    }
  | { readonly keys: null }
);
type Entering = PromiseWithResolvers<() => void> & { readonly filter: UseFilter; readonly take: TakeUse };

export function openKeyUses({ database, pollMs, pauseMs, onError }: KeyUsesOptions): KeyUses {
  const closing = new AbortController();
  const { signal } = closing;
  const waker = createWaker(signal);
  const followers = createUseFollowers();
  let entering: Entering[] = [];
  /** Everything up to here was told; without followers, nobody knows. */
  let position: bigint | null = null;

  /** Reads up to the head of the moment of its last statement. */
  async function readNew(): Promise<void> {
    if (followers.count() === 0) position = null;
    for (;;) {
      const page = await readUses(database, position);
      followers.tell(page.uses);
      position = page.upTo;
      if (page.upTo >= page.head) return;
    }
  }

  /** One reads after it was asked to let somebody in, and lets it in behind what it read: that was told to those who were there before. */
  async function round(): Promise<void> {
    const here = entering;
    entering = [];
    if (here.length === 0 && followers.count() === 0) return;
    try {
      await readNew();
      for (const { filter, take, resolve } of here) resolve(followers.enter(filter, take));
    } catch (error) {
      for (const { reject } of here) reject(error);
      throw error;
    }
  }

  async function keepReading(): Promise<void> {
    while (!signal.aborted) {
      try {
        await round();
      } catch (error) {
        if (!signal.aborted) onError(error as Error);
      }
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
      await waker.next(pollMs);
    }
  }

  const loop = keepReading();
  return {
    follow(filter, take) {
      if (signal.aborted) return Promise.reject(new Error('The server is stopping.'));
      const asked = { ...Promise.withResolvers<() => void>(), filter, take };
      entering.push(asked);
      waker.wake();
      return asked.promise;
    },
    wake: () => waker.wake(),
    followers: () => followers.count(),
    async close() {
      closing.abort();
      await loop;
      for (const { reject } of entering) reject(new Error('The server is stopping.'));
    },
  };
}

/** One text a column, since a thousand rows are read cell by cell and a date among them by a regular expression: 5 µs a row. */
const STATEMENT = `
  SELECT b.up_to, b.head, u.keys, u.organizations, u.requests, u.positions, u.used_at_ms
  FROM (SELECT h.head, least(h.head, coalesce($1::bigint, h.head) + ${PAGE}) AS up_to FROM (SELECT head_position() AS head OFFSET 0) AS h OFFSET 0) AS b
  LEFT JOIN LATERAL (
    SELECT string_agg(k.key::text, ',') AS keys, string_agg(k.organization::text, ',') AS organizations, string_agg(k.requests::text, ',') AS requests,
           string_agg(k.position::text, ',') AS positions, string_agg((round(date_part('epoch', k.used_at) * 1e6)::bigint / 1000)::text, ',') AS used_at_ms
    FROM (
      SELECT e.key, e.organization, count(*) AS requests, max(e.position) AS position, max(e.recorded_at) AS used_at
      FROM usage_events e
      WHERE e.position > $1::bigint AND e.position <= b.up_to AND e.kind IN (${USAGE_KINDS.verified}, ${USAGE_KINDS.reported}) AND e.code = ${codeNumber('VALID')}
      GROUP BY e.key, e.organization
    ) AS k
  ) AS u ON true`;

/**
 * What was used after a position; where that is null, only the head. One snapshot sees the head and all that lies before it, so nothing can come in between
 * later. Prepared once a connection: it runs many times a second, and its planning would cost more than its work.
 */
async function readUses(
  { pool }: Database,
  after: bigint | null,
): Promise<{ readonly upTo: bigint; readonly head: bigint; readonly uses: readonly KeyUse[] }> {
  const { rows } = await pool.query<Row>({ name: 'key-uses', text: STATEMENT, values: [after] });
  const [row] = rows;
  if (row === undefined) throw new Error('Nobody knows where the log ends: the statement of the uses was changed.');
  return { upTo: row.up_to, head: row.head, uses: usesOf(row) };
}

function usesOf(row: Row): readonly KeyUse[] {
  if (row.keys === null) return [];
  const [organizations, requests, positions, usedAtMs] = [row.organizations, row.requests, row.positions, row.used_at_ms].map((column) =>
    column.split(','),
  );
  return row.keys.split(',').map((key, index) => ({
    key: Number(key),
    organization: Number(organizations?.[index]),
    requests: Number(requests?.[index]),
    position: BigInt(positions?.[index] ?? ''),
    lastUsedAt: new Date(Number(usedAtMs?.[index])),
  }));
}
