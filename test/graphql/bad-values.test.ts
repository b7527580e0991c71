import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const POSITION = "A Position is a decimal text such as '42'.";
const MOMENT = "A DateTime is a text such as '2030-01-31T00:00:00Z'.";
const CREATE = 'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename } }';
const asOf = (position: string) => `{ viewer { organization { asOf(position: ${position}) { name } } } }`;
const literal = (fields: string) =>
  `mutation { createApiKey(input: { organizationId: "x", name: "abc", type: SECRET, ${fields} }) { __typename } }`;

/** Each with what it is answered. */
const BAD: readonly (readonly [string, Readonly<Record<string, unknown>>, string])[] = [
  [`query ($after: Position) ${asOf('$after')}`, { after: '-1' }, `Variable "$after" has invalid value: ${POSITION}`],
  [`query ($after: Position) ${asOf('$after')}`, { after: 5 }, `Variable "$after" has invalid value: ${POSITION}`],
  [`query ($after: Position = "x") ${asOf('$after')}`, {}, `Variable "$after" has invalid default value: ${POSITION}`],
  [asOf('"yesterday"'), {}, `Argument "position" has invalid value: ${POSITION}`],
  [asOf('5'), {}, `Argument "position" has invalid value: ${POSITION}`],
  [
    '{ viewer { organization { usage(from: "yesterday", to: "2026-01-01T00:00:00Z") { totals { requests } } } } }',
    {},
    `Argument "from" has invalid value: ${MOMENT}`,
  ],
  [
    CREATE,
    { input: { organizationId: 'x', name: 'abc', type: 'SECRET', expiresAt: 'soon' } },
    `Variable "$input" has invalid value at .expiresAt: ${MOMENT}`,
  ],
  [
    'mutation ($input: ImportApiKeysInput!) { importApiKeys(input: $input) { __typename } }',
    {
      input: {
        organizationId: 'x',
        keys: [
          { name: 'abc', hash: 'h' },
          { name: 'abd', hash: 'i', expiresAt: 4 },
        ],
      },
    },
    `Variable "$input" has invalid value at .keys[1].expiresAt: ${MOMENT}`,
  ],
  [literal('expiresAt: "soon"'), {}, `Argument "input" has invalid value at .expiresAt: ${MOMENT}`],
  [
    'mutation { importApiKeys(input: { organizationId: "x", keys: [{ name: "abc", hash: "h" }, { name: "abd", hash: "i", expiresAt: 4 }] }) { __typename } }',
    {},
    `Argument "input" has invalid value at .keys[1].expiresAt: ${MOMENT}`,
  ],
  [
    literal('quotas: { daily: "many" }'),
    {},
    'Argument "input" has invalid value at .quotas.daily: Float cannot represent non numeric value: "many"',
  ],
  [
    'query ($first: Int) { viewer { organization { apiKeys(first: $first) { totalCount } } } }',
    { first: 'x' },
    'Variable "$first" has invalid value: Int cannot represent non-integer value: "x"',
  ],
];

describe('a value of the wrong kind', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql();
  });
  afterAll(() => server.close());

  it('is refused with the argument or variable that it was given for, down to its field, and with what would be right', async () => {
    for (const [query, variables, message] of BAD) {
      const { errors } = await server.query(query, variables);
      expect(errors).toMatchObject([{ message, extensions: { code: 'BAD_USER_INPUT' } }]);
    }
    expect(server.logLines).toEqual([]);
  });

  it('is so over a socket too', async () => {
    const client = server.socketClient();
    for (const [query, variables, message] of BAD) {
      const told = await new Promise((resolve, reject) => {
        client.subscribe(
          { query, variables },
          { next: ({ errors }) => resolve(errors), error: resolve, complete: () => reject(new Error('no answer')) },
        );
      });
      expect(told).toMatchObject([{ message, extensions: { code: 'BAD_USER_INPUT' } }]);
    }
  });

  it('is status 400 for clients that know the newer media type, and nothing of it is echoed that may be a secret', async () => {
    const secret = `sk_live_${'A'.repeat(65)}`;
    const query = `query ($${secret}: Position) ${asOf(`$${secret}`)}`;
    const response = await server.post({ query, variables: { [secret]: secret } }, server.ownerToken, {
      accept: 'application/graphql-response+json',
    });
    expect(response.status).toBe(400);
    const body = await response.text();
    expect(body).toContain('BAD_USER_INPUT');
    expect(body).not.toContain(secret);
  });
});
