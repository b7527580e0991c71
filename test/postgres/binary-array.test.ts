import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';

import {
  arrayOf,
  arrayPart,
  binaryArray,
  INET,
  INT2,
  INT4,
  INT8,
  TEXT,
  TIMESTAMPTZ,
  UUID,
  type ArrayPart,
  type BinaryType,
} from '../../src/postgres/binary-array.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let client: pg.Client;
beforeAll(async () => {
  database = await createTestDatabase();
  client = new pg.Client({ connectionString: database.serverUrl.reveal() });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

const read = async (type: string, ...parts: readonly ArrayPart[]): Promise<unknown> =>
  (await client.query<{ read: unknown }>(`SELECT ($1::${type}[])::text AS read`, [binaryArray(parts)])).rows[0]?.read;

const partOf = <Value>(type: BinaryType<Value>, values: readonly (Value | null)[]): ArrayPart => arrayPart(type, values, (value) => value);

it.each<[string, readonly ArrayPart[], string]>([
  ['smallint', [partOf(INT2, [-32_768, null, 32_767])], '{-32768,NULL,32767}'],
  ['integer', [partOf(INT4, [-2_147_483_648, 2_147_483_647])], '{-2147483648,2147483647}'],
  ['bigint', [partOf(INT8, [-(2n ** 63n), 2n ** 63n - 1n, 0n])], '{-9223372036854775808,9223372036854775807,0}'],
  [
    'timestamptz',
    [partOf(TIMESTAMPTZ, [new Date('1999-12-31T23:59:59.999Z'), null, new Date('2026-06-15T12:00:00.123Z')])],
    '{"1999-12-31 23:59:59.999+00",NULL,"2026-06-15 12:00:00.123+00"}',
  ],
  ['uuid', [partOf(UUID, ['019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f'])], '{019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f}'],
  ['inet', [partOf(INET, ['203.0.113.7', '0.0.0.0', null, '2001:db8::7', '::'])], '{203.0.113.7,0.0.0.0,NULL,2001:db8::7,::}'],
  ['text', [partOf(TEXT, ['', 'GET /ä 😀', null, 'NULL', '{"a,b"}'])], String.raw`{"","GET /ä 😀",NULL,"NULL","{\"a,b\"}"}`],
])('an array of %s reaches Postgres as it is', async (type, parts, expected) => {
  await client.query("SET timezone = 'UTC'");
  expect(await read(type, ...parts)).toBe(expected);
});

it('the parts of an array follow each other', async () => {
  expect(await read('integer', partOf(INT4, [1, 2]), partOf(INT4, [null]), partOf(INT4, []), partOf(INT4, [3]))).toBe('{1,2,NULL,3}');
});

it.each([[[]], [[null, null]]])('an array without any value is NULL: %j', async (values) => {
  expect(await read('integer', partOf(INT4, values))).toBeNull();
});

it.each([[[]], [[null, null]], [[7]], [[1, null, -2]]])('an array of one part is the same made whole: %j', (values) => {
  expect(arrayOf(INT4, values, (value) => value)).toEqual(binaryArray([partOf<number>(INT4, values)]));
});
