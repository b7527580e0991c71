import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Kysely } from 'kysely';

import { isPostgresError, isUniqueViolation } from '../ledger/append.ts';
import { leavesConnectionUsable } from '../postgres/guarded-client.ts';
import type { Tables } from '../postgres/tables.ts';
import { AdmissionUnavailableError, type UsageItem, type UsageOutcome } from './admission.ts';
import { recordUsage, type UsageReport } from './record-usage.ts';
import { usageChunk, type UsageChunk } from './usage-chunk.ts';

/** Items that are encoded in one turn of the event loop, about a millisecond: verifications don't wait for a report. */
const ITEMS_A_TURN = 1000;
/** A second server's report with the same request id, or a deadlock's victim: again, so often. */
const ATTEMPTS = 5;
const SECOND_MS = 1000;

export type UsageRecorderOptions = {
  readonly db: Kysely<Tables>;
  /** Reports share a statement up to so many items; a larger one has a statement of its own. Their keys are locked meanwhile. */
  readonly maxItems?: number;
  /** Items of all reports that wait; a report beyond is refused. */
  readonly maxQueuedItems?: number;
  /** A report that waited longer is refused instead of being recorded when nobody listens any more. */
  readonly maxWaitMs?: number;
};

export type UsageRecorder = {
  /** Resolves when the report is committed. Throws AdmissionUnavailableError where too much waits, and what the database throws. */
  record(organizationId: string, items: readonly UsageItem[]): Promise<UsageOutcome>;
};

type Waiting = {
  readonly report: UsageReport;
  readonly items: number;
  readonly since: number;
  readonly resolve: (outcome: UsageOutcome) => void;
  readonly reject: (error: unknown) => void;
};

/**
 * Group commit without a timer: the reports of an organization that arrive while others of it are being recorded share the next statement. They lock each key and update its windows once, and
 * a reporter who is alone waits for nobody. Organizations don't share: none can hold up or harm another's.
 */
export function createUsageRecorder(options: UsageRecorderOptions): UsageRecorder {
  const { db, maxItems = 5_000, maxQueuedItems = 200_000, maxWaitMs = 5 * SECOND_MS } = options;
  const queues = new Map<string, Waiting[]>();
  let queuedItems = 0;

  async function work(organizationId: string, queue: Waiting[]): Promise<void> {
    while (queue.length > 0) {
      // After the I/O of this turn: reports whose bytes have arrived already go together.
      await nextTurn();
      const group = takeGroup(queue);
      if (group.length > 0) await recordGroup(organizationId, group);
    }
    queues.delete(organizationId);
  }

  function takeGroup(queue: Waiting[]): readonly Waiting[] {
    const group: Waiting[] = [];
    const oldest = performance.now() - maxWaitMs;
    let items = 0;
    for (let next = queue[0]; next !== undefined && (items === 0 || items + next.items <= maxItems); next = queue[0]) {
      queue.shift();
      queuedItems -= next.items;
      if (next.since < oldest)
        next.reject(new AdmissionUnavailableError('The database is too slow for the load; try again.', { retryAfterSeconds: 1 }));
      else {
        group.push(next);
        items += next.items;
      }
    }
    return group;
  }

  async function recordGroup(organizationId: string, group: readonly Waiting[]): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        const outcomes = await recordUsage(
          db,
          organizationId,
          group.map(({ report }) => report),
        );
        group.forEach(({ resolve, reject }, index) => {
          const outcome = outcomes[index];
          if (outcome === undefined) reject(new Error(`${group.length} reports were answered with ${outcomes.length} outcomes.`));
          else resolve(outcome);
        });
        return;
      } catch (error) {
        // Only where the server itself said that nothing of it was recorded: without its word nobody knows.
        if (isPostgresError(error) && leavesConnectionUsable(error)) {
          if (collided(error) && attempt < ATTEMPTS) continue;
          // Each is tried alone, and the one at fault harms only itself. 53*, 55*, 57*: the server is out of something, locked or too slow, at which no report is at fault.
          if (group.length > 1 && !/^(?:53|55|57)/.test(error.code)) {
            for (const waiting of group) await recordGroup(organizationId, [waiting]);
            return;
          }
        }
        for (const { reject } of group) reject(error);
        return;
      }
    }
  }

  return {
    async record(organizationId, items) {
      if (queuedItems + items.length > Math.max(maxQueuedItems, items.length))
        throw new AdmissionUnavailableError('Too many reports wait for the database; try again.', { retryAfterSeconds: 1 });
      queuedItems += items.length;
      const since = performance.now();
      const report = await encoded(items).catch((error: unknown) => {
        queuedItems -= items.length;
        throw error;
      });
      return new Promise((resolve, reject) => {
        const waiting = { report, items: items.length, since, resolve, reject };
        const queue = queues.get(organizationId);
        if (queue !== undefined) {
          queue.push(waiting);
          return;
        }
        const begun = [waiting];
        queues.set(organizationId, begun);
        void work(organizationId, begun);
      });
    },
  };
}

async function encoded(items: readonly UsageItem[]): Promise<UsageReport> {
  const report: UsageChunk[] = [];
  for (let from = 0; from < items.length; from += ITEMS_A_TURN) {
    if (from > 0) await nextTurn();
    report.push(usageChunk(items.slice(from, from + ITEMS_A_TURN)));
  }
  return report;
}

function collided(error: { readonly code: string }): boolean {
  return (
    ['40P01', '40001'].includes(error.code) ||
    isUniqueViolation(error, 'usage_requests_pkey') ||
    isUniqueViolation(error, 'settlements_pkey')
  );
}
