import { describe, expect, it } from 'vitest';

import { parseInput } from '../../src/commands/input.ts';
import { jsonObject, updateKeySchema } from '../../src/commands/key-input.ts';

const id = '0199b2a4-6f0e-7c3a-9d5e-2f1c8b7a6d54';

describe("a key's input", () => {
  it.each([
    ['name', null, 'give a name of 3 to 50 characters'],
    ['category', null, 'give a category of 1 to 50 characters'],
    ['permissions', null, 'give a list of permissions; [] for none'],
    ['ipAllowlist', null, 'give a list of addresses and ranges; [] for any address'],
    ['allowedOrigins', null, 'give a list of origins; [] for any origin'],
    ['metadata', null, 'give a JSON object; {} for none'],
    ['metadata', [1], 'give a JSON object; {} for none'],
    ['metadata', JSON.parse('{"a":[{"__proto__":{"b":1}}]}') as unknown, "'__proto__' can name nothing here: choose another name"],
    ['metadata', { a: ['b\u0000'] }, 'give JSON without the character U+0000'],
  ])('says what %s takes where it is %j', (field, value, remedy) => {
    expect(parseInput(updateKeySchema, { id, [field]: value })).toMatchObject({
      ok: false,
      refusal: { code: 'INVALID_INPUT', field, message: `'${field}': ${remedy}` },
    });
  });

  it('has no caps where quotas or limits are null, and keeps them where they are left out', () => {
    expect(parseInput(updateKeySchema, { id, quotas: null, limits: null })).toMatchObject({
      value: {
        quotas: { total: null, daily: null, weekly: null, monthly: null },
        limits: { requestsPerMinute: null, tokensPerMinute: null },
      },
    });
    expect(parseInput(updateKeySchema, { id })).not.toHaveProperty('value.quotas');
  });

  it('says a fault once, whatever number of rules it breaks', () => {
    expect(parseInput(updateKeySchema, { id, quotas: { daily: -1e300 } })).toMatchObject({
      refusal: {
        message: "'quotas.daily': give a whole number, or null for no cap; 'quotas.daily': give a number above 0, or null for no cap",
      },
    });
    expect(parseInput(updateKeySchema, { id, rotateEveryDays: -1e300 })).toMatchObject({ refusal: { field: 'rotateEveryDays' } });
  });

  it('may speak of a NUL without holding one', () => {
    expect(jsonObject('settings').safeParse({ a: String.raw`\u0000`, b: String.raw`\\u0000` }).success).toBe(true);
    expect(jsonObject('settings').safeParse({ a: '\\\u0000' }).success).toBe(false);
  });

  it('is walked no deeper than it may be', () => {
    const deep = JSON.parse('{"a":'.repeat(5000) + '1' + '}'.repeat(5000)) as unknown;
    expect(jsonObject('settings').safeParse(deep).success).toBe(false);
  });
});
