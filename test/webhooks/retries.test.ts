import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { keepHouse } from '../../src/commands/housekeeping.ts';
import { RETRY_DELAYS_MS, retryDelay } from '../../src/webhooks/retry-schedule.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { openReceiver, status, type Receiver } from './receiver.ts';
import { openWebhookLedger, type WebhookLedger } from './webhook-ledger.ts';

const SECOND_MS = 1000;
const HOUR_MS = 60 * 60 * SECOND_MS;
const DAY_MS = 24 * HOUR_MS;

describe('the schedule of retries', () => {
  it('takes about a day, each wait longer than the last by more than chance adds', () => {
    expect(RETRY_DELAYS_MS.reduce((sum, delay) => sum + delay, 0)).toBeGreaterThan(20 * HOUR_MS);
    for (const [index, delay] of RETRY_DELAYS_MS.entries()) {
      expect(retryDelay(RETRY_DELAYS_MS, index + 1, 0, null)).toBe(delay);
      expect(retryDelay(RETRY_DELAYS_MS, index + 1, 1, null)).toBe(delay * 1.2);
      expect(delay * 1.2).toBeLessThan(RETRY_DELAYS_MS[index + 1] ?? Number.POSITIVE_INFINITY);
    }
    expect(retryDelay(RETRY_DELAYS_MS, RETRY_DELAYS_MS.length + 1, 0, null)).toBeNull();
  });

  it('is lengthened by what the receiver asks for, up to a day, and never shortened', () => {
    expect(retryDelay([5000], 1, 0, 60_000)).toBe(60_000);
    expect(retryDelay([5000], 1, 0, 1000)).toBe(5000);
    expect(retryDelay([5000], 1, 0, 100 * DAY_MS)).toBe(DAY_MS);
  });
});

describe('6.3 a webhook that is not accepted', () => {
  let ledger: WebhookLedger;
  let receiver: Receiver;
  let clock: TestClock;
  beforeEach(async () => {
    ledger = await openWebhookLedger();
    clock = await installTestClock(ledger.testDatabase);
    receiver = await openReceiver(status(500, {}, 'not today'));
  });
  afterEach(async () => {
    await receiver.close();
    await clock.close();
    await ledger.close();
  });

  const endpointRow = (id: string) => ledger.db.selectFrom('webhook_endpoints').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
  const dueIn = async (endpointId: string) => {
    const [delivery] = await ledger.deliveries(endpointId);
    return (delivery?.next_attempt_at?.getTime() ?? 0) - (await clock.now()).getTime();
  };

  it('is tried again over a day, each attempt written down, and then given up', async () => {
    ledger.deliver();
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    await ledger.newKey();
    for (let attempt = 1; attempt <= RETRY_DELAYS_MS.length + 1; attempt++) {
      await eventually(`attempt ${attempt} is written down`, async () => (await ledger.attempts(endpointId)).length === attempt);
      const delay = RETRY_DELAYS_MS[attempt - 1];
      if (delay === undefined) break;
      const waits = await dueIn(endpointId);
      expect(waits).toBeGreaterThan(delay - 3 * SECOND_MS);
      expect(waits).toBeLessThanOrEqual(delay * 1.2);
      await clock.advance(delay * 1.2);
    }
    expect(await ledger.deliveries(endpointId)).toMatchObject([{ state: 'failed', next_attempt_at: null, failures: 10 }]);
    const attempts = await ledger.attempts(endpointId);
    expect(attempts).toHaveLength(10);
    for (const attempt of attempts)
      expect(attempt).toMatchObject({ status: 500, error: 'The receiver answered 500.', response_head: 'not today' });
    expect(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    expect(new Set(receiver.received.map(({ body }) => body)).size).toBe(1);
    expect(await endpointRow(endpointId)).toMatchObject({ state: 'active' });
    expect(ledger.errors).toEqual([]);
  });

  it('is delivered as soon as it is accepted, after which the endpoint is as good as ever', async () => {
    ledger.deliver({ schedule: [20, 20, 20] });
    receiver.answer((received, response) => {
      response.statusCode = receiver.received.indexOf(received) < 2 ? 503 : 204;
      response.end();
    });
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    await ledger.newKey();
    await eventually('it is delivered', async () => (await ledger.deliveries(endpointId))[0]?.state === 'delivered');
    expect((await ledger.attempts(endpointId)).map((attempt) => attempt.status)).toEqual([503, 503, 204]);
    const health = await ledger.db.selectFrom('webhook_health').selectAll().where('endpoint_id', '=', endpointId).executeTakeFirstOrThrow();
    expect(health).toMatchObject({ failing_since: null, troubled: false });
  });

  it.each([
    ['429 in seconds', status(429, { 'retry-after': '120' }), 120 * SECOND_MS],
    [
      '503 as a date',
      (_received: unknown, response: Parameters<ReturnType<typeof status>>[1]) =>
        status(503, { 'retry-after': new Date(Date.now() + 600 * SECOND_MS).toUTCString() })(_received as never, response),
      600 * SECOND_MS,
    ],
  ])('leaves the endpoint alone for as long as Retry-After asks: %s', async (_name, answer, asked) => {
    ledger.deliver();
    receiver.answer(answer);
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    await ledger.newKey();
    await eventually('the first attempt is written down', async () => (await ledger.attempts(endpointId)).length === 1);
    expect(Math.abs((await dueIn(endpointId)) - asked)).toBeLessThan(5 * SECOND_MS);
    // What happens meanwhile waits as well: it is the endpoint that rests, not the message.
    await ledger.newKey();
    await eventually('the second delivery is made', async () => (await ledger.deliveries(endpointId)).length === 2);
    await clock.advance(asked - 20 * SECOND_MS);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(receiver.received).toHaveLength(1);
    receiver.answer(status(200));
    await clock.advance(25 * SECOND_MS);
    await eventually('both are delivered', async () => (await ledger.deliveries(endpointId)).every(({ state }) => state === 'delivered'));
    expect(ledger.errors).toEqual([]);
  });

  it('with 410 switches the endpoint off, by an event, and cancels what waits', async () => {
    receiver.answer(status(410));
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    for (let key = 0; key < 6; key++) await ledger.newKey();
    await eventually('all deliveries are made', async () => (await ledger.deliveries(endpointId)).length === 6);
    ledger.deliver();
    await eventually('nothing waits', async () => (await ledger.deliveries(endpointId)).every(({ state }) => state !== 'pending'));
    expect(await endpointRow(endpointId)).toMatchObject({ state: 'inactive', inactive_reason: 'GONE' });
    const events = await ledger.db
      .selectFrom('events')
      .select(['type', 'actor'])
      .where('stream', '=', `webhook:${endpointId}`)
      .orderBy('version')
      .execute();
    expect(events).toEqual([
      { type: 'WebhookEndpointCreated', actor: ledger.owner.id },
      { type: 'WebhookEndpointDisabled', actor: 'system' },
    ]);
    expect(receiver.received.length).toBeLessThanOrEqual(4);
    await ledger.newKey();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await ledger.deliveries(endpointId)).toHaveLength(6);
    expect(ledger.errors).toEqual([]);
  });

  it('for five days without one success switches the endpoint off; switched on again it has all its patience', async () => {
    ledger.deliver({ schedule: [HOUR_MS] });
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    for (let day = 0; day < 5; day++) {
      await ledger.newKey();
      await eventually(`the key of day ${day} was told`, () => receiver.received.length === day + 1);
      await eventually('it is written down', async () => (await ledger.attempts(endpointId)).length === day + 1);
      expect(await endpointRow(endpointId)).toMatchObject({ state: 'active' });
      // The delivery that waits is given up before its second attempt, so that each day has one.
      await ledger.db
        .updateTable('webhook_deliveries')
        .set({ state: 'failed', next_attempt_at: null })
        .where('state', '=', 'pending')
        .execute();
      await clock.advance(DAY_MS);
    }
    await ledger.newKey();
    await eventually('it is switched off', async () => (await endpointRow(endpointId)).state === 'inactive');
    expect(await endpointRow(endpointId)).toMatchObject({ inactive_reason: 'FAILING' });

    await ledger.webhooks.update(ledger.owner, { id: endpointId, active: true });
    expect(await endpointRow(endpointId)).toMatchObject({ state: 'active', inactive_reason: null });
    await ledger.newKey();
    await eventually('it is told again', () => receiver.received.length === 7);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await endpointRow(endpointId)).toMatchObject({ state: 'active' });
  });

  it('is kept for thirty days after its end, and then erased with its attempts', async () => {
    receiver.answer(status(200));
    ledger.deliver();
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    await ledger.newKey();
    await eventually('it is delivered', async () => (await ledger.deliveries(endpointId))[0]?.state === 'delivered');
    const onError = (error: Error): void => void ledger.errors.push(error);
    await clock.advance(29 * DAY_MS);
    await keepHouse(ledger.db, { onError });
    expect(await ledger.attempts(endpointId)).toHaveLength(1);
    await clock.advance(2 * DAY_MS);
    await keepHouse(ledger.db, { onError });
    expect(await ledger.deliveries(endpointId)).toEqual([]);
    expect(ledger.errors).toEqual([]);
  });
});

describe('6.3 whatever a receiver does', () => {
  let ledger: WebhookLedger;
  let receiver: Receiver;
  beforeEach(async () => {
    ledger = await openWebhookLedger();
    receiver = await openReceiver();
  });
  afterEach(async () => {
    await receiver.close();
    await ledger.close();
  });

  async function firstAttempt() {
    const { endpointId } = await ledger.newEndpoint(receiver.url);
    await ledger.newKey();
    await eventually('the attempt is written down', async () => (await ledger.attempts(endpointId)).length >= 1);
    return (await ledger.attempts(endpointId))[0];
  }

  it('a redirect is not followed', async () => {
    ledger.deliver();
    receiver.answer((received, response) => status(received.path === '/hook' ? 302 : 200, { location: '/elsewhere' })(received, response));
    expect(await firstAttempt()).toMatchObject({ status: 302, error: 'The receiver answered 302; redirects are not followed.' });
    expect(receiver.received.map(({ path }) => path)).toEqual(['/hook']);
  });

  it('one that never answers is left after the time it has', async () => {
    ledger.deliver({ timeoutMs: 300 });
    receiver.answer(() => undefined);
    expect(await firstAttempt()).toMatchObject({ status: null, error: 'No answer within 0.3 seconds.' });
  });

  it('of a body without end the first KiB is kept, and the answer counts', async () => {
    ledger.deliver();
    let ended = false;
    receiver.answer((_received, response) => {
      response.writeHead(200);
      const more = setInterval(() => response.write('x'.repeat(100_000)), 1);
      response.on('close', () => {
        ended = true;
        clearInterval(more);
      });
    });
    expect(await firstAttempt()).toMatchObject({ status: 200, error: null, response_head: 'x'.repeat(1024) });
    await eventually('the connection is closed', () => ended);
  });

  it('a body that hangs does not take back a success', async () => {
    ledger.deliver({ timeoutMs: 300 });
    receiver.answer((_received, response) => {
      response.writeHead(202);
      response.write('\0begun');
    });
    expect(await firstAttempt()).toMatchObject({ status: 202, error: null, response_head: '\uFFFDbegun' });
  });

  it('garbage, a closed connection and a closed port are told as they are', async () => {
    ledger.deliver();
    receiver.answer((_received, response) => {
      response.socket?.end('this is not HTTP\r\n\r\n');
    });
    expect((await firstAttempt())?.error).toMatch(/^No answer: Parse Error/);
    receiver.answer((_received, response) => {
      response.socket?.destroy();
    });
    expect((await firstAttempt())?.error).toMatch(/^No answer: socket hang up/);
    const { url } = receiver;
    await receiver.close();
    const { endpointId } = await ledger.newEndpoint(url);
    await ledger.newKey();
    await eventually('the attempt is written down', async () => (await ledger.attempts(endpointId)).length >= 1);
    expect((await ledger.attempts(endpointId))[0]?.error).toMatch(/^No answer: .*ECONNREFUSED/);
    expect(ledger.errors).toEqual([]);
  });
});
