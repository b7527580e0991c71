import { expect, test } from 'vitest';

import { withoutCredentials } from '../../src/lib/without-credentials.ts';

test.each([
  ['a key', "Unknown field 'sk_live_0123456789abcdefABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop0123456789012345'."],
  ['an access token', 'Syntax Error: Unexpected Name "klat_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf0fK5AG".'],
  ['hex', 'Int cannot represent non-integer value: "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"'],
  ['base64', "'q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=' is no id"],
  ['letters alone, longer than any name', `no field "${'abcdefghij'.repeat(4)}"`],
])('%s is taken out of a sentence, which stays readable', (_name, sentence) => {
  expect(withoutCredentials(sentence)).toMatch(/^[A-Za-z :'"-]*\[redacted\][a-z '".]*$/);
});

test.each([
  'Cannot query field "lastUsed" on type "ApiKey". Did you mean "lastUsedAt"?',
  'Value "X" does not exist in "RenameOrganizationPayload" enum.',
  "'first' takes 1 to 100.",
  "A DateTime is a text such as '2030-01-31T00:00:00Z'.",
])('an honest message stays as it is: %s', (sentence) => {
  expect(withoutCredentials(sentence)).toBe(sentence);
});
