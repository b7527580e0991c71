import { expect, it } from 'vitest';

import { keysAskedFor, type Judged } from '../../src/admission/admit-batch.ts';
import type { KeyLimits, KeyRules } from '../../src/admission/facts.ts';
import type { KeyFacts } from '../../src/admission/key-facts.ts';

const NONE: KeyLimits = { minute: null, tokens: null, total: null, day: null, week: null, month: null };

function judged(rules: { readonly limits: Partial<KeyLimits>; readonly ceiling: number }, cost = 1): Judged {
  const key: KeyRules = {
    number: 7,
    organizationId: 'acme',
    active: true,
    expiresUs: null,
    test: false,
    addresses: null,
    origins: null,
    permissions: new Set(),
    limits: { ...NONE, ...rules.limits },
    windows: { second: 0, ceiling: rules.ceiling },
    told: {} as KeyFacts,
    bytes: 0,
  };
  const request = { key: '', permissions: [], cost, endpoint: null, ip: null, origin: null, environment: null, requestId: null };
  return {
    asked: { caller: { kind: 'organization', organizationId: 'acme' }, request, lookupId: 's1', foreignHash: null, mac: '' },
    facts: { readAt: 1n, token: null, organization: { id: 'acme', number: 1, capped: false, balanced: false }, verifier: null },
    judgement: { code: 0, key },
  };
}

it('requests of one key whose facts were read at different moments are asked by the narrower ones, in whatever order they stand', () => {
  const before = judged({ limits: { day: 1000 }, ceiling: 1000 });
  const after = judged({ limits: { minute: 10, tokens: 50 }, ceiling: 3 });
  for (const batch of [
    [before, after],
    [after, before],
  ])
    expect(keysAskedFor(batch)).toMatchObject([{ asked: 2, ceiling: 3, tokens: 50, minute: true, day: true }]);
  // The control: each by itself.
  expect(keysAskedFor([before])).toMatchObject([{ asked: 1, ceiling: 1000, tokens: null, minute: false, day: true }]);
  expect(keysAskedFor([after])).toMatchObject([{ asked: 1, ceiling: 3, tokens: 50, minute: true, day: false }]);
});

it('a key of which one request only asks is decided request by request', () => {
  expect(keysAskedFor([judged({ limits: {}, ceiling: 5 }), judged({ limits: {}, ceiling: 5 }, 0)])).toMatchObject([
    { asked: null, ceiling: 5 },
  ]);
});
