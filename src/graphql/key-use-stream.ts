import { sql } from 'kysely';

import { createPacedUses } from '../ledger/paced-uses.ts';
import type { KeyUse, TakeUse, UseFilter } from '../ledger/use-followers.ts';
import { iterablePolled, type PolledIterable } from '../lib/polled.ts';
import { createQueue } from '../lib/queue.ts';
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
        return tellUses({
          ids,
          follow: (take) => context.deps.keyUses.follow(filter, take),
          learn: (numbers) => learnIds(context, ids, numbers, shared),
          signal: context.session?.signal,
        });
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

type TellingUses = {
  readonly ids: KeyIds;
  readonly follow: (take: TakeUse) => Promise<() => void>;
  readonly learn: (numbers: readonly number[]) => Promise<void>;
  readonly signal: AbortSignal | undefined;
};

/** At most one update a key and second, with the count since the last. Nothing is taken from what waits before the reader asks for it. */
async function tellUses({ ids, follow, learn, signal }: TellingUses): Promise<PolledIterable<ToldUse>> {
  const paced = createPacedUses(SECOND_MS);
  /** Taken, of keys whose ids are unknown yet. */
  let unknown: KeyUse[] = [];
  const learned = createQueue<KeyUse>();
  let learning = false;
  let ended = false;
  let failure: { readonly error: unknown } | null = null;
  let again: (() => void) | null = null;
  let timer: NodeJS.Timeout | undefined;

  function goOn(): void {
    clearTimeout(timer);
    const ask = again;
    again = null;
    ask?.();
  }

  function end(): void {
    if (ended) return;
    ended = true;
    signal?.removeEventListener('abort', end);
    leave();
    goOn();
  }

  function startLearning(): void {
    const uses = unknown;
    unknown = [];
    learning = true;
    learn([...new Set(uses.map(({ key }) => key))])
      .then(
        () => {
          for (const use of uses) learned.push(use);
        },
        (error: unknown) => void (failure = { error }),
      )
      .finally(() => {
        learning = false;
        goOn();
      });
  }

  function nextKnown(): ToldUse | null {
    const nowMs = performance.now();
    for (;;) {
      const use = learned.shift() ?? paced.take(nowMs);
      if (use === null) return null;
      const keyId = ids.get(use.key);
      if (keyId === undefined) unknown.push(use);
      else if (keyId !== null) return toTold(use, keyId);
    }
  }

  function poll(ask: () => void): ToldUse | null | undefined {
    if (failure !== null) throw failure.error;
    if (ended) return undefined;
    const use = nextKnown();
    if (use !== null) return use;
    if (unknown.length > 0 && !learning) startLearning();
    again = ask;
    clearTimeout(timer);
    const waitMs = paced.soonestMs(performance.now());
    if (waitMs !== null) timer = setTimeout(goOn, waitMs);
    return null;
  }

  const leave = await follow((use) => {
    paced.add(use);
    goOn();
  });
  if (signal?.aborted === true) end();
  else signal?.addEventListener('abort', end, { once: true });
  return iterablePolled({ poll, end });
}

function toTold(use: KeyUse, keyId: string): ToldUse {
  const { position, requests, lastUsedAt } = use;
  return { position, keyId, requests, lastUsedAt, shareBy: use };
}
