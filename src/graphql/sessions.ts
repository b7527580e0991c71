import type { GraphQLError } from 'graphql';

import type { Actor } from '../domain/actor.ts';
import type { EventType } from '../domain/event.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import { headPosition } from '../ledger/append.ts';
import type { LedgerEntry } from '../ledger/read.ts';
import type { Tail } from '../ledger/tail.ts';
import type { Database } from '../postgres/pool.ts';
import { topLevelError, unauthenticated } from './client-error.ts';
import type { Session } from './context.ts';

/** What a caller follows live ends when its credentials do: at their expiry, and at the log event that revoked them. */
export type Sessions = {
  /** Null where the credentials no longer hold. The session's signal fires with a GraphQLError that says why. */
  open(actor: Actor, authorization: string | undefined): Promise<Session | null>;
  /** Ends every session. */
  close(): void;
};

type Follower = { readonly actor: Actor; readonly end: (reason: GraphQLError) => void };

const REVOKING: readonly EventType[] = ['AccessTokenRevoked', 'MemberRemoved', 'MemberRoleChanged'];
/** The longest that a timer takes. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export function createSessions(deps: {
  readonly tail: Tail;
  readonly database: Database;
  readonly authenticate: Authenticate;
  readonly onError: (error: Error) => void;
}): Sessions {
  const followers = new Set<Follower>();
  const closing = new AbortController();
  let watching: { readonly started: Promise<void>; readonly stop: AbortController } | null = null;

  /** One follower of the log serves all sessions, while there are any. */
  function watch(): Promise<void> {
    if (watching !== null) return watching.started;
    const stop = new AbortController();
    const started = headPosition(deps.database.kysely).then((head) => {
      void follow(head, AbortSignal.any([stop.signal, closing.signal]));
    });
    watching = { started, stop };
    started.catch(() => {
      if (watching?.stop === stop) watching = null;
    });
    return started;
  }

  async function follow(after: bigint, signal: AbortSignal): Promise<void> {
    try {
      for await (const page of deps.tail.follow({ after, filter: { types: REVOKING }, signal })) page.entries.forEach(revoke);
      if (signal.aborted) return;
      throw new Error('The tail has ended.');
    } catch (error) {
      // Who can't be told of revocations may not be kept.
      deps.onError(error as Error);
      for (const follower of followers)
        follower.end(topLevelError('SERVICE_UNAVAILABLE', 'The event log can not be followed any more; subscribe again.'));
    }
  }

  function revoke(entry: LedgerEntry): void {
    for (const { actor, end } of followers) {
      if (revokes(entry, actor)) end(topLevelError('FORBIDDEN', 'Your credentials were revoked, or your role has changed; log in again.'));
    }
  }

  return {
    async open(actor, authorization) {
      closing.signal.throwIfAborted();
      const controller = new AbortController();
      let timer: NodeJS.Timeout | undefined;
      const follower: Follower = { actor, end: (reason) => controller.abort(reason) };
      const expire = (): void => {
        const leftMs = (actor.expiresAt?.getTime() ?? Infinity) - Date.now();
        if (leftMs <= 0) follower.end(unauthenticated('Your credentials have expired.'));
        else if (leftMs !== Infinity) timer = setTimeout(expire, Math.min(leftMs, MAX_TIMER_MS)).unref();
      };
      const release = (): void => {
        clearTimeout(timer);
        followers.delete(follower);
        if (followers.size > 0) return;
        watching?.stop.abort();
        watching = null;
      };
      followers.add(follower);
      try {
        await watch();
        // Looked at once more after the watch began: a revocation lies either before this look or after the watch's start.
        const again = await deps.authenticate(authorization);
        if (again.kind !== 'actor' || again.actor.id !== actor.id || again.actor.role !== actor.role) {
          release();
          return null;
        }
      } catch (error) {
        release();
        throw error;
      }
      expire();
      return { signal: AbortSignal.any([controller.signal, closing.signal]), release };
    },
    close() {
      closing.abort(topLevelError('SERVICE_UNAVAILABLE', 'The server is going away; subscribe again.'));
    },
  };
}

function revokes({ type, stream, organizationId, data }: LedgerEntry, actor: Actor): boolean {
  if (organizationId !== actor.organizationId) return false;
  if (type === 'AccessTokenRevoked') return actor.tokenId !== null && stream === `token:${actor.tokenId}`;
  const memberId = typeof data === 'object' && data !== null && 'memberId' in data ? data['memberId'] : undefined;
  return actor.kind === 'member' && memberId === actor.memberId;
}
