import type { LedgerEntry } from '../ledger/read.ts';
import { shareReads, type SharedReads } from '../lib/share-reads.ts';
import { loadAlerts, type AlertRow } from './alert-reading.ts';
import type { Builder } from './builder.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import { followLog } from './follow-log.ts';
import { sightOf } from './key-reading.ts';
import { ownOrganization } from './ledger-event.ts';
import type { SharedUpdate } from './share-results.ts';
import type { TypeRefs } from './type-refs.ts';

type Raised = SharedUpdate & { readonly alert: AlertRow };

/** The subscription `alertRaised`: the log's own AlertRaised events, so that it resumes where any follower of the log does. */
export function addAlertStream(builder: Builder, types: TypeRefs): void {
  const raised = builder.objectRef<Raised>('RaisedAlert').implement({
    fields: (t) => ({
      position: t.field({ type: 'Position', resolve: ({ position }) => position }),
      alert: t.field({ type: types.alert, description: 'As it stands now: it may have been acknowledged.', resolve: ({ alert }) => alert }),
    }),
  });
  const shared = shareReads<readonly (AlertRow | null)[]>();
  builder.subscriptionField('alertRaised', (t) =>
    t.field({
      type: raised,
      description:
        'Alerts as they are raised, those about keys that you may not see left out. Resume with `after` the last position that you saw.',
      authScopes: { permission: 'alerts:read' },
      args: {
        organizationId: t.arg.id({ required: true }),
        after: t.arg({ type: 'Position', description: '`0` is the whole history; without it, from now on.' }),
      },
      subscribe: (_root, { organizationId, after }, context) => {
        const filter = { organizationId: ownOrganization(context, organizationId), types: ['AlertRaised'] as const };
        return followLog(context, { after: after ?? 'now', filter }, (entries) => alertsOf(context, entries, shared));
      },
      resolve: (event: Raised) => event,
    }),
  );
}

async function alertsOf(
  context: GraphqlContext,
  entries: readonly LedgerEntry[],
  shared: SharedReads<readonly (AlertRow | null)[]>,
): Promise<readonly Raised[]> {
  const ids = entries.map(({ stream }) => stream.slice('alert:'.length));
  const actor = actorOf(context);
  // All followers of an organization are woken by the same alert.
  const alerts = await shared(`${sightOf(actor)}/${ids.join()}`, () => loadAlerts(context.deps.database.kysely, actor, ids));
  return entries.flatMap(({ position }, index) => {
    const alert = alerts[index];
    return alert == null ? [] : [{ position, alert, shareBy: alert }];
  });
}
