import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { claimDeliveries, CLAIM_MS } from '../../src/webhooks/claim-deliveries.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { openTestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';
import { openReceiver, type Receiver } from './receiver.ts';
import { LOOPBACK, openWebhookLedger, type WebhookLedger } from './webhook-ledger.ts';

const ROOM = { healthy: 100, troubled: 100, perEndpoint: 4, underWay: new Map<string, number>() };

describe('6.3 deliveries to many endpoints', () => {
  let ledger: WebhookLedger;
  const receivers: Receiver[] = [];
  const open = async (...args: Parameters<typeof openReceiver>): Promise<Receiver> => {
    const receiver = await openReceiver(...args);
    receivers.push(receiver);
    return receiver;
  };
  beforeEach(async () => {
    ledger = await openWebhookLedger();
  });
  afterEach(async () => {
    for (const receiver of receivers.splice(0)) await receiver.close();
    await ledger.close();
  });

  it('do not wait for endpoints that hang, however many of them there are and however much waits there', async () => {
    const hangs = await open(() => undefined);
    for (let index = 0; index < 40; index++) await ledger.newEndpoint(`${hangs.url}/${index}`);
    for (let key = 0; key < 10; key++) await ledger.newKey();
    await eventually('400 deliveries wait', async () => {
      const { n } = await ledger.db
        .selectFrom('webhook_deliveries')
        .select((eb) => eb.fn.countAll<bigint>().as('n'))
        .executeTakeFirstOrThrow();
      return n === 400n;
    });
    ledger.deliver();
    await eventually('the hanging ones have all the room', () => hangs.received.length >= 120);

    const good = await open();
    await ledger.newEndpoint(good.url, { eventTypes: ['Deactivated'] });
    const keys = await ledger.db.selectFrom('api_keys').select('id').execute();
    // An attempt is taken for slow after two seconds, and leaves the room of the others then.
    const began = Date.now();
    for (const { id } of keys) await ledger.keys.deactivate(ledger.owner, { id });
    await eventually('all are told', () => good.received.length === keys.length, 6000);
    expect(Date.now() - began).toBeLessThan(5000);
    // From now on the hanging ones are known, and nobody waits for them any more.
    await sleep(2500);
    const again = Date.now();
    await ledger.keys.activate(ledger.owner, { id: keys[0]?.id });
    await ledger.keys.deactivate(ledger.owner, { id: keys[0]?.id });
    await eventually('it is told at once', () => good.received.length === keys.length + 1, 2000);
    expect(Date.now() - again).toBeLessThan(1500);
    expect(ledger.errors).toEqual([]);
  }, 30_000);

  it('of one endpoint go out four at a time, and one at a time where it is in trouble', async () => {
    let open_ = 0;
    let most = 0;
    let answers = 200;
    const receiver = await open((_received, response) => {
      most = Math.max(most, ++open_);
      setTimeout(() => {
        open_--;
        response.statusCode = answers;
        response.end();
      }, 50);
    });
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    for (let key = 0; key < 12; key++) await ledger.newKey();
    await eventually('all deliveries are made', async () => (await ledger.deliveries(endpointId)).length === 12);
    ledger.deliver({ schedule: [60_000] });
    await eventually('all are delivered', () => receiver.received.length === 12);
    expect(most).toBe(4);

    answers = 500;
    await ledger.newKey();
    await eventually('it fails', async () => (await ledger.attempts(endpointId)).at(-1)?.status === 500);
    most = 0;
    for (let key = 0; key < 6; key++) await ledger.newKey();
    await eventually('all are tried', () => receiver.received.length === 19);
    expect(most).toBe(1);
  });

  it('are shared by servers, and each message is sent once', async () => {
    const receiver = await open();
    const { endpointId } = await ledger.newEndpoint(receiver.url, { eventTypes: ['Updated'] });
    const keys = [await ledger.newKey(), await ledger.newKey(), await ledger.newKey(), await ledger.newKey()];
    const second = await openTestLedger({ on: ledger, webhookAllowPrivate: LOOPBACK });
    try {
      const deliverers = [ledger.deliver(), ledger.deliver(), ledger.deliver({}, second), ledger.deliver({}, second)];
      await Promise.all(
        keys.map(async ({ keyId }) => {
          for (let change = 0; change < 25; change++) await ledger.keys.update(ledger.owner, { id: keyId, category: `change ${change}` });
        }),
      );
      await eventually(
        'all are delivered',
        async () => {
          const deliveries = await ledger.deliveries(endpointId);
          return deliveries.length === 100 && deliveries.every(({ state }) => state === 'delivered');
        },
        15_000,
      );
      expect(repeated(receiver)).toBe(0);
      expect(receiver.received).toHaveLength(100);
      await Promise.all(deliverers.map((deliverer) => deliverer.stop()));
    } finally {
      await second.close();
    }
    expect(ledger.errors).toEqual([]);
  }, 30_000);

  it('the control: two that read what is due without claiming it send messages twice', async () => {
    const { endpointId } = await ledger.newEndpoint('http://127.0.0.1:9/');
    for (let key = 0; key < 8; key++) await ledger.newKey();
    await eventually('all deliveries are made', async () => (await ledger.deliveries(endpointId)).length === 8);
    const unclaimed = async () =>
      (await ledger.db.selectFrom('webhook_deliveries').select('id').where('state', '=', 'pending').limit(4).execute()).map(({ id }) => id);
    const [one, other] = [await unclaimed(), await unclaimed()];
    expect(one.filter((id) => other.includes(id)).length).toBeGreaterThan(0);

    const claims = await Promise.all(Array.from({ length: 8 }, () => claimDeliveries(ledger.db, ROOM)));
    const ids = claims.flat().map(({ deliveryId }) => deliveryId);
    expect(ids.length).toBeGreaterThan(0);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('that a server took along when it died are sent by another, with the same id', async () => {
    const clock = await installTestClock(ledger.testDatabase);
    const receiver = await open();
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    await ledger.newKey();
    await eventually('the delivery is made', async () => (await ledger.deliveries(endpointId)).length === 1);
    // The first server claims it, and is heard of no more.
    const [lost] = await claimDeliveries(ledger.db, ROOM);
    expect(lost?.endpointId).toBe(endpointId);
    ledger.deliver();
    await sleep(200);
    expect(receiver.received).toHaveLength(0);
    await clock.advance(CLAIM_MS);
    await eventually('it is delivered', async () => (await ledger.deliveries(endpointId))[0]?.state === 'delivered');
    expect(receiver.received.map(({ headers }) => headers['webhook-id'])).toEqual([lost?.eventId]);
    await clock.close();
  });

  it('that were under way when a server stopped are handed on at once', async () => {
    let hang = true;
    const receiver = await open((_received, response) => void (hang || response.end()));
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    const first = ledger.deliver();
    await ledger.newKey();
    await eventually('the message is under way', () => receiver.received.length === 1);
    await first.stop();
    hang = false;
    ledger.deliver();
    await eventually('it is delivered', async () => (await ledger.deliveries(endpointId))[0]?.state === 'delivered', 2000);
    expect(await ledger.attempts(endpointId)).toHaveLength(1);
    expect(ledger.errors).toEqual([]);
  }, 15_000);
});

function repeated({ received }: Receiver): number {
  return received.length - new Set(received.map(({ headers }) => headers['webhook-id'])).size;
}
