import { sql } from 'kysely';

import type { KeyUse, UseFilter, UseFollower } from '../ledger/use-followers.ts';
import { shareReads, type SharedReads } from '../lib/share-reads.ts';
import type { Builder } from './builder.ts';
import { badUserInput, topLevelError } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import { encodeGlobalId, idOf } from './global-id.ts';
import { loadKeys, loadKeysByNumber, sightOf, type KeyRow } from './key-reading.ts';
import { ownOrganization } from './ledger-event.ts';
import { MAX_PAGE } from './limits.ts';
import type { SharedUpdate } from './share-results.ts';
import type { TypeRefs } from './type-refs.ts';

const SECOND_MS = 1000;

type ToldUse = SharedUpdate & { readonly keyId: string; readonly requests: number; readonly lastUsedAt: Date };
/** The uuid of a key by its number; null for one that the caller may not see. */
type KeyIds = Map<number, string | null>;

/** The subscription `keyUsed`. */
export function addKeyUseStream(builder: Builder, types: TypeRefs): void {
  const use = builder.objectRef<ToldUse>('ApiKeyUse').implement({
    fields: (t) => ({
      position: t.field({ type: 'Position', description: 'Of the newest request in it.', resolve: ({ position }) => position }),
      keyId: t.id({
        description: 'Of the key, without reading it: for those who follow many.',
        resolve: ({ keyId }) => encodeGlobalId('ApiKey', keyId),
      }),
      apiKey: t.field({
        type: types.apiKey,
        resolve: async ({ keyId, lastUsedAt }, _args, context) => ({ ...(await visibleKey(context, keyId)), seenUsedAt: lastUsedAt }),
      }),
      requests: t.int({
        description: 'Requests that were let through or reported since the update before.',
        resolve: ({ requests }) => requests,
      }),
      lastUsedAt: t.field({ type: 'DateTime', resolve: ({ lastUsedAt }) => lastUsedAt }),
    }),
  });

  const shared = shareReads<readonly (KeyRow | null)[]>();
  builder.subscriptionField('keyUsed', (t) =>
    t.field({
      type: use,
      description: 'Which keys are used, from now on: at most one update a key and second, with the count since the last.',
      authScopes: { permission: 'keys:read' },
      args: {
        organizationId: t.arg.id({ required: true }),
        keyIds: t.arg.idList({ description: `These keys alone, ${MAX_PAGE} at most.` }),
      },
      subscribe: async (_root, { organizationId, keyIds }, context) => {
        const own = ownOrganization(context, organizationId);
        const named = keyIds == null ? null : await keysOf(context, keyIds);
        const filter: UseFilter =
          named === null ? { organization: await numberOf(context, own) } : { keys: named.map(({ number }) => number) };
        const ids: KeyIds = new Map(named?.map(({ number, id }) => [number, id]));
        const follower = await context.deps.keyUses.follow(filter);
        return tellUses(follower, ids, (numbers) => learnIds(context, ids, numbers, shared), context.session?.signal);
      },
      resolve: (event: ToldUse) => event,
    }),
  );
}

async function visibleKey(context: GraphqlContext, keyId: string): Promise<KeyRow> {
  const [key] = await loadKeys(context.deps.database.kysely, actorOf(context), [keyId]);
  if (key === undefined || key === null) throw new Error('A key was shown as used to somebody who may not see it.');
  return key;
}

/** The keys that a caller names; each has to be one that it may see. */
async function keysOf(context: GraphqlContext, globalIds: readonly string[]): Promise<readonly KeyRow[]> {
  if (globalIds.length > MAX_PAGE) throw badUserInput(`'keyIds' takes ${MAX_PAGE} ids at most.`);
  const ids = globalIds.map((text) => {
    const id = idOf('ApiKey', text);
    if (id === null) throw badUserInput("'keyIds' holds what is no id of a key.");
    return id;
  });
  const keys = await loadKeys(context.deps.database.kysely, actorOf(context), ids);
  return keys.map((key) => {
    if (key === null) throw topLevelError('NOT_FOUND', "'keyIds' names a key that does not exist in your organization.");
    return key;
  });
}

async function numberOf({ deps }: GraphqlContext, organizationId: string): Promise<number> {
  const { rows } = await sql<{ number: number }>`SELECT number FROM organizations WHERE id = ${organizationId}::uuid`.execute(
    deps.database.kysely,
  );
  const [row] = rows;
  if (row === undefined) throw topLevelError('NOT_FOUND', 'There is no such organization.');
  return row.number;
}

/** Which keys the caller may see. What is known is remembered: neither a key's owner nor, during a session, the caller's role changes. */
async function learnIds(
  context: GraphqlContext,
  ids: KeyIds,
  numbers: readonly number[],
  shared: SharedReads<readonly (KeyRow | null)[]>,
): Promise<void> {
  const actor = actorOf(context);
  // All followers of an organization are woken by the same uses.
  const keys = await shared(`${sightOf(actor)}/${numbers.join()}`, () => loadKeysByNumber(context.deps.database.kysely, actor, numbers));
  numbers.forEach((number, index) => ids.set(number, keys[index]?.id ?? null));
}

/**
 * At most one update a key and second, with the count since the last. The first use is told at once, what follows within the second together at its end. Nothing is
 * taken from the follower before the reader asks for it, so what is pending is bounded by the number of keys.
 *
 * By hand and not as a generator: there are thousands of them, most of what they do is to wait, and `return()` has to end that wait at once.
 */
function tellUses(
  follower: UseFollower,
  ids: KeyIds,
  learn: (numbers: readonly number[]) => Promise<void>,
  signal: AbortSignal | undefined,
): AsyncGenerator<ToldUse, void, undefined> {
  /** When each key was told last, the oldest first. */
  const toldAtMs = new Map<number, number>();
  /** Keys whose time has come. */
  let due: number[] = [];
  let ended = false;

  function end(): void {
    if (ended) return;
    ended = true;
    signal?.removeEventListener('abort', end);
    follower.leave();
  }

  function nextDue(): ToldUse | null {
    for (let key = due.pop(); key !== undefined; key = due.pop()) {
      const use = follower.pending.get(key);
      const keyId = ids.get(key);
      if (use === undefined) continue;
      follower.pending.delete(key);
      if (keyId === null || keyId === undefined) continue; // learned before it became due
      toldAtMs.delete(key);
      toldAtMs.set(key, performance.now());
      return toTold(use, keyId);
    }
    return null;
  }

  /** Looks for keys whose time has come; where there are none, says in how many milliseconds there may be, null where that takes a use. */
  function findDue(): number | null {
    const nowMs = performance.now();
    let soonestMs: number | null = null;
    for (const [key, atMs] of toldAtMs) {
      if (atMs + SECOND_MS <= nowMs) toldAtMs.delete(key);
      else if (follower.pending.has(key)) {
        soonestMs = atMs + SECOND_MS - nowMs;
        break;
      }
    }
    due = [];
    for (const key of follower.pending.keys()) if (!toldAtMs.has(key)) due.push(key);
    due.reverse();
    return soonestMs;
  }

  async function next(): Promise<IteratorResult<ToldUse, void>> {
    while (!ended) {
      const use = nextDue();
      if (use !== null) return { done: false, value: use };
      const waitMs = findDue();
      if (due.length === 0) {
        await follower.wait(waitMs);
        continue;
      }
      const unknown = due.filter((key) => !ids.has(key));
      if (unknown.length > 0) await learn(unknown);
    }
    return { done: true, value: undefined };
  }

  if (signal?.aborted === true) end();
  else signal?.addEventListener('abort', end, { once: true });
  return {
    next,
    async return() {
      end();
      return { done: true, value: undefined };
    },
    async throw(error) {
      end();
      throw error;
    },
    [Symbol.asyncIterator]() {
      return this;
    },
    async [Symbol.asyncDispose]() {
      end();
    },
  };
}

function toTold(use: KeyUse, keyId: string): ToldUse {
  const { position, requests, lastUsedAt } = use;
  return { position, keyId, requests, lastUsedAt, shareBy: use };
}
