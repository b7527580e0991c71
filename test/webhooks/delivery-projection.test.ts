import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { webhookProjection } from '../../src/webhooks/delivery-projection.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;
let endpointId: string;
let key: { readonly secret: string };
let made = 0;
const projection = webhookProjection(() => made++);
const fold = () => projection.fold(ledger.db, { state: 'live', limit: 1000 });
const checkpoint = async () =>
  (await ledger.db.selectFrom('projections').select('position').where('name', '=', 'webhooks').executeTakeFirstOrThrow()).position;
const deliveries = async () =>
  (await ledger.db.selectFrom('webhook_deliveries').select('event_position').where('endpoint_id', '=', endpointId).execute()).length;

beforeAll(async () => {
  ledger = await openTestLedger({ webhookAllowPrivate: ['127.0.0.0/8'] });
  const created = await ledger.webhooks.create(ledger.owner, {
    organizationId: ledger.organization.id,
    url: 'http://127.0.0.1:9/',
    eventTypes: ['KeyCreated'],
  });
  endpointId = done(created).result.endpointId;
  key = await ledger.newKey();
  await fold();
});
afterAll(() => ledger.close());

async function use(): Promise<bigint> {
  const answer = await ledger.verify(key.secret);
  if (answer.kind !== 'answer' || answer.position === null) throw new Error('nothing was recorded');
  return answer.position;
}

test('usage is passed over, and an event between usage is delivered', async () => {
  const [before, calls] = [await deliveries(), made];
  let head = await use();
  expect(await fold()).toEqual({ position: head, head, parked: [] });
  expect(await checkpoint()).toBe(head);
  expect(await fold()).toEqual({ position: head, head, parked: [] });
  expect([await deliveries(), made]).toEqual([before, calls]);

  await use();
  await ledger.newKey();
  head = await use();
  expect(await fold()).toEqual({ position: head, head, parked: [] });
  expect([await deliveries(), made]).toEqual([before + 1, calls + 1]);
  expect(await checkpoint()).toBe(head);
});

test('where another session is at it, nobody waits, and nothing is passed over', async () => {
  const before = await checkpoint();
  const head = await use();
  const held = Promise.withResolvers<void>();
  const holding = Promise.withResolvers<void>();
  const other = ledger.db.transaction().execute(async (tx) => {
    await sql`SELECT FROM projections WHERE name = 'webhooks' FOR UPDATE`.execute(tx);
    holding.resolve();
    await held.promise;
  });
  await holding.promise;
  expect(await fold()).toBeNull();
  expect(await checkpoint()).toBe(before);
  held.resolve();
  await other;
  expect(await fold()).toEqual({ position: head, head, parked: [] });
});
