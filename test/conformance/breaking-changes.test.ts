import { readFile } from 'node:fs/promises';

import {
  buildClientSchema,
  buildSchema,
  findBreakingChanges,
  getIntrospectionQuery,
  type GraphQLSchema,
  type IntrospectionQuery,
} from 'graphql';
import { beforeAll, describe, expect, it } from 'vitest';

import { buildSchema as buildServedSchema } from '../../src/graphql/schema.ts';
import { startTestServer } from '../support/server.ts';

describe("graphql's comparison of schemas", () => {
  let committed: string;
  beforeAll(async () => {
    committed = await readFile(new URL('../../schema/schema.graphql', import.meta.url), 'utf8');
  });

  /** What a client that was made for the committed schema would break on. */
  const breaks = (now: GraphQLSchema, before = buildSchema(committed)): readonly string[] =>
    findBreakingChanges(before, now).map(({ type, description }) => `${type}: ${description}`);

  it('finds nothing that the code took away from the committed schema', () => {
    expect(breaks(buildServedSchema())).toEqual([]);
  });

  it('finds no difference between the committed schema and what a server tells of its own', async () => {
    const server = await startTestServer();
    try {
      const served = buildClientSchema((await server.query(getIntrospectionQuery())) as unknown as IntrospectionQuery);
      expect(breaks(served)).toEqual([]);
      expect(breaks(buildSchema(committed), served)).toEqual([]);
    } finally {
      await server.close();
    }
  });

  it.each([
    ['a field that went', /^ {2}"""\n[^"]*"""\n {2}archived: Boolean!\n/m, '', 'FIELD_REMOVED'],
    ['a field that may be null now', /^ {2}masked: String!$/m, '  masked: String', 'FIELD_CHANGED_KIND'],
    ['an argument that became required', /after: Position$/m, 'after: Position!', 'ARG_CHANGED_KIND'],
    ['a value that an enum lost', /^ {2}USAGE_SETTLED\n/m, '', 'VALUE_REMOVED_FROM_ENUM'],
    ['a member that a result lost', / \| NameTaken/, '', 'TYPE_REMOVED_FROM_UNION'],
    [
      'an input that asks for more',
      /^input DeactivateApiKeyInput \{$/m,
      'input DeactivateApiKeyInput {\n  reason: String!',
      'REQUIRED_INPUT_FIELD_ADDED',
    ],
  ])('finds %s', (_what, part, changed, type) => {
    expect(committed).toMatch(part);
    expect(breaks(buildSchema(committed.replace(part, changed)))).toContainEqual(expect.stringContaining(`${type}: `) as unknown);
  });
});
