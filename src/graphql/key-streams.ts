import { KEY_EVENT_SCHEMAS, type EventType } from '../domain/event.ts';
import { shareReads, type SharedReads } from '../lib/share-reads.ts';
import type { LedgerEntry } from '../ledger/read.ts';
import type { Builder } from './builder.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { followLog } from './follow-log.ts';
import { loadKeys, sightOf, type KeyRow } from './key-reading.ts';
import { ownOrganization } from './ledger-event.ts';
import type { SharedUpdate } from './share-results.ts';
import type { TypeRefs } from './type-refs.ts';

const KEY_EVENTS = Object.keys(KEY_EVENT_SCHEMAS) as readonly EventType[];

type KeyChange = SharedUpdate & { readonly type: EventType; readonly key: KeyRow };

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
}

async function changesOf(
  context: GraphqlContext,
  entries: readonly LedgerEntry[],
  shared: SharedReads<readonly (KeyRow | null)[]>,
): Promise<readonly KeyChange[]> {
  const ids = [...new Set(entries.map(keyIdOf))];
  const actor = actorOf(context);
  // All followers of an organization are woken by the same change.
  const found = await shared(`${sightOf(actor)}/${ids.join()}`, () => loadKeys(context.deps.database.kysely, actor, ids));
  const keys = new Map(found.flatMap((key) => (key === null ? [] : [[key.id, key] as const])));
  return entries.flatMap((entry) => {
    const key = keys.get(keyIdOf(entry));
    return key === undefined ? [] : [{ position: entry.position, type: entry.type, key, shareBy: key }];
  });
}

function keyIdOf({ stream }: LedgerEntry): string {
  return stream.slice('key:'.length);
}
