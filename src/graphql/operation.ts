import {
  GraphQLError,
  Kind,
  parse,
  specifiedRules,
  validate,
  type ASTVisitor,
  type DocumentNode,
  type GraphQLSchema,
  type Source,
  type ValidationContext,
  type ValidationRule,
} from 'graphql';

import { fromGraphql, topLevelError } from './client-error.ts';
import type { GraphqlLimits } from './limits.ts';
import { namePlaces } from './name-place.ts';
import { keepRecent } from '../lib/recent.ts';

/** Reads documents under limits, the same for every transport. What was read lately is kept, the faulty ones too: clients send few documents, many times. */
export type DocumentReader = {
  /** Throws a GraphQLError that is meant for the client. */
  parse(source: string | Source): DocumentNode;
  /** By the rules of the specification and our own; the errors are meant for the client. */
  validate(document: DocumentNode): readonly GraphQLError[];
  /** Parses and validates; the errors are meant for the client. */
  read(query: string): DocumentNode | readonly GraphQLError[];
};

/** Characters of all documents that are kept: some hundreds. What one is read into takes up to a few hundred bytes for each of its characters. */
const MAX_KEPT_LENGTH = 256 * 1024;

const SYNTAX_LIMIT = /token|Document contains more than/;

export function createDocumentReader(schema: GraphQLSchema, limits: GraphqlLimits): DocumentReader {
  const rules = [...specifiedRules, limitAliases(limits.maxAliases)];
  const parsed = keepRecent<DocumentNode | GraphQLError>(MAX_KEPT_LENGTH);
  const validated = new WeakMap<DocumentNode, readonly GraphQLError[]>();

  function parseLimited(query: string): DocumentNode | GraphQLError {
    try {
      return parse(query, { maxTokens: limits.maxTokens });
    } catch (error) {
      if (error instanceof GraphQLError && SYNTAX_LIMIT.test(error.message) && error.message.includes(String(limits.maxTokens))) {
        return topLevelError('QUERY_TOO_COMPLEX', `The document has more than ${limits.maxTokens} tokens.`, { http: { status: 400 } });
      }
      if (error instanceof GraphQLError) return fromGraphql(error);
      throw error;
    }
  }

  function parseOnce(query: string): DocumentNode | GraphQLError {
    const known = parsed.get(query);
    if (known !== undefined) return known;
    const read = parseLimited(query);
    parsed.set(query, read);
    return read;
  }

  function validateOnce(document: DocumentNode): readonly GraphQLError[] {
    let errors = validated.get(document);
    if (errors === undefined) {
      errors = namePlaces(document, validate(schema, document, rules)).map((error) => fromGraphql(error));
      validated.set(document, errors);
    }
    return errors;
  }

  return {
    parse(source) {
      const read = parseOnce(typeof source === 'string' ? source : source.body);
      if (read instanceof GraphQLError) throw read;
      return read;
    },
    validate: validateOnce,
    read(query) {
      const read = parseOnce(query);
      if (read instanceof GraphQLError) return [read];
      const errors = validateOnce(read);
      return errors.length === 0 ? read : errors;
    },
  };
}

/** Aliases ask for the same again and again, `__typename` at no cost at all. */
function limitAliases(max: number): ValidationRule {
  return function limitAliasesRule(context: ValidationContext): ASTVisitor {
    let aliases = 0;
    return {
      [Kind.FIELD](node) {
        if (node.alias === undefined) return;
        aliases++;
        if (aliases === max + 1) context.reportError(topLevelError('QUERY_TOO_COMPLEX', `The document has more than ${max} aliases.`));
      },
    };
  };
}
