import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { createAlerting } from '../../src/alerts/create-alerting.ts';
import { headPosition } from '../../src/ledger/append.ts';
import { openReceiver, status, type Receiver } from '../webhooks/receiver.ts';
import { openWebhookLedger, type WebhookLedger } from '../webhooks/webhook-ledger.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';

let ledger: WebhookLedger;
let plane: DataPlane;
let receiver: Receiver;
beforeAll(async () => {
  ledger = await openWebhookLedger();
  plane = await openDataPlane({ on: ledger });
  receiver = await openReceiver(status(204));
});
afterAll(async () => {
  await receiver.close();
  await plane.close();
  await ledger.close();
});

async function gauge(name: string, label: string): Promise<number> {
  const { text } = await plane.ask('/metrics');
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name}{${label}}`));
  if (line === undefined) throw new Error(`there is no ${name} with ${label}`);
  return Number(line.split(' ').at(-1));
}

it('alerts that nobody evaluates fall behind by events and seconds, and are level again when somebody does', async () => {
  await ledger.newKey();
  const events = () => gauge('keyledger_alert_evaluation_lag_events', 'evaluation="windows"');
  const seconds = () => gauge('keyledger_alert_evaluation_lag_seconds', 'evaluation="windows"');
  expect(await events()).toBe(Number(await headPosition(ledger.db)));
  const before = await seconds();
  await sleep(200);
  expect((await seconds()) - before).toBeGreaterThan(0.15);
  expect(await gauge('keyledger_alert_evaluation_lag_seconds', 'evaluation="statistics"')).toBeGreaterThan(0);
  const alerting = createAlerting({ database: ledger.database, pollMs: 20, onError: (error) => ledger.errors.push(error) });
  try {
    await expect.poll(events, { timeout: 10_000 }).toBe(0);
    expect(await seconds()).toBe(0);
  } finally {
    await alerting.stop();
  }
});

it('deliveries that nobody makes are due for longer and longer, apart for endpoints in trouble, and level when they are made', async () => {
  const healthy = () => gauge('keyledger_webhook_delivery_lag_seconds', 'endpoints="healthy"');
  const troubled = () => gauge('keyledger_webhook_delivery_lag_seconds', 'endpoints="troubled"');
  const { endpointId } = await ledger.newEndpoint(receiver.url);
  expect([await healthy(), await troubled()]).toEqual([0, 0]);
  await ledger.newKey();
  await expect.poll(healthy, { timeout: 10_000 }).toBeGreaterThan(0.1);
  expect(await troubled()).toBe(0);
  await ledger.db.updateTable('webhook_health').set({ troubled: true }).where('endpoint_id', '=', endpointId).execute();
  expect(await healthy()).toBe(0);
  expect(await troubled()).toBeGreaterThan(0.1);
  const deliverer = ledger.deliver();
  try {
    await expect.poll(troubled, { timeout: 10_000 }).toBe(0);
    expect(await healthy()).toBe(0);
  } finally {
    await deliverer.stop();
  }
  expect(ledger.errors).toEqual([]);
});
