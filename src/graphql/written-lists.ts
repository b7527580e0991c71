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
  /** The text that `write` makes of a result, with these lists in it. Changes the result's data, so that it can be written once. */
  textOf(result: ExecutionResult, write: (result: ExecutionResult) => string): string;
};

type Written = { readonly path: readonly (string | number)[]; readonly text: string };

export function createWrittenLists(): WrittenLists {
  const lists: Written[] = [];
  return {
    take(items, context, info) {
      const text = listText(items, context, info);
      if (text === null) return [...items];
      lists.push({ path: responsePathAsArray(info.path), text });
      return [];
    },
    get size() {
      return lists.length;
    },
    textOf(result, write) {
      // Nobody can have stored it: a text of a client in the same answer is never taken for a mark.
      const mark = lists.length === 0 ? '' : randomUUID();
      const placed = lists.filter(({ path }, index) => place(result.data, path, `${mark}:${index}`));
      let text = write(result);
      for (const list of placed) text = filled(text, JSON.stringify(`${mark}:${lists.indexOf(list)}`), list.text);
      return text;
    },
  };
}

/** Null for a selection that is not plain and for items of which one is not as the schema says: then graphql-js completes them, and says what is wrong. */
function listText(items: readonly unknown[], context: GraphqlContext, { fieldNodes, returnType }: GraphQLResolveInfo): string | null {
  const [node] = fieldNodes;
  const type = getNamedType(returnType);
  if (fieldNodes.length !== 1 || node?.selectionSet === undefined || !isObjectType(type)) return null;
  const selection = plainSelection(type, node.selectionSet);
  if (selection === null) return null;
  const write = itemWriter(selection);
  try {
    return `[${items.map((item) => write(item, context)).join(',')}]`;
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
        text = prefix + JSON.stringify(value);
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

/** False where an error has taken the place of what was around the list. */
function place(data: unknown, path: readonly (string | number)[], mark: string): boolean {
  let parent = data as Record<string | number, unknown> | null | undefined;
  for (const key of path.slice(0, -1)) parent = parent?.[key] as typeof parent;
  const key = path.at(-1);
  if (parent == null || key === undefined) return false;
  parent[key] = mark;
  return true;
}

function filled(text: string, mark: string, list: string): string {
  const at = text.indexOf(mark);
  return at === -1 ? text : text.slice(0, at) + list + text.slice(at + mark.length);
}
