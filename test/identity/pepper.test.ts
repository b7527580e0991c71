import { createHmac, randomBytes } from 'node:crypto';
import { inspect } from 'node:util';

import { describe, expect, it } from 'vitest';

import { createPeppers, fastVerifier, sameMac } from '../../src/identity/pepper.ts';

describe('peppers', () => {
  it('are read with any known id and written with the first', () => {
    const [one, two] = [randomBytes(32), randomBytes(64)];
    const peppers = createPeppers([
      { id: '2026-02', key: two },
      { id: '2026-01', key: one },
    ]);
    expect(peppers.current.id).toBe('2026-02');
    const old = peppers.get('2026-01');
    expect(old && fastVerifier(old, 'secret')).toEqual(createHmac('sha256', one).update('secret').digest('hex'));
    expect(peppers.get('2025-12')).toBeUndefined();
    expect(peppers.get('__proto__')).toBeUndefined();
  });

  it('are refused when none, weak, nameless or named twice', () => {
    const key = randomBytes(32);
    expect(() => createPeppers([])).toThrow(/at least one/);
    expect(() => createPeppers([{ id: 'a', key: randomBytes(31) }])).toThrow(/31 bytes; it needs 32/);
    expect(() => createPeppers([{ id: '', key }])).toThrow(/needs an id/);
    expect(() =>
      createPeppers([
        { id: 'a', key },
        { id: 'a', key: randomBytes(32) },
      ]),
    ).toThrow(/two peppers have the id "a"/);
  });

  it('do not show their keys', () => {
    const key = randomBytes(32);
    const peppers = createPeppers([{ id: 'a', key }]);
    for (const text of [inspect(peppers, { depth: 9, showHidden: true }), JSON.stringify(peppers)]) {
      expect(text).not.toContain(key.toString('hex'));
      expect(text).not.toContain(key.toString('base64'));
    }
  });
});

describe('the fast verifier', () => {
  it('is HMAC-SHA-256, as in RFC 4231, test case 6', () => {
    const { current } = createPeppers([{ id: 'a', key: Buffer.alloc(131, 0xaa) }]);
    expect(fastVerifier(current, 'Test Using Larger Than Block-Size Key - Hash Key First')).toBe(
      '60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54',
    );
  });

  it('is what node:crypto makes of any text and key, one after the other and of any length', () => {
    for (const keyBytes of [32, 63, 64, 65, 200]) {
      const key = randomBytes(keyBytes);
      const { current } = createPeppers([{ id: 'a', key }]);
      for (const text of [
        '',
        'x',
        'ä€😀',
        '\ud800',
        '\0',
        'x'.repeat(511),
        '€'.repeat(512),
        '€'.repeat(513),
        'x'.repeat(5000),
        'short again',
      ])
        expect(fastVerifier(current, text)).toBe(createHmac('sha256', key).update(text).digest('hex'));
    }
  });

  it('differs by secret and by pepper', () => {
    const [a, b] = ['a', 'b'].map((id) => createPeppers([{ id, key: randomBytes(32) }]).current);
    if (a === undefined || b === undefined) {
      throw new Error('two peppers');
    }
    expect(sameMac(fastVerifier(a, 'secret'), fastVerifier(a, 'secret'))).toBe(true);
    expect(sameMac(fastVerifier(a, 'secret'), fastVerifier(a, 'secreT'))).toBe(false);
    expect(sameMac(fastVerifier(a, 'secret'), fastVerifier(b, 'secret'))).toBe(false);
  });

  it('equals none of another length, without throwing', () => {
    expect(sameMac('ab', 'abc')).toBe(false);
    expect(sameMac('', 'ab')).toBe(false);
  });
});
