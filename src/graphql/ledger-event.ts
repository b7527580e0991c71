import { EVENT_TYPES, type EventType } from '../domain/event.ts';
import type { LedgerEntry, LogFilter } from '../ledger/read.ts';
import { readLog } from '../ledger/read.ts';
import type { Builder } from './builder.ts';
import { badUserInput, topLevelError } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { followLog } from './follow-log.ts';
import { idOf, streamOfSubject, subjectOfStream } from './global-id.ts';
import { pageOf, pageSizeOf, type Page } from './paging.ts';
import type { TypeRefs } from './type-refs.ts';

export type LedgerEventRefs = ReturnType<typeof addLedgerEvent>;

/** Subjects in one filter. */
const MAX_SUBJECTS = 100;

export function addLedgerEvent(builder: Builder, enums: Enums, types: TypeRefs) {
  types.ledgerEvent.implement({
    description: 'One fact of the log. Nothing changes or removes it.',
    fields: (t) => ({
      position: t.field({ type: 'Position', resolve: (entry) => entry.position }),
      type: t.field({ type: enums.eventType, resolve: (entry) => entry.type }),
      subjectId: t.id({
        description:
          'Global id of what it is about: a key, the organization, an access token, profile, alert, alert rule or webhook endpoint, or a person, whom `node` does not know.',
        resolve: (entry) => subjectOfStream(entry.stream),
      }),
      at: t.field({ type: 'DateTime', resolve: (entry) => entry.recordedAt }),
      actorId: t.id({ nullable: true, description: 'Who did it; null for usage.', resolve: (entry) => entry.actorId }),
      data: t.field({ type: 'JSON', description: 'As schema/events.json says for its type.', resolve: (entry) => entry.data }),
    }),
  });
  const connection = builder.connectionObject({ type: types.ledgerEvent, name: 'LedgerEventConnection' });
  const filter = builder.inputType('LedgerEventFilter', {
    fields: (t) => ({
      types: t.field({ type: [enums.eventType], description: 'Events of these types alone.' }),
      subjectIds: t.idList({ description: `Events about these objects alone, ${MAX_SUBJECTS} at most.` }),
    }),
  });
  builder.subscriptionField('ledgerEvents', (t) =>
    t.field({
      type: types.ledgerEvent,
      description:
        'The log of your organization as it grows, in order, without loss or repetition. Resume with `after` the last position that you saw.',
      authScopes: { permission: 'log:read' },
      args: {
        organizationId: t.arg.id({ required: true }),
        after: t.arg({ type: 'Position', description: '`0` is the whole history; without it, from now on.' }),
        filter: t.arg({ type: filter }),
      },
      subscribe: (_root, { organizationId, after, filter: wanted }, context) => {
        const logFilter = { organizationId: ownOrganization(context, organizationId), ...logFilterOf(wanted) };
        return followLog(context, { after: after ?? 'now', filter: logFilter }, (entries) => entries);
      },
      resolve: (entry: LedgerEntry) => entry,
    }),
  );
  return { connection, filter };
}

/** What a client's filter restricts. */
export function logFilterOf(filter: LedgerEventFilter | null | undefined): Pick<LogFilter, 'types' | 'streams'> {
  const subjects = filter?.subjectIds;
  if (subjects != null && subjects.length > MAX_SUBJECTS) throw badUserInput(`'subjectIds' takes ${MAX_SUBJECTS} ids at most.`);
  const streams = subjects?.map((id) => {
    const stream = streamOfSubject(id);
    if (stream === null)
      throw badUserInput(
        `'subjectIds': '${id.slice(0, 60)}' is no id of what the log is about: take the 'subjectId' of an event, or the id of a key, for instance.`,
      );
    return stream;
  });
  return { ...(filter?.types == null ? {} : { types: filter.types }), ...(streams === undefined ? {} : { streams }) };
}

export type LedgerEventFilter = {
  readonly types?: readonly EventType[] | null | undefined;
  readonly subjectIds?: readonly string[] | null | undefined;
};

/** The life of a key or organization without its usage. */
export const LIFECYCLE_TYPES: readonly EventType[] = EVENT_TYPES.filter((type) => type !== 'UsageRecorded' && type !== 'UsageSettled');

/** A page of the caller's own log, oldest first. */
export async function readEvents(
  context: GraphqlContext,
  filter: Pick<LogFilter, 'types' | 'streams'>,
  args: { readonly first?: number | null | undefined; readonly after?: bigint | null | undefined },
): Promise<Page<LedgerEntry>> {
  const size = pageSizeOf(args.first);
  const { organizationId } = actorOf(context);
  const entries = await readLog(context.deps.database.kysely, { organizationId, ...filter }, { after: args.after ?? 0n, limit: size + 1 });
  return pageOf(entries, size, (entry) => entry.position.toString(), args.after != null);
}

/** The organization of a subscription, which can be none but the caller's. */
export function ownOrganization(context: GraphqlContext, globalId: string): string {
  const id = idOf('Organization', globalId);
  if (id === null) throw badUserInput("'organizationId' is no id of an organization.");
  if (id !== actorOf(context).organizationId) throw topLevelError('NOT_FOUND', 'There is no such organization.');
  return id;
}
