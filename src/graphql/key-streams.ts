import { setTimeout as sleep } from 'node:timers/promises';

import { seesAllKeys } from '../commands/visible-keys.ts';
import { KEY_EVENT_SCHEMAS, streamOf, type EventType } from '../domain/event.ts';
import { codeOf } from '../domain/usage.ts';
import { cancellable } from '../lib/cancellable.ts';
import { shareReads, type SharedReads } from '../lib/share-reads.ts';
import type { LedgerEntry } from '../ledger/read.ts';
import type { LogPage } from '../ledger/tail.ts';
import type { Builder } from './builder.ts';
import { badUserInput, topLevelError } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { followLog } from './follow-log.ts';
import { encodeGlobalId, idOf } from './global-id.ts';
import { loadKeys, sightOf, type KeyRow } from './key-reading.ts';
import { ownOrganization } from './ledger-event.ts';
import { MAX_PAGE } from './limits.ts';
import type { TypeRefs } from './type-refs.ts';

const SECOND_MS = 1000;
const KEY_EVENTS = Object.keys(KEY_EVENT_SCHEMAS) as readonly EventType[];

type KeyChange = { readonly position: bigint; readonly type: EventType; readonly key: KeyRow };
type KeyUse = { readonly position: bigint; readonly keyId: string; readonly requests: number; readonly lastUsedAt: Date };

export function addKeyStreams(builder: Builder, enums: Enums, types: TypeRefs): void {
  const change = builder.objectRef<KeyChange>('ApiKeyChange').implement({
    fields: (t) => ({
      position: t.field({ type: 'Position', resolve: ({ position }) => position }),
      type: t.field({ type: enums.eventType, resolve: ({ type }) => type }),
      apiKey: t.field({
        type: types.apiKey,
        description: 'As it stands now, which may be later than this change.',
        resolve: ({ key }) => key,
      }),
    }),
  });
  const use = builder.objectRef<KeyUse>('ApiKeyUse').implement({
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
  builder.subscriptionField('apiKeyChanged', (t) =>
    t.field({
      type: change,
      description: 'Every change of the keys that you may see, in order. Resume with `after` the last position that you saw.',
      authScopes: { permission: 'keys:read' },
      args: {
        organizationId: t.arg.id({ required: true }),
        after: t.arg({ type: 'Position', description: '`0` is the whole history; without it, from now on.' }),
      },
      subscribe: (_root, { organizationId, after }, context) => {
        const filter = { organizationId: ownOrganization(context, organizationId), types: KEY_EVENTS };
        return followLog(context, { after: after ?? 'now', filter }, (entries) => changesOf(context, entries, shared));
      },
      resolve: (event: KeyChange) => event,
    }),
  );
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
        const streams = keyIds == null ? undefined : await streamsOf(context, keyIds);
        const filter = { organizationId: own, types: ['UsageRecorded'] as const, ...(streams === undefined ? {} : { streams }) };
        return cancellable(
          (signal) =>
            coalesce(context.deps.tail.follow({ after: 'now', filter, signal }), visibility(context, streams !== undefined), signal),
          context.session?.signal,
        );
      },
      resolve: (event: KeyUse) => event,
    }),
  );
}

async function* changesOf(
  context: GraphqlContext,
  entries: readonly LedgerEntry[],
  shared: SharedReads<readonly (KeyRow | null)[]>,
): AsyncGenerator<KeyChange, void, undefined> {
  const ids = [...new Set(entries.map(keyIdOf))];
  const actor = actorOf(context);
  // All followers of an organization are woken by the same change.
  const found = await shared(`${sightOf(actor)}/${ids.join()}`, () => loadKeys(context.deps.database.kysely, actor, ids));
  const keys = new Map(found.flatMap((key) => (key === null ? [] : [[key.id, key] as const])));
  for (const entry of entries) {
    const key = keys.get(keyIdOf(entry));
    if (key !== undefined) yield { position: entry.position, type: entry.type, key };
  }
}

function keyIdOf({ stream }: LedgerEntry): string {
  return stream.slice('key:'.length);
}

async function visibleKey(context: GraphqlContext, keyId: string): Promise<KeyRow> {
  const [key] = await loadKeys(context.deps.database.kysely, actorOf(context), [keyId]);
  if (key === undefined || key === null) throw new Error('A key was shown as used to somebody who may not see it.');
  return key;
}

/** The streams of keys that a caller names; each has to be one that it may see. */
async function streamsOf(context: GraphqlContext, globalIds: readonly string[]): Promise<readonly string[]> {
  if (globalIds.length > MAX_PAGE) throw badUserInput(`'keyIds' takes ${MAX_PAGE} ids at most.`);
  const ids = globalIds.map((text) => {
    const id = idOf('ApiKey', text);
    if (id === null) throw badUserInput("'keyIds' holds what is no id of a key.");
    return id;
  });
  const keys = await loadKeys(context.deps.database.kysely, actorOf(context), ids);
  if (keys.includes(null)) throw topLevelError('NOT_FOUND', "'keyIds' names a key that does not exist in your organization.");
  return ids.map(streamOf.key);
}

/** Which of some keys the caller may see. What is known is remembered: neither a key's owner nor, during a session, the caller's role changes. */
function visibility(context: GraphqlContext, named: boolean): (ids: readonly string[]) => Promise<ReadonlySet<string>> {
  if (named || seesAllKeys(actorOf(context))) return (ids) => Promise.resolve(new Set(ids));
  const known = new Map<string, boolean>();
  return async (ids) => {
    const unknown = ids.filter((id) => !known.has(id));
    const keys = await loadKeys(context.deps.database.kysely, actorOf(context), unknown);
    unknown.forEach((id, index) => known.set(id, keys[index] !== null));
    return new Set(ids.filter((id) => known.get(id) === true));
  };
}

/**
 * At most one update a key and second, with the count since the last. The first use is told at once, what follows within the second together at its end.
 * While the reader is busy nothing is pulled, so what is pending is bounded by the number of keys.
 */
async function* coalesce(
  pages: AsyncGenerator<LogPage, void, undefined>,
  seen: (ids: readonly string[]) => Promise<ReadonlySet<string>>,
  signal: AbortSignal,
): AsyncGenerator<KeyUse, void, undefined> {
  const pending = new Map<string, KeyUse>();
  const toldAtMs = new Map<string, number>();
  let next = pages.next();
  try {
    while (!signal.aborted) {
      for (const use of due(pending, toldAtMs)) yield use;
      const page = await nextPage(next, pending.size > 0 ? wakeInMs(pending, toldAtMs) : null, signal);
      if (page === 'timer') continue;
      if (page.done === true) return;
      next = pages.next();
      await addUses(pending, page.value.entries, seen);
    }
  } finally {
    await pages.return();
    await next.catch(() => undefined);
  }
}

async function addUses(
  pending: Map<string, KeyUse>,
  entries: readonly LedgerEntry[],
  seen: (ids: readonly string[]) => Promise<ReadonlySet<string>>,
): Promise<void> {
  const used = entries.filter(wasLetThrough);
  const visible = await seen([...new Set(used.map(keyIdOf))]);
  for (const entry of used) {
    const keyId = keyIdOf(entry);
    if (!visible.has(keyId)) continue;
    const requests = (pending.get(keyId)?.requests ?? 0) + 1;
    pending.set(keyId, { position: entry.position, keyId, requests, lastUsedAt: entry.recordedAt });
  }
}

function wasLetThrough({ data }: LedgerEntry): boolean {
  const code = typeof data === 'object' && data !== null && 'code' in data ? data['code'] : undefined;
  return typeof code === 'number' && codeOf(code) === 'VALID';
}

/** Takes the updates whose time has come, one by one: the reader may take long over each. */
function* due(pending: Map<string, KeyUse>, toldAtMs: Map<string, number>): Generator<KeyUse> {
  for (const [keyId, told] of toldAtMs) if (told + SECOND_MS <= performance.now()) toldAtMs.delete(keyId);
  for (const [keyId, use] of pending) {
    if (toldAtMs.has(keyId)) continue;
    pending.delete(keyId);
    toldAtMs.set(keyId, performance.now());
    yield use;
  }
}

function wakeInMs(pending: ReadonlyMap<string, KeyUse>, toldAtMs: ReadonlyMap<string, number>): number {
  const soonest = Math.min(...[...pending.keys()].map((keyId) => (toldAtMs.get(keyId) ?? 0) + SECOND_MS));
  return Math.max(0, soonest - performance.now());
}

async function nextPage(
  next: Promise<IteratorResult<LogPage, void>>,
  timerMs: number | null,
  signal: AbortSignal,
): Promise<IteratorResult<LogPage, void> | 'timer'> {
  if (timerMs === null) return next;
  const timer = new AbortController();
  try {
    const rings = sleep(timerMs, 'timer' as const, { signal: AbortSignal.any([timer.signal, signal]) }).catch(() => 'timer' as const);
    return await Promise.race([next, rings]);
  } finally {
    timer.abort();
  }
}
