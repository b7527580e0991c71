import { expect, it } from 'vitest';

import { ADDRESS_BLOCKING, admitBatch, type Judged } from '../../src/admission/admit-batch.ts';
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
  };
  const request = { key: '', permissions: [], cost, endpoint: null, ip: null, origin: null, environment: null, requestId: null };
  return {
    asked: { caller: { kind: 'organization', organizationId: 'acme' }, request, lookupId: 's1', foreignHash: null, mac: '' },
    facts: { readAt: 1n, token: null, organization: { id: 'acme', number: 1, capped: false, balanced: false }, verifier: null },
    judgement: { code: 0, key },
  };
}

/** What the statement is given of keys: the sums asked for, the ceilings, the limits of tokens, and whether what was used of the minute and of the day is to be told. */
function keysOf(batch: readonly Judged[]): readonly unknown[] {
  const { values = [], text } = admitBatch(batch, {
    known: { seen: 1n, seenId: null, revision: 0n },
    second: 1,
    newest: 0n,
    validity: { sinceUs: 0, untilUs: 1 },
    blocking: ADDRESS_BLOCKING,
    wake: false,
  });
  const types = text.match(/\$\d+/g) ?? [];
  expect(values).toHaveLength(types.length);
  const keys = values.indexOf('{7}', 20);
  const numbers = values[keys + 1] === '{7}' ? keys + 1 : keys;
  return values.slice(numbers + 1, numbers + 6);
}

it('requests of one key whose facts were read at different moments are asked by the narrower ones, in whatever order they stand', () => {
  const before = judged({ limits: { day: 1000 }, ceiling: 1000 });
  const after = judged({ limits: { minute: 10, tokens: 50 }, ceiling: 3 });
  for (const batch of [
    [before, after],
    [after, before],
  ])
    expect(keysOf(batch)).toEqual(['{2}', '{3}', '{50}', true, true]);
  // The control: each by itself.
  expect(keysOf([before])).toEqual(['{1}', '{1000}', null, false, true]);
  expect(keysOf([after])).toEqual(['{1}', '{3}', '{50}', true, false]);
});

it('a key of which one request only asks is decided request by request', () => {
  expect(keysOf([judged({ limits: {}, ceiling: 5 }), judged({ limits: {}, ceiling: 5 }, 0)])).toEqual([
    '{NULL}',
    '{5}',
    null,
    false,
    false,
  ]);
});
