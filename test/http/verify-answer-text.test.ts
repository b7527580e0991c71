import { expect, it } from 'vitest';

import type { VerifiedKey, VerifyAnswer } from '../../src/admission/admission.ts';
import { verifyAnswerBody, verifyAnswerText } from '../../src/http/verify.ts';

const KEY: VerifiedKey = {
  id: '0199d5b4-1111-7000-8000-000000000001',
  name: 'Schlüssel "①"\n\u2028',
  type: 'SECRET',
  category: 'production',
  permissions: ['read:a', 'write:"b"'],
  metadata: { '"': [1, null, { ü: 'x' }], nested: {} },
  expiresAt: new Date('2999-12-31T23:59:59.500Z'),
  profile: { name: 'tier', settings: { rate: 2 } },
  organizationId: '0199d5b4-1111-7000-8000-000000000000',
  ownerId: null,
  outdatedSecret: false,
};
const PASSED: VerifyAnswer = {
  kind: 'answer',
  code: 'VALID',
  message: null,
  httpStatus: 200,
  requestId: 'req_17',
  position: 17n,
  key: KEY,
  rateLimit: { limit: 60, remaining: 0, resetEpochSeconds: 1_800_000_061 },
  quotas: [
    { window: 'TOTAL', limit: 9_007_199_254_740_991, remaining: 9_007_199_254_740_990 },
    { window: 'MONTHLY', limit: 1_000_000_000_000, remaining: 0 },
  ],
  refusedBy: null,
  keyId: KEY.id,
};
const REFUSED: VerifyAnswer = {
  ...PASSED,
  code: 'QUOTA_EXCEEDED',
  message: 'Quota exceeded: daily',
  httpStatus: 429,
  key: null,
  refusedBy: { quota: 'daily', retryAfterSeconds: 7 },
};

it.each<[string, VerifyAnswer]>([
  ['passes', PASSED],
  ['passes a second time', PASSED],
  ['passes with an outdated secret', { ...PASSED, key: { ...KEY, outdatedSecret: true } }],
  [
    'passes a key without limits, profile and expiry',
    { ...PASSED, key: { ...KEY, profile: null, expiresAt: null }, rateLimit: null, quotas: [] },
  ],
  ['passes under an id that the caller chose', { ...PASSED, requestId: '"\\mine"' }],
  ['passes without being recorded', { ...PASSED, position: null }],
  ['is refused by a quota', REFUSED],
  ['is refused by a limit', { ...REFUSED, code: 'RATE_LIMITED', refusedBy: { limit: 'key_minute', retryAfterSeconds: null } }],
  [
    'is refused without a rule',
    { ...REFUSED, code: 'INVALID_KEY', position: null, refusedBy: null, rateLimit: null, quotas: [], keyId: null },
  ],
])('the answer to a request that %s is sent as the text of its body', (_what, verdict) => {
  expect(verifyAnswerText(verdict)).toBe(JSON.stringify(verifyAnswerBody(verdict)));
});
