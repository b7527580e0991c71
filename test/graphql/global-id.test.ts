import { describe, expect, it } from 'vitest';

import { streamOf } from '../../src/domain/event.ts';
import { decodeGlobalId, encodeGlobalId, idOf, NODE_TYPES, streamOfSubject, subjectOfStream } from '../../src/graphql/global-id.ts';
import { decimalOfMicros } from '../../src/graphql/usage.ts';

const uuid = '0199b2a4-6f0e-7c3a-9d5e-2f1c8b7a6d54';

describe('a global id', () => {
  it('says what it was made of', () => {
    const ids = {
      ApiKey: uuid,
      Organization: uuid,
      Member: `${uuid}:${uuid}`,
      AccessToken: uuid,
      Profile: uuid,
      LedgerEvent: '42',
      Alert: uuid,
      AlertRule: uuid,
      WebhookEndpoint: uuid,
      WebhookDelivery: uuid,
    };
    for (const type of NODE_TYPES) expect(decodeGlobalId(encodeGlobalId(type, ids[type]))).toEqual({ type, id: ids[type] });
  });

  it('is refused in any form that this server would not have made', () => {
    const good = encodeGlobalId('ApiKey', uuid);
    const bad = [
      '',
      'x',
      good.slice(0, -2),
      `${good} `,
      ` ${good}`,
      good.toLowerCase(),
      Buffer.from(`ApiKey:${uuid.toUpperCase()}`).toString('base64'),
    ];
    const made = [
      'ApiKey',
      'ApiKey:',
      `ApiKey:${uuid}:1`,
      `Nothing:${uuid}`,
      `Member:${uuid}`,
      'LedgerEvent:-1',
      'LedgerEvent:01',
      `LedgerEvent:${'9'.repeat(19)}`,
      `toString:${uuid}`,
    ];
    for (const text of [...bad, ...made.map((id) => Buffer.from(id).toString('base64'))]) expect(decodeGlobalId(text)).toBeNull();
  });

  it('stands for each kind of stream that the log has, and leads back to it', () => {
    for (const name of Object.values(streamOf)) expect(streamOfSubject(subjectOfStream(name(uuid)))).toBe(name(uuid));
    expect(() => subjectOfStream(`nothing:${uuid}`)).toThrow("'nothing:…'");
    expect(streamOfSubject(encodeGlobalId('LedgerEvent', '42'))).toBeNull();
  });

  it('of another type is none', () => {
    expect(idOf('Organization', encodeGlobalId('ApiKey', uuid))).toBeNull();
  });
});

describe('money', () => {
  it('is an exact decimal text', () => {
    expect([0n, 1n, 1_500_000n, -1n, 123_456_789_012_345_678n].map(decimalOfMicros)).toEqual([
      '0.000000',
      '0.000001',
      '1.500000',
      '-0.000001',
      '123456789012.345678',
    ]);
    expect([0, 1, 1_500_000, -1, Number.MAX_SAFE_INTEGER].map(decimalOfMicros)).toEqual([
      '0.000000',
      '0.000001',
      '1.500000',
      '-0.000001',
      '9007199254.740991',
    ]);
  });
});
