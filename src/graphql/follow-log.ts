import { cancellable } from '../lib/cancellable.ts';
import { polledPages, type PolledIterable } from '../lib/polled.ts';
import { headPosition } from '../ledger/append.ts';
import type { LedgerEntry, LogFilter } from '../ledger/read.ts';
import { topLevelError } from './client-error.ts';
import type { GraphqlContext } from './context.ts';

/** A shorter page ended at the head of its moment, so only after longer ones is the head asked for. */
const LONG_PAGE = 100;

export type FollowRequest = { readonly after: bigint | 'now'; readonly filter: LogFilter };

/**
 * A subscription's source: pulls the log at the reader's pace and turns its pages into updates. Ends with the session, with the reader, or, where the
 * reader had caught up and then fell too far behind, with an error that says where to resume.
 */
export function followLog<Update extends object>(
  context: GraphqlContext,
  { after, filter }: FollowRequest,
  toUpdates: (entries: readonly LedgerEntry[]) => readonly Update[] | Promise<readonly Update[]>,
): PolledIterable<Update> {
  const { deps, session, limits } = context;
  const pages = cancellable(async function* (signal): AsyncGenerator<readonly Update[], void, undefined> {
    let caughtUp = after === 'now';
    for await (const page of deps.tail.follow({ after, filter, signal })) {
      yield await toUpdates(page.entries);
      if (page.entries.length < LONG_PAGE) {
        caughtUp = true;
        continue;
      }
      const lag = (await headPosition(deps.database.kysely)) - page.readTo;
      if (caughtUp && lag > BigInt(limits.maxLagEvents)) throw lagged(page.readTo, lag);
    }
  }, session?.signal);
  return polledPages(pages);
}

/** The reader takes less than comes in. It lost nothing: everything up to `resumeAfter` was delivered. */
export function lagged(readTo: bigint, lag: bigint): Error {
  return topLevelError('SUBSCRIPTION_LAGGED', `You are ${lag} events behind; subscribe again after the position ${readTo}.`, {
    resumeAfter: readTo.toString(),
  });
}
