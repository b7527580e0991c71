import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { openReceiver, type Receiver } from './receiver.ts';
import { openWebhookLedger, type WebhookLedger } from './webhook-ledger.ts';

describe('6.3 an event is delivered by webhook', () => {
  let ledger: WebhookLedger;
  let receiver: Receiver;
  beforeAll(async () => {
    ledger = await openWebhookLedger();
    ledger.deliver();
    receiver = await openReceiver();
  });
  afterAll(async () => {
    await receiver.close();
    await ledger.close();
  });

  it('signed so that the public verifier of Standard Webhooks accepts it, with the id of the event', async () => {
    const { endpointId, secret } = await ledger.newEndpoint(receiver.url);
    const { keyId, position } = await ledger.newKey({ name: 'A key that tells' });
    await eventually('the message arrived', () => receiver.received.length === 1);

    const [message] = receiver.received;
    const payload = new Webhook(secret).verify(message?.body ?? '', message?.headers ?? {});
    expect(payload).toMatchObject({
      type: 'KEY_CREATED',
      data: {
        position: String(position),
        subjectId: encodeGlobalId('ApiKey', keyId),
        actorId: ledger.owner.id,
        data: { keyId, name: 'A key that tells' },
      },
    });
    const event = await ledger.db
      .selectFrom('events')
      .select(['id', 'recorded_at'])
      .where('position', '=', position)
      .executeTakeFirstOrThrow();
    expect(message?.headers['webhook-id']).toBe(event.id);
    expect(payload).toMatchObject({ timestamp: event.recorded_at.toISOString() });

    await eventually('it is written down', async () => (await ledger.attempts(endpointId)).length === 1);
    expect(await ledger.deliveries(endpointId)).toMatchObject([{ state: 'delivered', event_position: position }]);
    expect(await ledger.attempts(endpointId)).toMatchObject([{ status: 200, error: null }]);
  });

  it('and one that was changed on its way is refused by that verifier', async () => {
    const { secret } = await ledger.newEndpoint(receiver.url);
    const before = receiver.received.length;
    await ledger.newKey();
    await eventually('both endpoints were told', () => receiver.received.length === before + 2);
    const verifier = new Webhook(secret);
    const mine = receiver.received.slice(before).filter(({ body, headers }) => {
      try {
        verifier.verify(body, headers);
        return true;
      } catch {
        return false;
      }
    });
    expect(mine).toHaveLength(1);
    const [message] = mine;
    if (message === undefined) throw new Error('there is no message');
    expect(() => verifier.verify(message.body.replace('KEY_CREATED', 'KEY_DELETED'), message.headers)).toThrow(/signature/);
    expect(() => verifier.verify(message.body, { ...message.headers, 'webhook-id': crypto.randomUUID() })).toThrow(/signature/);
    expect(ledger.errors).toEqual([]);
  });
});
