import { afterAll, beforeAll, expect, it } from 'vitest';

import { at } from './at.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

let server: TestGraphql;
beforeAll(async () => {
  server = await openTestGraphql();
});
afterAll(() => server.close());

const NUL = 'a\u0000b';

it.each([
  ['filter.category', 'apiKeys(filter: { category: $text }) { totalCount }'],
  ['filter.search', 'apiKeys(filter: { search: $text }) { totalCount }'],
  ['filter.endpoint', 'requestLog(filter: { endpoint: $text }) { edges { cursor } }'],
  ['category', 'usage(category: $text, from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z") { totals { requests } }'],
])('a NUL in %s of a query is refused and named', async (field, selection) => {
  const { errors } = await server.query(`query ($text: String) { viewer { organization { ${selection} } } }`, { text: NUL });
  expect(errors).toMatchObject([{ message: `'${field}' must not contain a NUL character.`, extensions: { code: 'BAD_USER_INPUT' } }]);
});

it.each([
  ['createAlertRule', 'category', { kind: 'UNUSED_KEY', days: [3], category: NUL }],
  ['createAlertRule', 'category', { kind: 'UNUSED_KEY', days: [3], category: 'a\ud800b' }],
  ['addMember', 'oidcSubject', { role: 'MEMBER', oidcSubject: NUL }],
  ['createProfile', 'settings', { name: 'With a NUL', settings: { a: { [NUL]: 1 } } }],
  ['createApiKey', 'metadata', { name: 'With a NUL', type: 'SECRET', metadata: { a: NUL } }],
])('%s refuses a text in %s that the database can not hold', async (mutation, field, input) => {
  const type = `${mutation.charAt(0).toUpperCase()}${mutation.slice(1)}Input!`;
  const document = `mutation ($input: ${type}) { ${mutation}(input: $input) { __typename ... on InvalidInput { code field } } }`;
  const { data, errors } = await server.query(document, { input: { organizationId: server.organizationId, ...input } });
  expect(errors).toEqual([]);
  expect(at(data, mutation)).toEqual({ __typename: 'InvalidInput', code: 'INVALID_INPUT', field });
});
