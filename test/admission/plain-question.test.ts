import { describe, expect, it } from 'vitest';

import type { VerifyRequest } from '../../src/admission/admission.ts';
import { readPlainQuestion } from '../../src/admission/plain-question.ts';
import { verifyInputSchema } from '../../src/admission/verify-input.ts';
import { seededRandom } from '../support/random.ts';

const KEY = `sk_live_${'a'.repeat(65)}`;

/** Of each field what is plain, what is right in an unusual way, what lies just within and just beyond its bounds, and what is another thing altogether. */
const VALUES: Readonly<Record<keyof VerifyRequest, readonly unknown[]>> = {
  key: [KEY, '', 'x'.repeat(512), 'x'.repeat(513), 'ключ', '\u0000', '\ud800', 7, [KEY]],
  permissions: [
    ['read:a'],
    [],
    ['read:a', 'write:*'],
    ['a'.repeat(100)],
    ['a'.repeat(101)],
    [''],
    ['a b'],
    ['a\n'],
    Array(100).fill('a'),
    Array(101).fill('a'),
    [7],
    'read:a',
    {},
  ],
  cost: [1, 0, 1_000_000, 1_000_001, -1, -0, 0.5, '1', Number.NaN, true],
  endpoint: ['GET /v1/models', '', 'x'.repeat(256), 'x'.repeat(257), 'GET /ä', '😀'.repeat(128), 'a\n', '\u007f', '\u0085', '\ud800', 7],
  ip: [
    '203.0.113.7',
    '0.0.0.0',
    '256.0.0.1',
    '01.2.3.4',
    '1.2.3',
    '1.2.3.4\n',
    '0x7f.1',
    '2001:DB8:0::7',
    '::ffff:192.0.2.1',
    'localhost',
    '',
    7,
  ],
  origin: ['https://a.example', '', 'x'.repeat(512), 'x'.repeat(513), 'https://ä.example', 'a\t', 7],
  environment: ['live', 'test', 'Live', '', 7],
  requestId: ['mine-1', 'x'.repeat(128), 'x'.repeat(129), '', 'a b', 'a\n', 'ä', 'req_17', 'req_x', `req_${'9'.repeat(20)}`, 7],
};
const FIELDS = Object.keys(VALUES) as (keyof VerifyRequest)[];

type Reader = (value: unknown) => VerifyRequest | null;

/** What a reader makes of a value that the schema makes something else of. */
function disagreement(read: Reader, value: unknown): { readonly value: unknown; readonly question: VerifyRequest } | null {
  const question = read(value);
  if (question === null) return null;
  const parsed = verifyInputSchema.safeParse(value);
  const fields = (of: VerifyRequest) => JSON.stringify(FIELDS.map((name) => [name, typeof of[name], of[name], Object.is(of[name], -0)]));
  return parsed.success && fields(parsed.data) === fields(question) ? null : { value, question };
}

function* questions(random: ReturnType<typeof seededRandom>): Generator<unknown> {
  for (const name of FIELDS) for (const value of [...VALUES[name], null, undefined]) yield { key: KEY, [name]: value };
  yield* [
    null,
    7,
    'text',
    [],
    [{ key: KEY }],
    {},
    { key: KEY, tokens: 1 },
    JSON.parse(`{"__proto__": {"key": "${KEY}"}}`),
    { key: KEY, toString: 1 },
  ];
  const valueOf = (name: keyof VerifyRequest): unknown => {
    const values = VALUES[name] as [unknown, ...unknown[]];
    return random.chance(0.1) ? null : random.chance(0.75) ? values[0] : random.pick(values);
  };
  for (let count = 0; count < 20_000; count++)
    yield Object.fromEntries(FIELDS.filter(() => random.chance(0.9)).map((name) => [name, valueOf(name)]));
}

describe('a question that is written plainly', () => {
  it('is read as exactly what the schema makes of it, and all else is left to the schema', () => {
    const random = seededRandom();
    console.log(`plain questions: TEST_SEED=${random.seed}`);
    const all = [...questions(random)];
    expect(all.map((value) => disagreement(readPlainQuestion, value)).filter((found) => found !== null)).toEqual([]);
    expect(all.filter((value) => readPlainQuestion(value) !== null).length).toBeGreaterThan(200);
  });

  it('is read without the schema as gateways ask it', () => {
    const asked = {
      key: KEY,
      permissions: ['read:models'],
      cost: 2,
      endpoint: 'GET /v1/models',
      ip: '203.0.113.7',
      environment: 'live',
      requestId: 'mine-1',
    };
    expect(readPlainQuestion(asked)).toEqual(verifyInputSchema.parse(asked));
  });

  it.each<[string, Reader]>([
    [
      'believes every cost',
      (value) =>
        readPlainQuestion({ ...(value as object), cost: 1 }) && {
          ...readPlainQuestion({ ...(value as object), cost: 1 })!,
          cost: (value as VerifyRequest).cost,
        },
    ],
    [
      'passes over a field that is not known',
      (value) => {
        const { tokens: _, ...known } = value as Record<string, unknown>;
        return readPlainQuestion(known);
      },
    ],
  ])('(control) a reader that %s is found out', (_what, reader) => {
    const found = [...questions(seededRandom())].some(
      (value) => typeof value === 'object' && value !== null && !Array.isArray(value) && disagreement(reader, value) !== null,
    );
    expect(found).toBe(true);
  });
});
