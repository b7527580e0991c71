import type { KeyStatus } from '../domain/api-key.ts';
import type { KeyType } from '../domain/key-format.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { idOf, splitMemberId } from './global-id.ts';
import { countKeys, listKeys, type KeyFilter, type KeyOrder, type KeyRow } from './key-reading.ts';
import { pageOf, pageSizeOf } from './paging.ts';
import { refuseNul } from './refuse-nul.ts';
import type { TypeRefs } from './type-refs.ts';

type FilterInput = {
  readonly status?: KeyStatus | null | undefined;
  readonly type?: KeyType | null | undefined;
  readonly category?: string | null | undefined;
  readonly ownerId?: string | null | undefined;
  readonly personal?: boolean | null | undefined;
  readonly archived?: boolean | null | undefined;
  readonly search?: string | null | undefined;
  readonly unusedForDays?: number | null | undefined;
  readonly includeDeleted?: boolean | null | undefined;
};
type ListArgs = {
  readonly filter?: FilterInput | null | undefined;
  readonly orderBy?: KeyOrder | null | undefined;
  readonly first?: number | null | undefined;
  readonly after?: string | null | undefined;
};

const NEWEST_FIRST: KeyOrder = { field: 'CREATED_AT', direction: 'DESC' };

/** The list of an organization's keys: its connection, its inputs, and how it is read. */
export function addKeyList(builder: Builder, enums: Enums, types: TypeRefs) {
  // What counts is known to the connection alone: the count is made only where it is selected.
  const filters = new WeakMap<object, KeyFilter>();
  const connection = builder.connectionObject({
    type: types.apiKey,
    name: 'ApiKeyConnection',
    fields: (t) => ({
      totalCount: t.int({
        description: 'Keys that the filter admits, on all pages.',
        resolve: (page, _args, context) => countKeys(context.deps.database.kysely, actorOf(context), filters.get(page) ?? {}),
      }),
    }),
  });
  const filter = builder.inputType('ApiKeyFilter', {
    fields: (t) => ({
      status: t.field({ type: enums.keyStatus }),
      type: t.field({ type: enums.keyType }),
      category: t.string(),
      ownerId: t.id({ description: 'A member whose personal keys are wanted.' }),
      personal: t.boolean({ description: 'Personal keys alone, or team keys alone.' }),
      archived: t.boolean(),
      search: t.string({ description: 'A part of the name; case does not matter.' }),
      unusedForDays: t.int({ description: 'Last used, or created and never used, so many days ago or more.' }),
      includeDeleted: t.boolean({ description: 'Deleted keys are left out otherwise.' }),
    }),
  });
  const order = builder.inputType('ApiKeyOrder', {
    fields: (t) => ({
      field: t.field({ type: enums.keyOrderField, required: true }),
      direction: t.field({ type: enums.orderDirection, required: true }),
    }),
  });

  async function read(context: GraphqlContext, args: ListArgs) {
    const size = pageSizeOf(args.first);
    const wanted = keyFilterOf(context, args.filter);
    const request = { filter: wanted, order: args.orderBy ?? NEWEST_FIRST, limit: size + 1, after: args.after ?? null };
    const rows = await listKeys(context.deps.database.kysely, actorOf(context), request);
    const page = pageOf<KeyRow & { readonly cursor: string }>(rows, size, (key) => key.cursor, args.after != null);
    filters.set(page, wanted);
    return page;
  }

  return { connection, filter, order, read };
}

function keyFilterOf(context: GraphqlContext, input: FilterInput | null | undefined): KeyFilter {
  refuseNul('filter.category', input?.category);
  refuseNul('filter.search', input?.search);
  if (input?.ownerId == null) return { ...input, ownerId: null };
  const id = idOf('Member', input.ownerId);
  if (id === null) throw badUserInput("'filter.ownerId' is no id of a member.");
  const { organizationId, memberId } = splitMemberId(id);
  if (organizationId !== actorOf(context).organizationId) throw badUserInput("'filter.ownerId' is no member of your organization.");
  return { ...input, ownerId: memberId };
}
