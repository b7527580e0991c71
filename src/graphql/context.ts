import DataLoader from 'dataloader';
import type { ExecutionResult } from 'graphql';

import type { Actor } from '../domain/actor.ts';
import type { KeyWindows } from '../admission/read-windows.ts';
import { lastUsed } from '../projections/usage-queries.ts';
import { readOutdatedSecrets, type OutdatedSecret } from './outdated-secret.ts';
import { unauthenticated } from './client-error.ts';
import type { GraphqlDependencies } from './dependencies.ts';
import type { GraphqlLimits } from './limits.ts';
import { loadProfiles, type ProfileRow } from './profile-reading.ts';
import type { UncheckedToken } from './unchecked-token.ts';
import type { WrittenLists } from './written-lists.ts';

/** Ends what a caller follows: revoked, expired, disconnected, or the server stops. A GraphQLError as the reason is told to the caller. */
export type Session = { readonly signal: AbortSignal; release(): void };

/** Sends a result of a subscription; false where its reader has yet to take what was sent before, and then it is to be given to who asks for the next result. */
export type PushResult = (result: ExecutionResult) => boolean;

/** What every resolver gets. Loaders and the caches of scopes live as long as it does, so each event of a subscription is resolved with a fresh one. */
export type GraphqlContext = {
  readonly deps: GraphqlDependencies;
  readonly limits: GraphqlLimits;
  readonly actor: Actor | null;
  /** Set for an operation that does nothing but verify; then `actor` is null. */
  readonly unchecked: UncheckedToken | null;
  /** What the caller authenticated with, to look again whether it still holds. */
  readonly authorization: string | undefined;
  readonly session: Session | null;
  /** Fires when the caller is gone. */
  readonly disconnected: AbortSignal | undefined;
  /** Of a subscription whose transport takes results without being asked. */
  readonly push: PushResult | null;
  /** Where the answer is written as text here; null where a transport does that. */
  readonly writtenLists: WrittenLists | null;
} & Loaders;

type Loaders = {
  readonly lastUsed: DataLoader<number, Date | null>;
  readonly windows: DataLoader<number, KeyWindows>;
  readonly outdatedSecrets: DataLoader<number, readonly OutdatedSecret[]>;
  /** Of the caller's organization. */
  readonly profiles: DataLoader<string, ProfileRow | null>;
};

export type Caller = Pick<GraphqlContext, 'deps' | 'limits' | 'actor' | 'authorization' | 'session' | 'disconnected'> & {
  readonly unchecked?: UncheckedToken | null;
  readonly push?: PushResult | null;
  readonly writtenLists?: WrittenLists | null;
};

const NO_WINDOWS: KeyWindows = { quotas: [], limits: [] };

/** A context with empty caches. Loaders are made when they are first asked for: most operations need none. */
export function createContext(caller: Caller): GraphqlContext {
  const { deps, limits, actor, authorization, session, disconnected, unchecked = null, push = null, writtenLists = null } = caller;
  const loaders: { -readonly [Name in keyof Loaders]?: Loaders[Name] } = {};
  return {
    deps,
    limits,
    actor,
    unchecked,
    authorization,
    session,
    disconnected,
    push,
    writtenLists,
    get lastUsed() {
      return (loaders.lastUsed ??= new DataLoader(async (numbers) => {
        deps.onStatisticsRead?.();
        const found = await lastUsed(deps.database.kysely, numbers);
        return numbers.map((number) => found.get(number) ?? null);
      }));
    },
    get profiles() {
      return (loaders.profiles ??= new DataLoader((ids) =>
        actor === null ? Promise.resolve(ids.map(() => null)) : loadProfiles(deps.database.kysely, actor.organizationId, ids),
      ));
    },
    get windows() {
      return (loaders.windows ??= new DataLoader(async (numbers) => {
        const found = await deps.windows(numbers);
        return numbers.map((number) => found.get(number) ?? NO_WINDOWS);
      }));
    },
    get outdatedSecrets() {
      return (loaders.outdatedSecrets ??= new DataLoader(async (numbers) => {
        const found = await readOutdatedSecrets(deps.database.kysely, numbers);
        return numbers.map((number) => found.get(number) ?? []);
      }));
    },
  };
}

/** The caller, or the error that asks for credentials. */
export function actorOf(context: GraphqlContext): Actor {
  if (context.actor === null) throw unauthenticated();
  return context.actor;
}
