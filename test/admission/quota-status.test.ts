import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

describe('4.2 the status where a quota is used up', () => {
  let ledger: TestLedger;
  let second: TestLedger;
  beforeAll(async () => {
    ledger = await openTestLedger();
    second = await openTestLedger({ on: ledger });
  });
  afterAll(async () => {
    await second.close();
    await ledger.close();
  });

  it('is 429, or 401 as soon as the organization asks for it, on every server', async () => {
    const { id, owner } = ledger.organization;
    const { secret } = await ledger.newKey({ quotas: { daily: 1 } });
    await ledger.verify(secret);
    const refused = { code: 'QUOTA_EXCEEDED', message: 'Rate limit exceeded: quota daily' };
    expect(await second.verify(secret)).toMatchObject({ ...refused, httpStatus: 429 });
    const repeated = await second.verify(secret, { requestId: 'before the change' });
    for (const quotaStatus of [401, 429, 401]) {
      done(await ledger.organizations.changeSettings(owner, { organizationId: id, quotaStatus }));
      const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? ledger : second).verify(secret)));
      for (const answer of answers) expect(answer).toMatchObject({ ...refused, httpStatus: quotaStatus });
    }
    // An answer that is repeated stays what it was.
    expect(await ledger.verify(secret, { requestId: 'before the change' })).toEqual(repeated);
  });

  it('is 429 for rate limits, whatever the organization asks for quotas', async () => {
    const { secret } = await ledger.newKey({ limits: { requestsPerMinute: 1 } });
    await ledger.verify(secret);
    expect(await ledger.verify(secret)).toMatchObject({ code: 'RATE_LIMITED', httpStatus: 429 });
  });
});
