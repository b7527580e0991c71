import { execute, parse, validate, type ExecutionResult } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { codeNumber } from '../../src/domain/usage.ts';
import { createContext } from '../../src/graphql/context.ts';
import type { GraphqlDependencies } from '../../src/graphql/dependencies.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { DEFAULT_LIMITS } from '../../src/graphql/limits.ts';
import { buildSchema } from '../../src/graphql/schema.ts';
import { createWrittenLists, type WrittenLists } from '../../src/graphql/written-lists.ts';
import { createFolder } from '../../src/projections/projection.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { appendUsage } from '../support/tenant.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** Midnight, three days ago: all of it lies within the minutes that are kept. */
const midnight = Math.floor(Date.now() / DAY) * DAY - 3 * DAY;
const iso = (offsetMs: number): string => new Date(midnight + offsetMs).toISOString();

const EVERYTHING = '__typename at requests failed refused cost tokensIn tokensOut';
const asking = (usage: string, more = '') =>
  `query Q($key: ID!, $organization: ID!, $from: DateTime!, $to: DateTime!, $granularity: UsageGranularity, $with: Boolean = true) {
     own: node(id: $organization) { __typename } node(id: $key) { id ... on ApiKey { name ${usage} } } ${more} }
   fragment Point on UsagePoint { at cost } fragment Of on Usage { series { ${EVERYTHING} } }`;
const USAGE = 'usage(from: $from, to: $to, granularity: $granularity)';
const UNUSED =
  '... on ApiKey @skip(if: true) { usage(from: $from, to: $to, granularity: $granularity) { ...Of series { ...Point at @include(if: $with) } } }';

/** With how many lists of each are written where nothing is wrong with the period. */
const DOCUMENTS: readonly (readonly [string, string, number])[] = [
  ['everything', `${USAGE} { series { ${EVERYTHING} } }`, 1],
  ['some fields', `${USAGE} { series { requests } lastUsedAt }`, 1],
  ['aliases', `u: ${USAGE} { s: series { __proto__: cost toJSON: requests _0: at c: cost } totals { requests } }`, 1],
  ['two series', `${USAGE} { a: series { at requests } b: series { cost at } }`, 2],
  ['within a fragment', `${USAGE} { ...Of }`, 1],
  ['a directive on the list', `${USAGE} { series @include(if: $with) { at cost } }`, 1],
  ['a list that is left out', `${USAGE} { lastUsedAt series @skip(if: $with) { at } }`, 0],
  ['a fragment of points', `${USAGE} { series { ...Point } }`, 0],
  ['a directive on a point', `${USAGE} { series { at requests @skip(if: $with) } }`, 0],
  ['a field twice', `${USAGE} { series { at at requests } }`, 0],
  ['a selection in two parts', `${USAGE} { series { at } series { requests } }`, 0],
];
const BESIDE: readonly (readonly [string, string])[] = [
  ['alone', ''],
  [
    'beside an organization',
    `o: node(id: $organization) { ... on Organization { usage(from: $from, to: $to, category: "red") { t: totals { cost } } } }`,
  ],
  [
    'beside an error',
    `bad: node(id: $organization) { ... on Organization { usage(from: $to, to: $from) { series { at } totals { requests } } } }`,
  ],
  [
    'beside a list in an error',
    `bad: node(id: $organization) { ... on Organization { usage(from: $from, to: $to) { series { at } } x: usage(from: $to, to: $from) { totals { requests } } } }`,
  ],
];
const PERIODS: readonly (readonly [string, string, string])[] = [
  [iso(0), iso(2 * DAY), 'HOUR'],
  [iso(10 * HOUR + 5 * MINUTE), iso(11 * HOUR + 30_000), 'MINUTE'],
  [iso(-365 * DAY + 7), iso(-7), 'DAY'],
  [iso(-40 * DAY), iso(3 * DAY), 'HOUR'],
  [iso(-360 * DAY), iso(3 * DAY), 'MINUTE'],
  [iso(DAY), iso(0), 'HOUR'],
];

let server: TestGraphql;
let ids: { readonly key: string; readonly organization: string };
const schema = buildSchema();

beforeAll(async () => {
  server = await openTestGraphql();
  const { ledger } = server;
  // A name with what would mean something where texts are put together.
  const { keyId } = await ledger.newKey({ category: 'red', name: '"$&":[$1] 0:0' });
  ids = { key: encodeGlobalId('ApiKey', keyId), organization: server.organizationId };
  const row = await ledger.db
    .selectFrom('api_keys')
    .select(['number', 'organization_id'])
    .where('id', '=', keyId)
    .executeTakeFirstOrThrow();
  const { number: key } = row;
  const organization = await ledger.db
    .selectFrom('organizations')
    .select('number')
    .where('id', '=', row.organization_id)
    .executeTakeFirstOrThrow();
  await appendUsage(ledger.db, organization.number, [
    { key, occurred_at: iso(10 * HOUR + 5 * MINUTE) },
    { key, occurred_at: iso(10 * HOUR + 6 * MINUTE), code: codeNumber('RATE_LIMITED'), credits: 0 },
    {
      key,
      kind: 2,
      occurred_at: iso(11 * HOUR),
      status: 503,
      cost_micros: '9007199254740993',
      tokens_in: '7',
      tokens_out: '9007199254740991',
      model: 'm',
    },
    { key, kind: 2, occurred_at: iso(DAY + 5), status: 200, cost_micros: '2' },
  ]);
  const fold = createFolder(USAGE_PROJECTION, 'live');
  for (let folded = await fold(ledger.db); folded !== null && folded.position < folded.head; folded = await fold(ledger.db));
});
afterAll(() => server.close());

async function run(
  document: string,
  variableValues: Readonly<Record<string, unknown>>,
  writtenLists: WrittenLists | null,
): Promise<ExecutionResult> {
  const parsed = parse(document);
  expect(validate(schema, parsed)).toEqual([]);
  const deps = { database: server.ledger.database } as GraphqlDependencies;
  const caller = {
    deps,
    limits: DEFAULT_LIMITS,
    actor: server.ledger.owner,
    authorization: undefined,
    session: null,
    disconnected: undefined,
  };
  return execute({ schema, document: parsed, contextValue: createContext({ ...caller, writtenLists }), variableValues });
}

describe.each(DOCUMENTS)('a series is written as it is by graphql-js: %s', (_name, usage, lists) => {
  it.each(BESIDE)('%s', async (_beside, more) => {
    const document = asking(`${usage} ${UNUSED}`, more);
    let compared = 0;
    for (const [from, to, granularity] of PERIODS) {
      const variables = { ...ids, from, to, granularity };
      const written = createWrittenLists();
      const result = await run(document, variables, written);
      const byGraphql = await run(document, variables, null);
      expect(inOrder(String(written.bodyOf(result, (made) => JSON.stringify(made))))).toBe(inOrder(JSON.stringify(byGraphql)));
      if (byGraphql.errors !== undefined || more !== '') continue;
      expect(written.size).toBe(lists);
      compared++;
    }
    if (more === '') expect(compared).toBeGreaterThanOrEqual(4);
  });

  it('over HTTP, where Yoga is the judge', async () => {
    for (const [from, to, granularity] of PERIODS) {
      for (const [, more] of BESIDE) {
        const body = { query: asking(`${usage} ${UNUSED}`, more), variables: { ...ids, from, to, granularity } };
        // Yoga does not look at the query of a POST, and only a bare path is plain.
        const [plain, whole] = [await server.post(body, server.ownerToken), await ask(`${server.url}?whole`, body)];
        expect(inOrder(await plain.text())).toBe(inOrder(await whole.text()));
        expect(plain.status).toBe(whole.status);
        expect(plain.headers.get('content-length')).toBe(whole.headers.get('content-length'));
      }
    }
  });
});

/** Of several fields that fail, which one is told first is a matter of chance. */
function inOrder(text: string): string {
  const { errors = [] } = JSON.parse(text) as { readonly errors?: readonly unknown[] };
  const sorted = errors.toSorted((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));
  return text.replace(JSON.stringify(errors), () => JSON.stringify(sorted));
}

function ask(url: string, body: unknown): Promise<Response> {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${server.ownerToken}` };
  return fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
}

it('a difference would be noticed', async () => {
  const document = asking(`${USAGE} { series { ${EVERYTHING} } } ${UNUSED}`);
  const variables = { ...ids, from: iso(0), to: iso(DAY), granularity: 'HOUR' };
  const byGraphql = JSON.stringify(await run(document, variables, null));
  const asWritten = (writtenLists: WrittenLists) =>
    run(document, variables, writtenLists).then((result) => String(writtenLists.bodyOf(result, JSON.stringify)));
  expect(await asWritten(createWrittenLists())).toBe(byGraphql);
  // One point less, two that changed places, and none put in the place of the list.
  const lists = createWrittenLists();
  expect(await asWritten({ ...lists, take: (items, context, info) => lists.take(items.slice(1), context, info) })).not.toBe(byGraphql);
  const turned = createWrittenLists();
  expect(await asWritten({ ...turned, take: (items, ...rest) => turned.take(items.toReversed(), ...rest) })).not.toBe(byGraphql);
  expect(await asWritten({ ...createWrittenLists(), bodyOf: (result) => JSON.stringify(result) })).not.toBe(byGraphql);
});

it.each([
  ['nothing', null],
  ['an error as a value', { at: new Error('no') }],
  ['a promise', { at: Promise.resolve(new Date(0)) }],
  ['a date that is none', { at: new Date(Number.NaN) }],
  ['no number', { at: new Date(0), requests: 'many' }],
])('a list with %s in it is left to graphql-js', async (_name, point) => {
  const written = createWrittenLists();
  let given: unknown;
  const spoiled: WrittenLists = {
    ...written,
    take: (items, context, info) => {
      given = written.take([...items, point as never], context, info);
      return [];
    },
  };
  await run(asking(`${USAGE} { series { at requests } } ${UNUSED}`), { ...ids, from: iso(0), to: iso(DAY), granularity: 'HOUR' }, spoiled);
  expect(given).toHaveLength(25);
  expect(written.size).toBe(0);
});
