import { executeSubscriptionEvent, parse, validateSubscriptionArgs } from 'graphql';
import { describe, expect, it } from 'vitest';

import type { Actor } from '../../src/domain/actor.ts';
import { createContext, type GraphqlContext } from '../../src/graphql/context.ts';
import type { GraphqlDependencies } from '../../src/graphql/dependencies.ts';
import { directUpdate } from '../../src/graphql/direct-update.ts';
import { DEFAULT_LIMITS } from '../../src/graphql/limits.ts';
import { buildSchema } from '../../src/graphql/schema.ts';

const schema = buildSchema();
const organizationId = '1b7e7a5c-0000-4000-8000-000000000000';
const actor: Actor = {
  kind: 'service',
  id: 'service:1',
  organizationId,
  role: null,
  permissions: new Set(['keys:read', 'log:read', 'alerts:read'] as const),
  tokenId: 'token',
  expiresAt: null,
};
const context: GraphqlContext = createContext({
  deps: {} as GraphqlDependencies,
  limits: DEFAULT_LIMITS,
  actor,
  authorization: 'Bearer klat_x',
  session: null,
  disconnected: undefined,
});
const USE = { position: 7n, keyId: '0b7e7a5c-0000-4000-8000-000000000000', requests: 3, lastUsedAt: new Date('2026-11-21T01:02:03.456Z') };

const following = (selection: string, more = ''): string => `subscription F { ${more}keyUsed(organizationId: "x") { ${selection} } }`;
const directly = (text: string, update: unknown = USE) =>
  directUpdate(schema, parse(text), undefined, DEFAULT_LIMITS)?.(update, context) ?? null;

async function byExecutor(text: string, update: unknown = USE) {
  const validated = validateSubscriptionArgs({ schema, document: parse(text), contextValue: createContext(context), rootValue: update });
  if (!('schema' in validated)) throw new Error('the document is no subscription');
  return executeSubscriptionEvent(validated);
}

describe('an update that asks for plain fields', () => {
  it.each([
    following('position keyId requests lastUsedAt'),
    following('requests __typename n: requests p: position'),
    following('keyId', 'used: '),
  ])('is written as graphql-js writes it: %s', async (text) => {
    const direct = directly(text);
    expect(direct).not.toBeNull();
    expect(JSON.stringify(direct)).toBe(JSON.stringify(await byExecutor(text)));
  });

  it.each([
    following('apiKey { name }'),
    following('...on ApiKeyUse { requests }'),
    following('requests @include(if: true)'),
    'subscription F @skip { keyUsed(organizationId: "x") { requests } }',
    'subscription F { keyUsed(organizationId: "x") @skip(if: false) { requests } }',
    'subscription F { a: keyUsed(organizationId: "x") { requests } b: keyUsed(organizationId: "x") { requests } }',
    'query { viewer { __typename } }',
  ])('is left to graphql-js where it asks for more: %s', (text) => {
    expect(directly(text)).toBeNull();
  });

  it.each([
    ['a null that may not be', { ...USE, requests: null }],
    ['a number that is too large', { ...USE, requests: 2 ** 40 }],
    ['a time that is none', { ...USE, lastUsedAt: 'never' }],
    ['nothing', null],
  ])('is left to graphql-js where it is not as the schema says, which then says what is wrong: %s', async (_name, update) => {
    const text = following('requests lastUsedAt');
    expect(directly(text, update)).toBeNull();
    expect((await byExecutor(text, update)).errors).toHaveLength(1);
  });

  it('is left to graphql-js where it costs more than is allowed', () => {
    const document = parse(following('position keyId requests lastUsedAt'));
    expect(directUpdate(schema, document, undefined, { ...DEFAULT_LIMITS, maxComplexity: 4 })).toBeNull();
    expect(directUpdate(schema, document, undefined, { ...DEFAULT_LIMITS, maxComplexity: 5 })).not.toBeNull();
    expect(directUpdate(schema, document, undefined, { ...DEFAULT_LIMITS, maxDepth: 1 })).toBeNull();
  });
});
