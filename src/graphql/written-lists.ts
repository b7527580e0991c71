import { randomUUID } from 'node:crypto';
import { getNamedType, isObjectType, responsePathAsArray, type ExecutionResult, type GraphQLResolveInfo } from 'graphql';

import type { GraphqlContext } from './context.ts';
import { plainSelection, type PlainSelection } from './plain-selection.ts';

/**
 * Lists of one operation that are written as JSON where they are resolved. To graphql-js' executor each field of each item is a value to be completed and kept: for the ten thousand points of a long
 * series that is most of what their answer costs. It is given an empty list instead, and the text takes that list's place in the answer.
 */
export type WrittenLists = {
  /** What the executor is to be given for a list of objects: nothing where they were written, else the items. */
  take<Item>(items: readonly Item[], context: GraphqlContext, info: GraphQLResolveInfo): Item[];
  /** How many were written. */
  readonly size: number;
  /** What `write` makes of a result, with these lists in it; bytes where there are any. Changes the result's data, so that it can be written once. */
  bodyOf(result: ExecutionResult, write: (result: ExecutionResult) => string): string | Buffer;
};

type Written = { readonly path: readonly (string | number)[]; readonly chunks: readonly Buffer[] };

/** A text that grows by small pieces is kept as a tree of them until it is read. One of a megabyte outlives the young generation, and a quarter of the time to make it is the collector's. */
const CHUNK_LENGTH = 8 * 1024;

export function createWrittenLists(): WrittenLists {
  const lists: Written[] = [];
  return {
    take(items, context, info) {
      const chunks = listChunks(items, context, info);
      if (chunks === null) return [...items];
      lists.push({ path: responsePathAsArray(info.path), chunks });
      return [];
    },
    get size() {
      return lists.length;
    },
    bodyOf(result, write) {
      if (lists.length === 0) return write(result);
      // Nobody can have stored it: a text of a client in the same answer is never taken for a mark.
      const mark = randomUUID();
      for (const [index, { path }] of lists.entries()) place(result.data, path, `${mark}${index}`);
      const [head = '', ...tails] = write(result).split(`"${mark}`);
      const filled = tails.flatMap((tail) => {
        const end = tail.indexOf('"');
        return [...(lists[Number(tail.slice(0, end))]?.chunks ?? []), Buffer.from(tail.slice(end + 1))];
      });
      return Buffer.concat([Buffer.from(head), ...filled]);
    },
  };
}

/** Null for a selection that is not plain and for items of which one is not as the schema says: then graphql-js completes them, and says what is wrong. */
function listChunks(
  items: readonly unknown[],
  context: GraphqlContext,
  { fieldNodes, returnType }: GraphQLResolveInfo,
): readonly Buffer[] | null {
  const [node] = fieldNodes;
  const type = getNamedType(returnType);
  if (fieldNodes.length !== 1 || node?.selectionSet === undefined || !isObjectType(type)) return null;
  const selection = plainSelection(type, node.selectionSet);
  if (selection === null) return null;
  const write = itemWriter(selection);
  try {
    const chunks: Buffer[] = [];
    let text = '[';
    for (const [index, item] of items.entries()) {
      if (index > 0) text += ',';
      text += write(item, context);
      if (text.length < CHUNK_LENGTH) continue;
      chunks.push(Buffer.from(text));
      text = '';
    }
    return [...chunks, Buffer.from(`${text}]`)];
  } catch {
    return null;
  }
}

function itemWriter({ inOrder }: PlainSelection): (item: unknown, context: GraphqlContext) => string {
  const fields = inOrder.map(({ name, take }, index) => {
    const prefix = `${index === 0 ? '' : ','}${JSON.stringify(name)}:`;
    // Most points of most series are nothing but zeros.
    let last: unknown;
    let text = '';
    return (item: unknown, context: GraphqlContext): string => {
      const value = take(item, context);
      if (value !== last || text === '') {
        last = value;
        text = prefix + (Number.isSafeInteger(value) ? String(value) : JSON.stringify(value));
      }
      return text;
    };
  });
  return (item, context) => {
    if (item == null) throw new TypeError('no value');
    let text = '{';
    for (const field of fields) text += field(item, context);
    return `${text}}`;
  };
}

/** Not where an error has taken the place of what was around the list. */
function place(data: unknown, path: readonly (string | number)[], mark: string): void {
  let parent = data as Record<string | number, unknown> | null | undefined;
  for (const key of path.slice(0, -1)) parent = parent?.[key] as typeof parent;
  const key = path.at(-1);
  if (parent != null && key !== undefined) parent[key] = mark;
}
