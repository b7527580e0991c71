import { seesAllKeys } from '../commands/visible-keys.ts';
import type { VerificationCode } from '../domain/refusals.ts';
import { normalizeIp } from '../lib/ip-address.ts';
import { requestLog, type RequestLogEntry } from '../projections/request-log.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { loadKeys, type KeyRow } from './key-reading.ts';
import { pageSizeOf, type Page } from './paging.ts';
import { refuseNul } from './refuse-nul.ts';
import type { TypeRefs } from './type-refs.ts';

/** A request that the caller may see, with its key. */
type LoggedRequest = { readonly entry: RequestLogEntry; readonly key: KeyRow };
export type RequestLogRefs = ReturnType<typeof addRequestLog>;

export function addRequestLog(builder: Builder, enums: Enums, types: TypeRefs) {
  const logged = builder.objectRef<LoggedRequest>('RequestLogEntry').implement({
    description: 'One request, with what was reported about it afterwards.',
    fields: (t) => ({
      position: t.field({ type: 'Position', resolve: ({ entry }) => entry.position }),
      requestId: t.string({ resolve: ({ entry }) => entry.requestId }),
      apiKey: t.field({ type: types.apiKey, resolve: ({ key }) => key }),
      at: t.field({ type: 'DateTime', resolve: ({ entry }) => entry.at }),
      endpoint: t.string({
        nullable: true,
        description: 'Method and path, as the gateway gave them.',
        resolve: ({ entry }) => entry.endpoint,
      }),
      status: t.int({
        nullable: true,
        description: 'What the end client was answered, where that is known.',
        resolve: ({ entry }) => entry.status,
      }),
      durationMs: t.int({ nullable: true, description: 'To the first byte.', resolve: ({ entry }) => entry.durationMs }),
      ip: t.string({ nullable: true, description: "The end client's address.", resolve: ({ entry }) => entry.ip }),
      credits: t.int({ resolve: ({ entry }) => entry.credits }),
      code: t.field({ type: enums.verificationCode, resolve: ({ entry }) => entry.code }),
    }),
  });
  const filter = builder.inputType('RequestLogFilter', {
    description: 'All conditions together.',
    fields: (t) => ({
      code: t.field({ type: enums.verificationCode }),
      status: t.int({ description: 'What the end client was answered.' }),
      endpoint: t.string({ description: 'Method and path, exactly as the gateway gave them.' }),
      ip: t.string(),
      from: t.field({ type: 'DateTime' }),
      to: t.field({ type: 'DateTime', description: 'Exclusive.' }),
    }),
  });
  const connection = builder.connectionObject({ type: logged, name: 'RequestLogConnection' });
  return { connection, filter };
}

export type RequestLogArgs = {
  readonly first?: number | null | undefined;
  readonly after?: string | null | undefined;
  readonly filter?:
    | {
        readonly code?: VerificationCode | null | undefined;
        readonly status?: number | null | undefined;
        readonly endpoint?: string | null | undefined;
        readonly ip?: string | null | undefined;
        readonly from?: Date | null | undefined;
        readonly to?: Date | null | undefined;
      }
    | null
    | undefined;
};

/** A page of the request log, newest first. A caller who does not see all keys gets the requests of those that it sees. */
export async function readRequestLog(
  context: GraphqlContext,
  keyNumber: number | undefined,
  { first, after, filter }: RequestLogArgs,
): Promise<Page<LoggedRequest>> {
  const db = context.deps.database.kysely;
  const actor = actorOf(context);
  if (filter?.ip != null && normalizeIp(filter.ip) === null) throw badUserInput("'filter.ip' takes an IPv4 or IPv6 address.");
  refuseNul('filter.endpoint', filter?.endpoint);
  const personalKeysOf = seesAllKeys(actor) ? 'everybody' : { memberId: actor.kind === 'member' ? actor.memberId : null };
  const page = await requestLog(
    db,
    { organizationId: actor.organizationId, keyNumber, personalKeysOf },
    {
      limit: pageSizeOf(first),
      before: after == null ? undefined : positionOf(after),
      filter: {
        code: filter?.code ?? undefined,
        status: filter?.status ?? undefined,
        endpoint: filter?.endpoint ?? undefined,
        ip: filter?.ip == null ? undefined : (normalizeIp(filter.ip) ?? undefined),
        from: filter?.from ?? undefined,
        to: filter?.to ?? undefined,
      },
    },
  );
  const ids = [...new Set(page.entries.map((entry) => entry.keyId))];
  const keys = new Map((await loadKeys(db, actor, ids)).flatMap((key) => (key === null ? [] : [[key.id, key] as const])));
  const edges = page.entries.flatMap((entry) => {
    const key = keys.get(entry.keyId);
    return key === undefined ? [] : [{ cursor: entry.position.toString(), node: { entry, key } }];
  });
  return {
    edges,
    pageInfo: {
      hasNextPage: page.before !== null,
      hasPreviousPage: after != null,
      startCursor: edges[0]?.cursor ?? null,
      // Behind the last request that was looked at, which a filter may have left out.
      endCursor: page.before?.toString() ?? edges.at(-1)?.cursor ?? null,
    },
  };
}

/** A position that was given as a cursor. */
export function positionOf(cursor: string): bigint {
  if (!/^(?:0|[1-9]\d{0,17})$/.test(cursor)) throw badUserInput("'after' is no cursor of this list.");
  return BigInt(cursor);
}
