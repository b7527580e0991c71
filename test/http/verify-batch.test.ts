import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { verifyAnswerSchema } from '../../src/http/answer-schemas.ts';
import { MAX_VERIFY_BATCH, MAX_VERIFY_BATCH_BYTES } from '../../src/http/verify-batch.ts';
import { textMatching } from '../support/matching.ts';
import { openDataPlane, type Answer, type DataPlane } from './data-plane.ts';

let plane: DataPlane;
let token: string;

beforeAll(async () => {
  plane = await openDataPlane();
  token = (await plane.newToken(['keys:verify'])).secret;
});
afterAll(() => plane.close());

type Told = { readonly code?: string; readonly error?: { readonly code: string } } & Readonly<Record<string, unknown>>;

function batch(requests: unknown, given: string = token): Promise<Answer> {
  return plane.post('/v1/verify/batch', { requests }, { token: given });
}

async function answers(requests: readonly unknown[]): Promise<readonly Told[]> {
  const { status, body } = await batch(requests);
  expect({ status, fields: Object.keys(body) }).toEqual({ status: 200, fields: ['answers'] });
  return body['answers'] as readonly Told[];
}

async function left(secret: string): Promise<unknown> {
  const [answer] = await answers([{ key: secret, cost: 0 }]);
  return answer?.['quotas'];
}

async function recordedRequests(keyId: string): Promise<number> {
  const { count } = await plane.ledger.db
    .selectFrom('usage_events as u')
    .innerJoin('api_keys as k', 'k.number', 'u.key')
    .select((select) => select.fn.countAll<bigint>().as('count'))
    .where('k.id', '=', keyId)
    .executeTakeFirstOrThrow();
  return Number(count);
}

describe('POST /v1/verify/batch', () => {
  it('answers each question in its place, as /v1/verify would', async () => {
    const keys = await Promise.all(Array.from({ length: 4 }, (_, index) => plane.ledger.newKey({ permissions: [`read:${index}`] })));
    const [a, b, c, d] = keys;
    const told = await answers([
      { key: c?.secret, permissions: ['read:2'] },
      { key: 'sk_live_nonsense' },
      { key: a?.secret },
      { key: b?.secret, permissions: ['read:0'] },
      { key: d?.secret, environment: 'test' },
      { key: d?.secret, endpoint: 'GET /x', ip: '203.0.113.7' },
    ]);
    expect(told.map(({ code }) => code)).toEqual(['VALID', 'INVALID_KEY', 'VALID', 'PERMISSION_DENIED', 'WRONG_ENVIRONMENT', 'VALID']);
    expect(told.map(({ key }) => (key as { id: string } | null)?.id)).toEqual([
      c?.keyId,
      undefined,
      a?.keyId,
      undefined,
      undefined,
      d?.keyId,
    ]);
    for (const answer of told) expect(verifyAnswerSchema.safeParse(answer).error).toBeUndefined();
  });

  it('keeps the order over 1,000 questions, the most that it takes', async () => {
    const keys = await Promise.all(Array.from({ length: 5 }, () => plane.ledger.newKey()));
    const questions = Array.from({ length: MAX_VERIFY_BATCH }, (_, index) => keys[(index * 7) % keys.length]);
    const told = await answers(questions.map((made) => ({ key: made?.secret })));
    expect(told.map(({ key }) => (key as { id: string } | null)?.id)).toEqual(questions.map((made) => made?.keyId));
    expect(new Set(told.map(({ requestId }) => requestId)).size).toBe(MAX_VERIFY_BATCH);
    expect(new Set(told.map(({ position }) => position)).size).toBe(MAX_VERIFY_BATCH);
  });

  it('charges a key that is asked about many times exactly, and never above its quota', async () => {
    const { keyId, secret } = await plane.ledger.newKey({ quotas: { total: 100, daily: 1000 } });
    const [first, second] = await Promise.all([
      answers(Array.from({ length: 80 }, () => ({ key: secret }))),
      answers(Array.from({ length: 80 }, () => ({ key: secret }))),
    ]);
    const codes = [...first, ...second].map(({ code }) => code);
    expect(codes.filter((code) => code === 'VALID')).toHaveLength(100);
    expect(codes.filter((code) => code === 'QUOTA_EXCEEDED')).toHaveLength(60);
    // A refused one consumes nothing, of the other quota neither.
    expect(await left(secret)).toMatchObject([
      { window: 'TOTAL', remaining: 0 },
      { window: 'DAILY', remaining: 900 },
    ]);
    expect(await recordedRequests(keyId)).toBe(160);
  });

  it('charges each question its own cost, and refuses none that would have fitted', async () => {
    const { secret } = await plane.ledger.newKey({ quotas: { total: 10 } });
    const costs = [6, 5, 4, 1];
    const told = await answers(costs.map((cost) => ({ key: secret, cost })));
    const charged = costs.filter((_, index) => told[index]?.code === 'VALID').reduce((sum, cost) => sum + cost, 0);
    expect(await left(secret)).toMatchObject([{ remaining: 10 - charged }]);
    const refused = costs.filter((_, index) => told[index]?.code === 'QUOTA_EXCEEDED');
    expect(refused.length).toBeGreaterThan(0);
    expect(Math.min(...refused)).toBeGreaterThan(10 - charged);
  });

  it('takes a request id that it has twice as one request', async () => {
    const { secret } = await plane.ledger.newKey({ quotas: { total: 10 } });
    const question = { key: secret, requestId: 'batch-twice' };
    const [first, second] = await answers([question, question]);
    expect(second).toEqual(first);
    expect((await plane.post('/v1/verify', question, { token })).body).toEqual(first);
    expect(await left(secret)).toMatchObject([{ remaining: 9 }]);
  });

  it('tells in its place of a request id that is taken by reported usage, and decides the others', async () => {
    const reporter = await plane.newToken(['usage:write']);
    const { keyId, secret } = await plane.ledger.newKey();
    await plane.post(
      '/v1/usage',
      { requestId: 'batch-taken', keyId, endpoint: 'GET /', status: 200, durationMs: 1 },
      { token: reporter.secret },
    );
    const told = await answers([{ key: secret }, { key: secret, requestId: 'batch-taken' }, { key: secret }]);
    expect(told.map(({ code, error }) => code ?? error?.code)).toEqual(['VALID', 'REQUEST_ID_TAKEN', 'VALID']);
    expect(told[1]).toEqual({ error: { code: 'REQUEST_ID_TAKEN', message: textMatching(/\.$/) } });
  });

  it('counts each answer in the metrics', async () => {
    const count = async () =>
      Number(/^keyledger_verifications_total\{code="INVALID_KEY"\} (\d+)$/m.exec((await plane.ask('/metrics')).text)?.[1]);
    const before = await count();
    await answers([{ key: 'a' }, { key: 'b' }, { key: 'c' }]);
    expect((await count()) - before).toBe(3);
  });
});

describe('a malformed batch', () => {
  it('is refused whole for one malformed question, which it names, and nothing is decided or charged', async () => {
    const { keyId, secret } = await plane.ledger.newKey({ quotas: { total: 10 } });
    const good = { key: secret };
    const { status, body } = await batch([good, good, good, { key: secret, cost: -1 }, good]);
    expect({ status, body }).toEqual({
      status: 400,
      body: { error: { code: 'BAD_USER_INPUT', message: textMatching(/Nothing was decided\.$/), field: 'requests.3.cost' } },
    });
    expect(await left(secret)).toMatchObject([{ remaining: 10 }]);
    expect(await recordedRequests(keyId)).toBe(0);
  });

  it.each<[string, unknown, RegExp]>([
    ['no JSON', '{"requests": [{"key": "sk_live_CANARY"}', /is no JSON/],
    ['an array', [{ key: 'sk_live_CANARY' }], /./],
    ['no questions', {}, /give 'requests', a list of questions/],
    ['an empty list', { requests: [] }, /one question at least/],
    [
      'too many questions',
      { requests: Array.from({ length: MAX_VERIFY_BATCH + 1 }, () => ({ key: 'sk_live_CANARY' })) },
      /1000 questions at most/,
    ],
    ['a field that is not known', { requests: [{ key: 'sk_live_CANARY' }], atomic: true }, /./],
    ['a question that is none', { requests: [{ key: 'sk_live_CANARY' }, 'sk_live_CANARY'] }, /./],
    ['a question with a field that is not known', { requests: [{ key: 'sk_live_CANARY', permission: 'x' }] }, /"permission" is no field/],
  ])('with %s is refused, and none of its values come back', async (_what, body, message) => {
    const answer = await plane.post('/v1/verify/batch', body, { token });
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'BAD_USER_INPUT', message: textMatching(message) } } });
    expect(answer.text).not.toContain('CANARY');
  });

  it('of more than a mebibyte is refused, and one of exactly that is taken', async () => {
    const bare = JSON.stringify({ requests: [{ key: 'x' }] });
    const padded = bare + ' '.repeat(MAX_VERIFY_BATCH_BYTES - bare.length);
    expect((await plane.post('/v1/verify/batch', padded, { token })).status).toBe(200);
    expect((await plane.post('/v1/verify/batch', `${padded} `, { token })).status).toBe(413);
  });

  it('of another type is refused', async () => {
    expect((await plane.post('/v1/verify/batch', '{}', { token, type: 'text/plain' })).status).toBe(415);
  });
});

describe('a caller of batches', () => {
  it('without credentials, or with a token that is not known, is refused', async () => {
    expect((await plane.post('/v1/verify/batch', { requests: [{ key: 'x' }] })).status).toBe(401);
    expect(await batch([{ key: 'x' }], 'klat_unknown')).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHENTICATED' } } });
  });

  it('without keys:verify is forbidden to ask', async () => {
    const { secret } = await plane.newToken(['usage:write']);
    expect(await batch([{ key: 'x' }], secret)).toMatchObject({
      status: 403,
      body: { error: { code: 'FORBIDDEN', message: textMatching("'keys:verify'") } },
    });
  });

  it('finds no key of another organization', async () => {
    const other = await plane.ledger.newOrganization('Other');
    const mine = await plane.ledger.newKey();
    const theirs = await plane.ledger.newKey({}, other.owner);
    expect((await answers([{ key: theirs.secret }, { key: mine.secret }])).map(({ code }) => code)).toEqual(['INVALID_KEY', 'VALID']);
  });
});
