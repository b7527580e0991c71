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

/** Reads documents under limits, the same for every transport. */
export type DocumentReader = {
  parse(source: string | Source): DocumentNode;
  /** Beside the rules of the specification. */
  readonly addedRules: readonly ValidationRule[];
  /** Parses and validates; the errors are meant for the client. */
  read(query: string): DocumentNode | readonly GraphQLError[];
};

const SYNTAX_LIMIT = /token|Document contains more than/;

export function createDocumentReader(schema: GraphQLSchema, limits: GraphqlLimits): DocumentReader {
  const addedRules = [limitAliases(limits.maxAliases)];
  const rules = [...specifiedRules, ...addedRules];
  const cache = new Map<string, DocumentNode>();

  function parseLimited(source: string | Source): DocumentNode {
    try {
      return parse(source, { maxTokens: limits.maxTokens });
    } catch (error) {
      if (error instanceof GraphQLError && SYNTAX_LIMIT.test(error.message) && error.message.includes(String(limits.maxTokens))) {
        throw topLevelError('QUERY_TOO_COMPLEX', `The document has more than ${limits.maxTokens} tokens.`, { http: { status: 400 } });
      }
      throw error instanceof GraphQLError ? fromGraphql(error) : error;
    }
  }

  return {
    parse: parseLimited,
    addedRules,
    read(query) {
      const known = cache.get(query);
      if (known !== undefined) return known;
      let document: DocumentNode;
      try {
        document = parseLimited(query);
      } catch (error) {
        if (error instanceof GraphQLError) return [error];
        throw error;
      }
      const errors = validate(schema, document, rules);
      if (errors.length > 0) return errors.map((error) => fromGraphql(error));
      // The oldest goes first: clients send few documents, many times.
      if (cache.size >= MAX_CACHED_DOCUMENTS) for (const oldest of cache.keys()) if (cache.delete(oldest)) break;
      cache.set(query, document);
      return document;
    },
  };
}

const MAX_CACHED_DOCUMENTS = 1000;

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
