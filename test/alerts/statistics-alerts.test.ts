import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { UsageItem } from '../../src/admission/admission.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { done } from '../support/ledger.ts';
import { openAlertingServer, type AlertingServer } from './alerting-server.ts';

const ITEM: UsageItem = {
  requestId: null,
  keyId: null,
  at: null,
  endpoint: 'GET /v1/models',
  status: 200,
  durationMs: 1,
  ip: null,
  credits: null,
  costMicros: null,
  tokensIn: null,
  tokensOut: null,
  model: null,
};

describe('6.1 errors, spending and balance', () => {
  let server: AlertingServer;
  beforeAll(async () => {
    server = await openAlertingServer();
  });
  afterAll(() => server.close());

  const report = (keyId: string, count: number, item: Partial<UsageItem>) =>
    server.ledger.admission.recordUsage(
      server.ledger.organization.id,
      Array.from({ length: count }, () => ({ ...ITEM, keyId, ...item })),
    );

  it('6.1 a fifth of failed requests within the hour raises an alert, where there are enough requests', async () => {
    const stream = await server.follow();
    const { keyId } = await server.ledger.newKey({ name: 'failing' });
    await report(keyId, 20, { status: 500 });
    await server.settled();
    expect(stream.seen).toEqual([]);
    await report(keyId, 79, {});
    await report(keyId, 1, { status: 404 });
    await stream.until(1);
    expect(stream.seen[0]?.alert).toMatchObject({
      kind: 'ERROR_RATE',
      severity: 'WARNING',
      message: '20 % or more of the requests with key "failing" have failed: 21 of 100 in the last hour.',
      apiKey: { id: encodeGlobalId('ApiKey', keyId) },
    });
    await report(keyId, 50, { status: 500 });
    await server.settled();
    expect(stream.seen).toHaveLength(1);
    await stream.end();
  });

  it('6.1 spending raises an alert above an amount that somebody has set, for a key in a day and for the organization in a month', async () => {
    const stream = await server.follow();
    const { keyId } = await server.ledger.newKey({ name: 'costly' });
    await report(keyId, 1, { costMicros: 5_000_000n });
    await server.settled();
    expect(stream.seen).toEqual([]);
    const rule = { organizationId: server.organizationId, kind: 'SPENDING' };
    await server.mutate(
      'createAlertRule',
      { ...rule, amountMicros: 6_000_000, subject: 'KEY', period: 'DAY' },
      'alertRule { id subject period amountMicros }',
    );
    await server.mutate('createAlertRule', { ...rule, amountMicros: 7_000_000 }, 'alertRule { id }');
    await report(keyId, 1, { costMicros: 1_000_000n });
    await stream.until(1);
    expect(stream.seen[0]?.alert).toMatchObject({ kind: 'SPENDING', details: { period: 'DAY', spentMicros: '6000000' } });
    expect(stream.seen[0]?.alert.message).toMatch(/^Key "costly" has cost 6\.00 in \d{4}-\d\d-\d\d \(UTC\), which is 6\.00 or more\.$/);
    const other = await server.ledger.newKey();
    await report(other.keyId, 1, { costMicros: 1_234_567n });
    await stream.until(2);
    expect(stream.seen[1]?.alert).toMatchObject({ kind: 'SPENDING', apiKey: null, details: { period: 'MONTH', spentMicros: '7234567' } });
    expect(stream.seen[1]?.alert.message).toMatch(/^Your organization has cost 7\.234567 in \d{4}-\d\d \(UTC\), which is 7\.00 or more\.$/);
    await report(other.keyId, 1, { costMicros: 1_000_000n });
    await server.settled();
    expect(stream.seen).toHaveLength(2);
    await stream.end();
  });

  it('6.1 a balance that falls to an amount, and then to where keys are suspended, raises an alert each, and again after funds were added', async () => {
    const stream = await server.follow();
    const { keyId } = await server.ledger.newKey();
    const { id: organizationId } = server.ledger.organization;
    done(await server.ledger.balances.enable(null, { organizationId, fundsMicros: 3_000_000 }));
    await report(keyId, 1, { costMicros: 1_500_000n });
    await server.settled();
    expect(stream.seen).toEqual([]);
    await report(keyId, 1, { costMicros: 600_000n });
    await stream.until(1);
    expect(stream.seen[0]?.alert).toMatchObject({
      kind: 'LOW_BALANCE',
      severity: 'WARNING',
      apiKey: null,
      message: 'The balance has fallen to 0.90, which is 1.00 or less.',
    });
    await report(keyId, 1, { costMicros: 860_000n });
    await stream.until(2);
    expect(stream.seen[1]?.alert).toMatchObject({ kind: 'LOW_BALANCE', severity: 'CRITICAL' });
    expect(stream.seen[1]?.alert.message).toContain('The balance is 0.04');
    done(await server.ledger.balances.addFunds(null, { organizationId, micros: 1_000_000 }));
    await report(keyId, 1, { costMicros: 100_000n });
    await stream.until(3);
    await server.settled();
    expect(stream.seen).toHaveLength(3);
    await stream.end();
  });
});
