import { types } from 'node:util';
import {
  isLeafType,
  isListType,
  isNonNullType,
  isObjectType,
  Kind,
  type FieldNode,
  type GraphQLObjectType,
  type GraphQLOutputType,
  type GraphQLResolveInfo,
  type SelectionSetNode,
} from 'graphql';

import type { GraphqlContext } from './context.ts';

/** A selection that is made ready to be taken of a source, as graphql-js would, without the machinery of an execution. */
export type PlainSelection = {
  /** Throws at whatever is not as the schema says, be it a null or a promise: then graphql-js is asked, which says what is wrong. */
  take(source: unknown, context: GraphqlContext): Readonly<Record<string, unknown>>;
  /** The same, field by field. */
  readonly inOrder: readonly Field[];
  /** How many fields are in it, and on how many levels: its cost, since no field has arguments. */
  readonly fields: number;
  readonly depth: number;
};

type Field = { readonly name: string; readonly take: (source: unknown, context: GraphqlContext) => unknown };
type Complete = (value: unknown, context: GraphqlContext) => unknown;

const NO_ARGUMENTS = {};
const NO_INFO = Object.freeze({}) as GraphQLResolveInfo;

/** Null for a selection with anything in it but fields without arguments, each asked for once, of object types: fragments, directives, unions, and what always comes as a promise. */
export function plainSelection(type: GraphQLObjectType, { selections }: SelectionSetNode): PlainSelection | null {
  const taken = new Map<string, Field>();
  let fields = 0;
  let depth = 0;
  for (const selection of selections) {
    if (selection.kind !== Kind.FIELD || !isBare(selection)) return null;
    const name = selection.alias?.value ?? selection.name.value;
    const nested = { fields: 0, depth: 0 };
    const field = fieldOf(type, selection, name, nested);
    if (field === null || taken.has(name)) return null;
    taken.set(name, field);
    fields += 1 + nested.fields;
    depth = Math.max(depth, 1 + nested.depth);
  }
  const inOrder = [...taken.values()];
  return {
    inOrder,
    fields,
    depth,
    take(source, context) {
      const result = Object.create(null) as Record<string, unknown>;
      for (const field of inOrder) result[field.name] = field.take(source, context);
      return result;
    },
  };
}

/** Neither arguments nor directives. */
export function isBare({ arguments: given, directives }: FieldNode): boolean {
  return (given ?? []).length === 0 && hasNoDirectives({ directives });
}

export function hasNoDirectives({ directives }: Pick<FieldNode, 'directives'>): boolean {
  return (directives ?? []).length === 0;
}

type Size = { fields: number; depth: number };

function fieldOf(type: GraphQLObjectType, node: FieldNode, name: string, nested: Size): Field | null {
  if (node.name.value === '__typename') return { name, take: () => type.name };
  const definition = type.getFields()[node.name.value];
  if (definition === undefined || definition.args.length > 0) return null;
  const resolve = definition.resolve ?? propertyNamed(definition.name);
  if (types.isAsyncFunction(resolve)) return null;
  const complete = completion(definition.type, node.selectionSet, nested);
  if (complete === null) return null;
  return { name, take: (source, context) => complete(resolve(source, NO_ARGUMENTS, context, NO_INFO), context) };
}

/** What graphql-js does for a field without a resolver, but for methods, which none of our types has. */
function propertyNamed(name: string) {
  return (source: unknown): unknown => (source as Readonly<Record<string, unknown>>)[name];
}

function completion(type: GraphQLOutputType, selectionSet: SelectionSetNode | undefined, nested: Size): Complete | null {
  if (isNonNullType(type)) {
    const complete = completion(type.ofType, selectionSet, nested);
    return complete && ((value, context) => present(complete(value, context)));
  }
  if (isListType(type)) {
    const complete = completion(type.ofType, selectionSet, nested);
    return complete && ((value, context) => (value == null ? null : listOf(value).map((item) => complete(item, context))));
  }
  if (isLeafType(type)) return (value) => (value == null ? null : present(type.coerceOutputValue(settled(value))));
  if (!isObjectType(type) || type.isTypeOf != null || selectionSet === undefined) return null;
  const selection = plainSelection(type, selectionSet);
  if (selection === null) return null;
  Object.assign(nested, { fields: selection.fields, depth: selection.depth });
  return (value, context) => (value == null ? null : selection.take(settled(value), context));
}

function present(value: unknown): unknown {
  if (value == null) throw new TypeError('no value');
  return value;
}

function settled(value: unknown): unknown {
  // Nobody waits for it: graphql-js asks again.
  if (value instanceof Promise) value.catch(() => undefined);
  if (value instanceof Promise || value instanceof Error || typeof value === 'function') throw new TypeError('no value');
  return value;
}

function listOf(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw new TypeError('no list');
  return value;
}
