import { afterAll, beforeAll, expect, it } from 'vitest';

import type { UsageItem } from '../../src/admission/admission.ts';
import { openAlertingServer, type AlertingServer } from './alerting-server.ts';

const HOUR_MS = 60 * 60 * 1000;
const WEEK_MS = 7 * 24 * HOUR_MS;

let server: AlertingServer;
beforeAll(async () => {
  server = await openAlertingServer({ clock: true });
});
afterAll(() => server.close());

const item = (keyId: string): UsageItem => ({
  requestId: null,
  keyId,
  at: null,
  endpoint: 'GET /',
  status: 200,
  durationMs: 1,
  ip: null,
  credits: null,
  costMicros: null,
  tokensIn: null,
  tokensOut: null,
  model: null,
});

it('6.1 an hour in which a key is used ten times as much as in the same hour of other weeks raises an alert, a usual hour none', async () => {
  const use = async (keyId: string, requests: number) => {
    await server.ledger.admission.recordUsage(
      server.ledger.organization.id,
      Array.from({ length: requests }, () => item(keyId)),
    );
    await server.settled();
  };
  const begin = Math.floor(Date.now() / HOUR_MS) * HOUR_MS;
  await server.clock().stopAt(new Date(begin));
  const surging = await server.ledger.newKey({ name: 'surging' });
  const steady = await server.ledger.newKey({ name: 'steady' });
  const young: { keyId: string }[] = [];
  for (let week = 1; week <= 5; week++) {
    await server.clock().stopAt(new Date(begin + week * WEEK_MS + HOUR_MS / 2));
    if (week === 3) young.push(await server.ledger.newKey({ name: 'young' }));
    for (const key of [steady, ...young]) await use(key.keyId, 60);
    await use(surging.keyId, week === 5 ? 600 : 60);
  }
  const stream = await server.follow();
  const hour = new Date(begin + 5 * WEEK_MS);
  // Not before the hour has ended.
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(stream.seen).toEqual([]);
  await server.clock().stopAt(new Date(hour.getTime() + HOUR_MS + 20_000));
  await stream.until(1);
  expect(stream.seen[0]?.alert).toMatchObject({
    kind: 'UNUSUAL_ACTIVITY',
    severity: 'WARNING',
    message: `Key "surging" is used far more than usual: 600 requests in the hour from ${hour.toISOString()}, where 60 are usual.`,
    details: { direction: 'SURGE', requests: 600, expected: 60 },
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(stream.seen).toHaveLength(1);
  await stream.end();
});
