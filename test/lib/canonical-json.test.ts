import { describe, expect, it } from 'vitest';

import type { JsonValue } from '../../src/lib/canonical-json.ts';
import { canonicalJson } from '../../src/lib/canonical-json.ts';

function doubleOf(bits: string): number {
  return Buffer.from(bits, 'hex').readDoubleBE();
}

/** RFC 8785, appendix B: the bits of a double and its text. */
const NUMBERS: readonly (readonly [bits: string, text: string])[] = [
  ['0000000000000000', '0'],
  ['8000000000000000', '0'],
  ['0000000000000001', '5e-324'],
  ['8000000000000001', '-5e-324'],
  ['7fefffffffffffff', '1.7976931348623157e+308'],
  ['ffefffffffffffff', '-1.7976931348623157e+308'],
  ['4340000000000000', '9007199254740992'],
  ['c340000000000000', '-9007199254740992'],
  ['4430000000000000', '295147905179352830000'],
  ['44b52d02c7e14af5', '9.999999999999997e+22'],
  ['44b52d02c7e14af6', '1e+23'],
  ['44b52d02c7e14af7', '1.0000000000000001e+23'],
  ['444b1ae4d6e2ef4e', '999999999999999700000'],
  ['444b1ae4d6e2ef4f', '999999999999999900000'],
  ['444b1ae4d6e2ef50', '1e+21'],
  ['3eb0c6f7a0b5ed8c', '9.999999999999997e-7'],
  ['3eb0c6f7a0b5ed8d', '0.000001'],
  ['41b3de4355555553', '333333333.3333332'],
  ['41b3de4355555554', '333333333.33333325'],
  ['41b3de4355555555', '333333333.3333333'],
  ['41b3de4355555556', '333333333.3333334'],
  ['41b3de4355555557', '333333333.33333343'],
  ['becbf647612f3696', '-0.0000033333333333333333'],
  ['43143ff3c1cb0959', '1424953923781206.2'],
];

describe('canonical JSON', () => {
  it('writes the sample of RFC 8785, 3.2.2 and 3.2.4, byte by byte', () => {
    const sample = JSON.parse(String.raw`{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }`) as JsonValue;
    const bytes =
      '7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e333333333333332c31652b33302c' +
      '342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c222f227d';

    expect(Buffer.from(canonicalJson(sample)).toString('hex')).toBe(bytes);
  });

  it('sorts members by UTF-16 code units, as in RFC 8785, 3.2.3, whatever the locale', () => {
    const sample = JSON.parse(String.raw`{
      "\u20ac": "Euro Sign",
      "\r": "Carriage Return",
      "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face",
      "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"
    }`) as JsonValue;
    const order = [
      'Carriage Return',
      'One',
      'Control',
      'Latin Small Letter O With Diaeresis',
      'Euro Sign',
      'Emoji: Grinning Face',
      'Hebrew Letter Dalet With Dagesh',
    ];

    expect(JSON.parse(canonicalJson(sample))).toEqual(sample);
    expect([...canonicalJson(sample).matchAll(/:"([^"]*)"/g)].map(([, value]) => value)).toEqual(order);
    expect(canonicalJson({ péché: 1, peach: 2, pêche: 3, sin: 4 })).toBe('{"peach":2,"péché":1,"pêche":3,"sin":4}');
  });

  it('sorts names that look like array indexes as texts, which engines do not', () => {
    expect(canonicalJson({ 10: 'a', 9: 'b', 1: 'c', '': 'd' })).toBe('{"":"d","1":"c","10":"a","9":"b"}');
  });

  it.each(NUMBERS)('writes the double %s as %s', (bits, text) => {
    expect(canonicalJson(doubleOf(bits))).toBe(text);
    expect(canonicalJson([doubleOf(bits)])).toBe(`[${text}]`);
  });

  it('refuses what appendix B refuses: NaN and infinities', () => {
    for (const bits of ['7fffffffffffffff', '7ff0000000000000', 'fff0000000000000']) {
      expect(() => canonicalJson({ a: [1, doubleOf(bits)] })).toThrow('no canonical JSON for a number that is not finite at /a/1');
    }
  });

  it('refuses lone surrogates in strings and in names, where an engine would escape or replace them', () => {
    expect(() => canonicalJson('\ud800')).toThrow(/lone surrogate at the root/);
    expect(() => canonicalJson(['\udead'])).toThrow(/lone surrogate at \/0/);
    expect(() => canonicalJson({ '\udead': 1 })).toThrow(/lone surrogate/);
    expect(canonicalJson('😀')).toBe('"😀"');
  });

  it('escapes only what must be, in its shortest form', () => {
    const controls = Array.from({ length: 0x20 }, (_, code) => String.fromCharCode(code)).join('');
    expect(canonicalJson(controls)).toBe(
      String.raw`"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f"`,
    );
    expect(canonicalJson('/</script>\u007f\u2028\u2029é')).toBe('"/</script>\u007f\u2028\u2029é"');
  });

  it('does not normalise: two spellings of a letter stay two values', () => {
    expect(canonicalJson('\u00e5')).not.toBe(canonicalJson('a\u030a'));
  });

  it('writes the same text for equal values, however they were built', () => {
    const there = { a: [1, { c: null, b: 'x' }], z: true };
    const back = JSON.parse('{"z":true,"a":[1.0,{"b":"x","c":null}]}') as JsonValue;
    expect(canonicalJson(there)).toBe(canonicalJson(back));
    expect(canonicalJson(JSON.parse(canonicalJson(there)) as JsonValue)).toBe(canonicalJson(there));
    expect(canonicalJson({})).toBe('{}');
    expect(canonicalJson([])).toBe('[]');
    expect(canonicalJson(JSON.parse('{"__proto__":{"x":1}}') as JsonValue)).toBe('{"__proto__":{"x":1}}');
  });

  it('refuses what JSON can not say, and names its place but not its value', () => {
    const refused: readonly unknown[] = [
      undefined,
      1n,
      () => 1,
      Symbol('x'),
      new Date(0),
      new Map(),
      new Uint8Array(1),
      Object('text'),
      Array(1),
    ];
    for (const value of refused) {
      expect(() => canonicalJson({ a: { b: value as JsonValue } })).toThrow(/^no canonical JSON for .* at \/a\/b/);
    }
    expect(() => canonicalJson({ toJSON: () => 'something else' } as unknown as JsonValue)).toThrow(/\/toJSON/);
  });

  it('answers a cycle, and nesting beyond 256 levels, with a sentence instead of a stack overflow', () => {
    const cycle: Record<string, unknown> = {};
    cycle['again'] = cycle;
    expect(() => canonicalJson(cycle as JsonValue)).toThrow(/256 levels/);
    const nested = (levels: number): JsonValue => JSON.parse('['.repeat(levels) + ']'.repeat(levels)) as JsonValue;
    expect(canonicalJson(nested(256))).toHaveLength(512);
    expect(() => canonicalJson(nested(100_000))).toThrow(/256 levels/);
  });
});
