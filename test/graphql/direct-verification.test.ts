import { execute, Kind, parse, validate, type ExecutionResult, type OperationDefinitionNode } from 'graphql';
import { describe, expect, it } from 'vitest';

import { AdmissionUnavailableError, type Admission, type CallerRefused, type VerifyAnswer } from '../../src/admission/admission.ts';
import { createContext, type GraphqlContext } from '../../src/graphql/context.ts';
import type { GraphqlDependencies } from '../../src/graphql/dependencies.ts';
import { directVerification } from '../../src/graphql/direct-verification.ts';
import { DEFAULT_LIMITS } from '../../src/graphql/limits.ts';
import { buildSchema } from '../../src/graphql/schema.ts';
import { uncheckedToken } from '../../src/graphql/unchecked-token.ts';

const schema = buildSchema();

const ANSWER: VerifyAnswer = {
  kind: 'answer',
  code: 'VALID',
  message: null,
  httpStatus: 200,
  requestId: 'req_7',
  position: 7n,
  key: {
    id: '0b7e7a5c-0000-4000-8000-000000000000',
    name: 'a key',
    type: 'SECRET',
    category: 'production',
    permissions: ['read:a', 'read:b'],
    metadata: { team: ['red', null, { size: 3 }] },
    expiresAt: new Date('2031-01-01T00:00:00Z'),
    profile: { name: 'default', settings: { a: 1 } },
    organizationId: '1b7e7a5c-0000-4000-8000-000000000000',
    ownerId: null,
    outdatedSecret: false,
  },
  rateLimit: { limit: 60, remaining: 59, resetEpochSeconds: 1_900_000_000 },
  quotas: [
    { window: 'DAILY', limit: 100, remaining: 5_000_000_000 },
    { window: 'TOTAL', limit: 1, remaining: 0 },
  ],
  refusedBy: null,
  keyId: '0b7e7a5c-0000-4000-8000-000000000000',
};
const REFUSED: VerifyAnswer = {
  ...ANSWER,
  code: 'QUOTA_EXCEEDED',
  message: 'The daily quota is used up.',
  httpStatus: 429,
  key: null,
  rateLimit: null,
  quotas: [],
  refusedBy: { quota: 'daily', retryAfterSeconds: 60 },
};

const KEY =
  'key { id keyId name type category permissions metadata expiresAt profileName profileSettings organizationId ownerId outdatedSecret __typename }';
const EVERYTHING = `__typename position valid code message httpStatus requestId keyId ${KEY} rateLimit { limit remaining resetAt } quotas { window limit remaining } quota limit retryAfter`;
const asking = (selection: string, field = 'verifyApiKey(input: $input)', input = '$input: VerifyApiKeyInput!') =>
  `mutation V(${input}) { ${field} { ${selection} } }`;

/** The one context of an operation, and how often admission was asked in it. */
function contextWith(verify: Admission['verify']): { readonly context: GraphqlContext; readonly asked: () => number } {
  let asked = 0;
  // Admission is all that a verification needs.
  const admission = {
    verify: (...question: Parameters<Admission['verify']>) => {
      asked++;
      return verify(...question);
    },
  } as Admission;
  const deps = { admission } as GraphqlDependencies;
  const caller = { deps, limits: DEFAULT_LIMITS, actor: null, authorization: 'Bearer klat_x', session: null, disconnected: undefined };
  return { context: createContext({ ...caller, unchecked: uncheckedToken(admission, caller.authorization) }), asked: () => asked };
}

function directOf(document: string, limits = DEFAULT_LIMITS) {
  const parsed = parse(document);
  expect(validate(schema, parsed)).toEqual([]);
  const operation = parsed.definitions.find(
    (definition): definition is OperationDefinitionNode => definition.kind === Kind.OPERATION_DEFINITION,
  );
  if (operation === undefined) throw new Error('the document has no operation');
  const run = (context: GraphqlContext, variableValues: Readonly<Record<string, unknown>>) =>
    execute({ schema, document: parsed, contextValue: context, variableValues });
  return { direct: directVerification(schema, operation, limits), run };
}

const text = (result: ExecutionResult | null) => JSON.stringify(result);

describe('verifyApiKey and nothing else', () => {
  it.each([
    ['everything', asking(EVERYTHING)],
    ['some of it', asking('valid code position')],
    ['aliases', asking('ok: valid code k: key { name n: name } key { id }', 'v: verifyApiKey(input: $input)')],
    ['a variable within the input', asking(EVERYTHING, 'verifyApiKey(input: { key: $key, cost: 0, environment: LIVE })', '$key: String!')],
    ['a default', asking('code', undefined, '$input: VerifyApiKeyInput! = { key: "sk_live_default" }')],
  ])('is answered as graphql-js answers it: %s', async (_name, document) => {
    const { direct, run } = directOf(document);
    let compared = 0;
    for (const answer of [ANSWER, REFUSED]) {
      for (const variables of [{ input: { key: 'x', ip: '203.0.113.7', environment: 'LIVE' }, key: 'y' }, { key: 'y' }]) {
        const questions: unknown[] = [];
        const { context } = contextWith(async (_caller, request) => {
          questions.push(request);
          return answer;
        });
        const again = contextWith(context.deps.admission.verify);
        const byGraphql = await run(again.context, variables);
        const told = (await direct?.(variables, context)) ?? null;
        if (byGraphql.errors === undefined) compared++;
        expect(text(told)).toBe(byGraphql.errors === undefined ? text(byGraphql) : 'null');
        expect(questions[0]).toEqual(questions[1]);
      }
    }
    expect(compared).toBeGreaterThanOrEqual(2);
  });

  const broken = (change: object): VerifyAnswer => ({ ...ANSWER, ...change });
  const failing: readonly (readonly [string, object | undefined, () => Promise<VerifyAnswer | CallerRefused>, number])[] = [
    ['a variable that is missing', undefined, async () => ANSWER, 0],
    ['a variable of the wrong type', { input: { key: 5 } }, async () => ANSWER, 0],
    ['a field that the input does not have', { input: { key: 'x', more: 1 } }, async () => ANSWER, 0],
    ['input that is refused', { input: { key: 'x', cost: -1 } }, async () => ANSWER, 0],
    ['a token that is refused', { input: { key: 'x' } }, async () => ({ kind: 'unauthenticated' }), 1],
    [
      'a database that is gone',
      { input: { key: 'x' } },
      () => Promise.reject(new AdmissionUnavailableError('gone', { retryAfterSeconds: 1 })),
      1,
    ],
    ['null where there is none', { input: { key: 'x' } }, async () => broken({ requestId: null }), 1],
    ['null in a list', { input: { key: 'x' } }, async () => broken({ key: { ...ANSWER.key, permissions: [null] } }), 1],
    ['a code that is none', { input: { key: 'x' } }, async () => broken({ code: 'PERHAPS' }), 1],
    ['a number beyond Int', { input: { key: 'x' } }, async () => broken({ httpStatus: 2 ** 40 }), 1],
    ['an error as a value', { input: { key: 'x' } }, async () => broken({ key: { ...ANSWER.key, metadata: new Error('no') } }), 1],
    ['null for a quota', { input: { key: 'x' } }, async () => broken({ quotas: [null] }), 1],
  ];
  it.each(failing)('leaves %s to graphql-js, and asks once', async (name, variables, verify, times) => {
    const { direct, run } = directOf(asking(EVERYTHING));
    const { context, asked } = contextWith(verify);
    expect(await direct?.(variables as Readonly<Record<string, unknown>> | undefined, context)).toBeNull();
    const { errors } = await run(context, { ...variables });
    expect(errors?.length).toBeGreaterThan(0);
    expect(asked()).toBe(times);
    expect(context.unchecked?.mayHaveRecorded()).toBe(times === 1 && name !== 'a token that is refused');
  });
});

it.each([
  ['a directive on the field', 'mutation ($i: VerifyApiKeyInput!) { verifyApiKey(input: $i) @skip(if: false) { valid } }'],
  ['a directive below', asking('valid code @include(if: true)')],
  ['a fragment', `${asking('...P')} fragment P on VerifyApiKeyPayload { valid }`],
  ['an inline fragment', asking('... on VerifyApiKeyPayload { valid }')],
  ['a field twice', asking('key { id } key { name }')],
  ['two verifications', 'mutation ($i: VerifyApiKeyInput!) { a: verifyApiKey(input: $i) { valid } b: verifyApiKey(input: $i) { valid } }'],
  ['another field beside', 'mutation ($i: VerifyApiKeyInput!) { __typename verifyApiKey(input: $i) { valid } }'],
  ['another mutation', 'mutation ($i: RecordUsageInput!) { recordUsage(input: $i) { __typename } }'],
  ['a query', '{ viewer { role } }'],
])('%s is for the executor', (_name, document) => {
  expect(directOf(document).direct).toBeNull();
});

it('a selection beyond the limits is for the executor, which refuses it', async () => {
  const document = asking('valid code key { id }');
  const { run } = directOf(document);
  for (const [limits, within] of [
    [{ maxComplexity: 5 }, true],
    [{ maxComplexity: 4 }, false],
    [{ maxDepth: 3 }, true],
    [{ maxDepth: 2 }, false],
  ] as const) {
    expect(directOf(document, { ...DEFAULT_LIMITS, ...limits }).direct !== null).toBe(within);
    const { context } = contextWith(async () => ANSWER);
    const limited = { ...context, limits: { ...DEFAULT_LIMITS, ...limits } };
    expect((await run(limited, { input: { key: 'x' } })).errors?.[0]?.extensions['code']).toBe(within ? undefined : 'QUERY_TOO_COMPLEX');
  }
});
