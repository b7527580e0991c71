import SchemaBuilder from '@pothos/core';
import ComplexityPlugin, { ComplexityErrorKind } from '@pothos/plugin-complexity';
import DataloaderPlugin from '@pothos/plugin-dataloader';
import RelayPlugin from '@pothos/plugin-relay';
import ScopeAuthPlugin, { type AuthFailure, AuthScopeFailureType } from '@pothos/plugin-scope-auth';

import { ForbiddenError } from '../commands/authorization.ts';
import { allows } from '../domain/actor.ts';
import { isPermission, type Permission } from '../domain/permissions.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import { badUserInput, topLevelError, unauthenticated } from './client-error.ts';
import type { GraphqlContext } from './context.ts';
import { decodeGlobalId, encodeGlobalId, NODE_TYPES, type NodeType } from './global-id.ts';
import { DEFAULT_PAGE, MAX_PAGE } from './limits.ts';

export type SchemaTypes = {
  Context: GraphqlContext;
  DefaultFieldNullability: false;
  AuthScopes: { authenticated: boolean; permission: Permission };
  Scalars: {
    ID: { Input: string; Output: string };
    DateTime: { Input: Date; Output: Date };
    Position: { Input: bigint; Output: bigint };
    JSON: { Input: JsonValue; Output: JsonValue };
  };
};

export type Builder = PothosSchemaTypes.SchemaBuilder<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>>;

/** A builder with the plugins and the rules that hold for the whole schema. */
export function createBuilder(): Builder {
  return new SchemaBuilder<SchemaTypes>({
    plugins: [RelayPlugin, ScopeAuthPlugin, ComplexityPlugin, DataloaderPlugin],
    defaultFieldNullability: false,
    relay: {
      encodeGlobalID: (typename, id) => encodeGlobalId(typename as NodeType, String(id)),
      decodeGlobalID: (text) => {
        const decoded = decodeGlobalId(text);
        const typename = NODE_TYPES.find((type) => type === decoded?.type);
        if (decoded === null || typename === undefined) throw badUserInput(`'${text.slice(0, 60)}' is no id of this server.`);
        return { typename, id: decoded.id };
      },
      nodeQueryOptions: {
        description: 'Any object by its global id; null where there is none in your organization.',
        authScopes: { authenticated: true },
      },
      nodesQueryOptions: {
        description: `Objects by their global ids, ${MAX_PAGE} at most; null for each that does not exist in your organization.`,
        authScopes: { authenticated: true },
        resolve: (_root, { ids }, _context, _info, resolveNodes) => {
          if (ids.length > MAX_PAGE) throw badUserInput(`'nodes' takes ${MAX_PAGE} ids at most.`);
          return resolveNodes(ids);
        },
      },
    },
    scopeAuth: {
      authorizeOnSubscribe: true,
      authScopes: ({ actor }) => ({
        authenticated: actor !== null,
        permission: (permission) => actor !== null && allows(actor, permission),
      }),
      unauthorizedError: (_parent, context, _info, result) => {
        if (context.actor === null) return unauthenticated();
        const permission = missingPermission(result.failure);
        return permission === null ? topLevelError('FORBIDDEN', 'You may not do this.') : new ForbiddenError(permission);
      },
    },
    complexity: {
      limit: ({ limits }) => ({ complexity: limits.maxComplexity, depth: limits.maxDepth }),
      fieldComplexity: (args) => ({ field: 1, multiplier: pageSize(args) }),
      complexityError: (kind, { complexity, maxComplexity, depth, maxDepth }) =>
        kind === ComplexityErrorKind.Depth
          ? topLevelError('QUERY_TOO_COMPLEX', `The operation is ${depth} levels deep; ${maxDepth} are allowed.`)
          : topLevelError(
              'QUERY_TOO_COMPLEX',
              `The operation can resolve ${complexity} fields; ${maxComplexity} are allowed. Ask for smaller pages or fewer fields.`,
            ),
    },
  });
}

/** What a field's selection is counted times. A page beyond the cap counts as one at the cap: the resolver refuses it by name. */
function pageSize(args: Readonly<Record<string, unknown>>): number {
  if (Array.isArray(args['ids'])) return Math.min(args['ids'].length, MAX_PAGE);
  if (!('first' in args)) return 1;
  const first = typeof args['first'] === 'number' ? args['first'] : DEFAULT_PAGE;
  return Math.min(Math.max(first, 1), MAX_PAGE);
}

function missingPermission(failure: AuthFailure): Permission | null {
  if (failure.kind === AuthScopeFailureType.AuthScope) {
    const permission = failure.parameter;
    return typeof permission === 'string' && isPermission(permission) ? permission : null;
  }
  if ('failures' in failure) return failure.failures.map(missingPermission).find((permission) => permission !== null) ?? null;
  return null;
}
