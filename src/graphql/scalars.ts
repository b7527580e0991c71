import { GraphQLError, valueFromASTUntyped, type ValueNode } from 'graphql';
import { z } from 'zod';

import type { JsonValue } from '../lib/canonical-json.ts';
import { createUtcText } from '../lib/utc-text.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';

const moment = z.iso.datetime({ offset: true });

export function addScalars(builder: Builder): void {
  const utcText = createUtcText();
  builder.scalarType('DateTime', {
    description: 'A moment in ISO 8601 with offset, such as `2030-01-31T00:00:00Z`; answers are in UTC with milliseconds.',
    specifiedByURL: 'https://scalars.graphql.org/andimarek/date-time.html',
    serialize: utcText,
    parseValue: dateTimeOf,
    parseLiteral: (node) => ofLiteral(node, dateTimeOf),
  });
  builder.scalarType('Position', {
    description:
      'A place in the event log, as a decimal text. `0` lies before the first event. Positions are dense and in the order of commits.',
    serialize: (value) => value.toString(),
    parseValue: positionOf,
    parseLiteral: (node) => ofLiteral(node, positionOf),
  });
  builder.scalarType('JSON', {
    description: 'Any JSON value.',
    serialize: (value) => value,
    // What the parser of a request's body made is JSON already, and a literal is converted by graphql-js.
    parseValue: (value) => value as JsonValue,
  });
}

function dateTimeOf(value: unknown): Date {
  const parsed = moment.safeParse(value);
  if (!parsed.success) throw badUserInput("A DateTime is a text such as '2030-01-31T00:00:00Z'.");
  return new Date(parsed.data);
}

function positionOf(value: unknown): bigint {
  if (typeof value !== 'string' || !/^(?:0|[1-9]\d{0,17})$/.test(value)) throw badUserInput("A Position is a decimal text such as '42'.");
  return BigInt(value);
}

/** With the place in the document where the literal stands, by which its argument is found. */
function ofLiteral<Value>(node: ValueNode, parse: (value: unknown) => Value): Value {
  try {
    return parse(valueFromASTUntyped(node));
  } catch (error) {
    if (error instanceof GraphQLError) throw new GraphQLError(error.message, { nodes: node, extensions: error.extensions });
    throw error;
  }
}
