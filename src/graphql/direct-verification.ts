import {
  getArgumentValues,
  getNamedType,
  getVariableValues,
  isObjectType,
  Kind,
  OperationTypeNode,
  type ExecutionResult,
  type GraphQLSchema,
  type OperationDefinitionNode,
} from 'graphql';

import type { GraphqlContext } from './context.ts';
import type { GraphqlLimits } from './limits.ts';
import { hasNoDirectives, plainSelection } from './plain-selection.ts';
import { verifyKey, type VerifyArguments } from './verification.ts';

/**
 * Verifies one key. Null where anything is not as it is nearly always, from a variable that is missing to a token that is refused: then the executor is to run the operation in the same context, and
 * finds what is to be said; the context's token sees to it that nothing is asked of admission twice.
 */
export type DirectVerification = (
  variables: Readonly<Record<string, unknown>> | undefined,
  context: GraphqlContext,
) => Promise<ExecutionResult | null>;

/**
 * Makes an operation ready that does nothing but `verifyApiKey`; null for all others. graphql-js' executor takes 45 µs for such an operation, most of it for an AbortController and caches of a context that lives no longer than it,
 * and their garbage. Input and answer are read by graphql-js and the resolvers of the schema here too.
 */
export function directVerification(
  schema: GraphQLSchema,
  { operation, selectionSet, variableDefinitions = [] }: OperationDefinitionNode,
  limits: GraphqlLimits,
): DirectVerification | null {
  const [node] = selectionSet.selections;
  const field = schema.getMutationType()?.getFields()['verifyApiKey'];
  if (operation !== OperationTypeNode.MUTATION || selectionSet.selections.length !== 1 || field === undefined) return null;
  if (node?.kind !== Kind.FIELD || node.name.value !== field.name || node.selectionSet === undefined || !hasNoDirectives(node)) return null;
  const payload = getNamedType(field.type);
  const selection = isObjectType(payload) ? plainSelection(payload, node.selectionSet) : null;
  if (selection === null || 1 + selection.fields > limits.maxComplexity || 1 + selection.depth > limits.maxDepth) return null;
  const name = node.alias?.value ?? node.name.value;

  return async (variables, context) => {
    const coerced = getVariableValues(schema, variableDefinitions, variables ?? {});
    if ('errors' in coerced) return null;
    try {
      const { input } = getArgumentValues(field, node, coerced.variableValues) as VerifyArguments;
      const verified = await verifyKey(context, input);
      return { data: { [name]: selection.take(verified, context) } };
    } catch {
      return null;
    }
  };
}
