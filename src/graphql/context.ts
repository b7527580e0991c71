import DataLoader from 'dataloader';

import type { Actor } from '../domain/actor.ts';
import type { KeyWindows } from '../admission/read-windows.ts';
import { lastUsed } from '../projections/usage-queries.ts';
import { readOutdatedSecrets, type OutdatedSecret } from './outdated-secret.ts';
import { unauthenticated } from './client-error.ts';
import type { GraphqlDependencies } from './dependencies.ts';
import type { GraphqlLimits } from './limits.ts';
import { loadProfiles, type ProfileRow } from './profile-reading.ts';

/** Ends what a caller follows: revoked, expired, disconnected, or the server stops. A GraphQLError as the reason is told to the caller. */
export type Session = { readonly signal: AbortSignal; release(): void };

/** What every resolver gets. Loaders and the caches of scopes live as long as it does, so each event of a subscription is resolved with a fresh one. */
export type GraphqlContext = {
  readonly deps: GraphqlDependencies;
  readonly limits: GraphqlLimits;
  readonly actor: Actor | null;
  /** What the caller authenticated with, to look again whether it still holds. */
  readonly authorization: string | undefined;
  readonly session: Session | null;
  /** Fires when the caller is gone. */
  readonly disconnected: AbortSignal | undefined;
  readonly lastUsed: DataLoader<number, Date | null>;
  readonly windows: DataLoader<number, KeyWindows>;
  readonly outdatedSecrets: DataLoader<number, readonly OutdatedSecret[]>;
  /** Of the caller's organization. */
  readonly profiles: DataLoader<string, ProfileRow | null>;
};

export type Caller = Pick<GraphqlContext, 'deps' | 'limits' | 'actor' | 'authorization' | 'session' | 'disconnected'>;

const NO_WINDOWS: KeyWindows = { quotas: [], limits: [] };

/** A context with empty caches. */
export function createContext(caller: Caller): GraphqlContext {
  const { deps, limits, actor, authorization, session, disconnected } = caller;
  return {
    deps,
    limits,
    actor,
    authorization,
    session,
    disconnected,
    lastUsed: new DataLoader(async (numbers) => {
      const found = await lastUsed(deps.database.kysely, numbers);
      return numbers.map((number) => found.get(number) ?? null);
    }),
    profiles: new DataLoader((ids) =>
      actor === null ? Promise.resolve(ids.map(() => null)) : loadProfiles(deps.database.kysely, actor.organizationId, ids),
    ),
    windows: new DataLoader(async (numbers) => {
      const found = await deps.windows(numbers);
      return numbers.map((number) => found.get(number) ?? NO_WINDOWS);
    }),
    outdatedSecrets: new DataLoader(async (numbers) => {
      const found = await readOutdatedSecrets(deps.database.kysely, numbers);
      return numbers.map((number) => found.get(number) ?? []);
    }),
  };
}

/** The caller, or the error that asks for credentials. */
export function actorOf(context: GraphqlContext): Actor {
  if (context.actor === null) throw unauthenticated();
  return context.actor;
}
