import { describe, expect, it } from 'vitest';

import type { UsageItem } from '../../src/admission/admission.ts';
import { createPlainUsageItemReader } from '../../src/admission/plain-usage-item.ts';
import { createUsageItemSchema } from '../../src/admission/usage-input.ts';
import { seededRandom } from '../support/random.ts';

const NOW = new Date('2026-06-15T12:00:00.500Z');
const KEY = '019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f';
const PLAIN = { keyId: KEY, endpoint: 'POST /v1/chat', status: 200, durationMs: 12 };
const schema = createUsageItemSchema(() => NOW);

const AMOUNTS = [
  0,
  1,
  812,
  1e12,
  1e12 + 1,
  -1,
  -0,
  0.5,
  2 ** 53,
  Number.NaN,
  Infinity,
  '7',
  '',
  '1e3',
  '-1',
  '0x1',
  '1000000000001',
  true,
  [1],
  {},
];
/** Of each field what is plain, what is right in an unusual way, what lies just within and just beyond its bounds, and what is another thing altogether. */
const VALUES: Readonly<Record<keyof UsageItem, readonly unknown[]>> = {
  requestId: ['mine-1', 'req_17', 'x'.repeat(128), 'x'.repeat(129), '', 'a b', 'a\nb', 'a\n', 'ä', 7],
  keyId: [
    KEY,
    KEY.toUpperCase(),
    `${KEY} `,
    `${KEY}\n`,
    KEY.replace('-7', '-9'),
    KEY.replaceAll('-', ''),
    '00000000-0000-0000-0000-000000000000',
    'sk_live_x',
    7,
  ],
  at: [
    '2026-06-15T12:00:00Z',
    '2026-06-15T12:00:00.123Z',
    '2026-06-15T12:00:00.123456Z',
    '2026-06-15T14:00:00+02:00',
    '2026-06-15T12:05:00.500Z',
    '2026-06-15T12:05:00.501Z',
    '2026-05-16T12:00:00.500Z',
    '2026-05-16T12:00:00.499Z',
    '2026-06-31T12:00:00Z',
    '2026-06-15T24:00:00Z',
    '2026-06-15T12:00:60Z',
    '2026-06-15T12:00:00',
    '2026-06-15 12:00:00Z',
    '2026-06-15T12:00:00Z\n',
    '2026-06-15',
    'yesterday',
    NOW.getTime(),
    NOW,
  ],
  endpoint: [
    '',
    'GET /',
    'x'.repeat(256),
    'x'.repeat(257),
    'GET /ä',
    'GET /😀',
    '😀'.repeat(128),
    'a\u0000',
    'a\n',
    '\u007f',
    '\u0085',
    '\ud800',
    7,
    ['GET /'],
  ],
  status: [100, 599, 99, 600, 200.5, '200', Number.NaN],
  durationMs: [0, 86_400_000, 86_400_001, -1, 1.5, '1'],
  ip: [
    '203.0.113.7',
    '0.0.0.0',
    '255.255.255.255',
    '256.0.0.1',
    '1.2.3',
    '01.2.3.4',
    '1.2.3.4.5',
    '1.2.3.4\n',
    '0x7f.1',
    '2001:DB8:0::7',
    '::ffff:192.0.2.1',
    'localhost',
    '',
    7,
  ],
  credits: [0, 1, 1_000_000, 1_000_001, -1, 0.5, '1'],
  costMicros: AMOUNTS,
  tokensIn: AMOUNTS,
  tokensOut: AMOUNTS,
  model: ['', 'large-1', 'x'.repeat(128), 'x'.repeat(129), 'größe', 'a\tb', 7],
};
const FIELDS = Object.keys(VALUES) as (keyof UsageItem)[];

/** What a reader makes of a value that the schema makes something else of. */
function disagreement(
  read: (value: unknown) => UsageItem | null,
  value: unknown,
): { readonly value: unknown; readonly item: UsageItem } | null {
  const item = read(value);
  if (item === null) return null;
  const parsed = schema.safeParse(value);
  return parsed.success && JSON.stringify(fields(parsed.data)) === JSON.stringify(fields(item)) ? null : { value, item };
}

function fields(item: UsageItem): readonly unknown[] {
  return FIELDS.map((name) => [name, typeof item[name], String(item[name]), item[name] instanceof Date && item[name].getTime()]);
}

function* items(random: ReturnType<typeof seededRandom>): Generator<unknown> {
  for (const name of FIELDS) for (const value of [...VALUES[name], null, undefined]) yield { ...PLAIN, [name]: value };
  yield* [
    null,
    7,
    'text',
    [],
    [PLAIN],
    {},
    { ...PLAIN, tokens: 1 },
    JSON.parse(`{"__proto__": {"keyId": "${KEY}"}}`),
    { ...PLAIN, toString: 1 },
  ];
  const valueOf = (name: keyof UsageItem): unknown => {
    const values = VALUES[name] as [unknown, ...unknown[]];
    return random.chance(0.1) ? null : random.chance(0.75) ? values[0] : random.pick(values);
  };
  for (let count = 0; count < 20_000; count++)
    yield Object.fromEntries(FIELDS.filter(() => random.chance(0.9)).map((name) => [name, valueOf(name)]));
}

describe('an item that is written plainly', () => {
  const readPlain = createPlainUsageItemReader(() => NOW);

  it('is read as exactly what the schema makes of it, and all else is left to the schema', () => {
    const random = seededRandom();
    console.log(`plain items: TEST_SEED=${random.seed}`);
    const all = [...items(random)];
    expect(all.map((value) => disagreement(readPlain, value)).filter((found) => found !== null)).toEqual([]);
    expect(all.filter((value) => readPlain(value) !== null).length).toBeGreaterThan(200);
  });

  it('is read without the schema as gateways report it', () => {
    const reported = {
      ...PLAIN,
      at: '2026-06-15T11:59:59.250Z',
      requestId: 'req_17',
      ip: '203.0.113.7',
      credits: 2,
      costMicros: 36,
      tokensIn: 812,
      tokensOut: 96,
      model: 'large-1',
    };
    expect(readPlain(reported)).toEqual(schema.parse(reported));
  });

  it.each<[string, (value: unknown) => UsageItem | null]>([
    [
      'believes every status',
      (value) =>
        readPlain({ ...(value as object), status: 200 }) &&
        ({ ...readPlain({ ...(value as object), status: 200 }), status: (value as UsageItem).status } as UsageItem),
    ],
    [
      'passes over a field that is not known',
      (value) => {
        const { tokens: _, ...known } = value as Record<string, unknown>;
        return readPlain(known);
      },
    ],
    ['has another clock', createPlainUsageItemReader(() => new Date(NOW.getTime() + 1))],
  ])('(control) a reader that %s is found out', (_what, reader) => {
    const found = [...items(seededRandom())].some(
      (value) => typeof value === 'object' && value !== null && !Array.isArray(value) && disagreement(reader, value) !== null,
    );
    expect(found).toBe(true);
  });
});
