import { randomBytes } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { createPeppers } from '../../src/identity/pepper.ts';
import { resealWebhookSecrets } from '../../src/webhooks/reseal-secrets.ts';
import { eventually } from '../graphql/graphql-server.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';
import { openReceiver, type Received, type Receiver } from './receiver.ts';
import { LOOPBACK, openWebhookLedger, type WebhookLedger } from './webhook-ledger.ts';

const HOUR_MS = 60 * 60 * 1000;

function accepts(secret: string, message: Received | undefined): boolean {
  try {
    new Webhook(secret).verify(message?.body ?? '', message?.headers ?? {});
    return true;
  } catch {
    return false;
  }
}

describe("6.3 an endpoint's signing secret", () => {
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

  async function told(): Promise<Received | undefined> {
    const before = receiver.received.length;
    await ledger.newKey();
    await eventually('the receiver is told', () => receiver.received.length > before);
    return receiver.received.at(-1);
  }

  it('is replaced without a message that a receiver with either can not verify', async () => {
    const clock = await installTestClock(ledger.testDatabase);
    ledger.deliver();
    const { endpointId, secret: old } = await ledger.newEndpoint(receiver.url);
    const rotated = done(await ledger.webhooks.rotateSecret(ledger.owner, { id: endpointId, idempotencyKey: 'rotate' }));
    const fresh = rotated.secret?.reveal() ?? '';
    expect(fresh).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);

    const during = await told();
    expect(during?.headers['webhook-signature']).toMatch(/^v1,\S{44} v1,\S{44}$/);
    expect([accepts(old, during), accepts(fresh, during)]).toEqual([true, true]);

    await clock.advance(25 * HOUR_MS);
    const after = await told();
    expect(after?.headers['webhook-signature']).toMatch(/^v1,\S{44}$/);
    expect([accepts(old, after), accepts(fresh, after)]).toEqual([false, true]);

    // A retry of the mutation shows the same secret and rotates no further.
    const again = done(await ledger.webhooks.rotateSecret(ledger.owner, { id: endpointId, idempotencyKey: 'rotate' }));
    expect(again.secret?.reveal()).toBe(fresh);
    expect(again.replayed).toBe(true);
    await clock.close();
  });

  it('of three only the two newest sign', async () => {
    ledger.deliver();
    const { endpointId, secret: first } = await ledger.newEndpoint(receiver.url);
    const second = done(await ledger.webhooks.rotateSecret(ledger.owner, { id: endpointId })).secret?.reveal() ?? '';
    const third = done(await ledger.webhooks.rotateSecret(ledger.owner, { id: endpointId })).secret?.reveal() ?? '';
    const message = await told();
    expect([first, second, third].map((secret) => accepts(secret, message))).toEqual([false, true, true]);
  });

  it('can be read nowhere in the database, and a row that is moved to another endpoint opens nothing', async () => {
    const { endpointId, secret } = await ledger.newEndpoint(receiver.url);
    const other = await ledger.newEndpoint(receiver.url);
    await asAdmin(async (admin) => {
      const { rows } = await admin.query<{ name: string }>("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'keyledger'");
      expect(rows.length).toBeGreaterThan(20);
      const key = Buffer.from(secret.slice('whsec_'.length), 'base64').toString('hex');
      for (const { name } of rows) {
        const { rows: found } = await admin.query<{ text: string }>(`SELECT t::text AS text FROM keyledger.${name} t`);
        for (const { text } of found) for (const form of [secret, secret.slice(6), key]) expect(text).not.toContain(form);
      }
    }, ledger.testDatabase.name);

    const stolen = await ledger.db
      .selectFrom('webhook_secrets')
      .selectAll()
      .where('endpoint_id', '=', endpointId)
      .executeTakeFirstOrThrow();
    await ledger.db
      .updateTable('webhook_secrets')
      .set({ sealed: stolen.sealed, fingerprint: stolen.fingerprint })
      .where('endpoint_id', '=', other.endpointId)
      .execute();
    ledger.deliver();
    await ledger.newKey();
    await eventually('the attempt is written down', async () => (await ledger.attempts(other.endpointId)).length === 1);
    expect((await ledger.attempts(other.endpointId))[0]?.error).toMatch(/row was changed.*Rotate the endpoint's secret/);
    expect(receiver.received.map((message) => accepts(secret, message))).toEqual([true]);
  });

  it('is erased with the endpoint, from the answers kept for retries too', async () => {
    const created = await ledger.webhooks.create(ledger.owner, {
      organizationId: ledger.organization.id,
      url: receiver.url,
      idempotencyKey: 'create',
    });
    const { endpointId } = done(created).result;
    await ledger.webhooks.delete(ledger.owner, { id: endpointId });
    expect(await ledger.db.selectFrom('webhook_secrets').selectAll().execute()).toEqual([]);
    expect(await ledger.db.selectFrom('idempotency').select('sealed_secret').execute()).toEqual([{ sealed_secret: null }]);
  });

  it('is sealed anew when the pepper is replaced, after which the old pepper is needed no more', async () => {
    const { endpointId, secret } = await ledger.newEndpoint(receiver.url);
    const [one, two] = [randomBytes(32), randomBytes(32)];
    const sealedUnder = async () =>
      (await ledger.db.selectFrom('webhook_secrets').select('pepper_id').where('endpoint_id', '=', endpointId).executeTakeFirstOrThrow())
        .pepper_id;

    const current = ledger.peppers.current;
    expect(await sealedUnder()).toBe(current.id);
    // A server with a new pepper before the old one.
    const pepperOf = (id: string) => ({ id, key: id === current.id ? current.key.export() : id === 'p2' ? one : two });
    const errors: Error[] = [];
    const onError = (error: Error): void => void errors.push(error);
    await resealWebhookSecrets(ledger.db, createPeppers([pepperOf('p2'), pepperOf(current.id)]), onError);
    expect(await sealedUnder()).toBe('p2');

    const second = await openTestLedger({ on: ledger, peppers: createPeppers([pepperOf('p2')]), webhookAllowPrivate: LOOPBACK });
    const deliverer = ledger.deliver({}, second);
    const message = await told();
    expect(accepts(secret, message)).toBe(true);
    await deliverer.stop();
    await second.close();
    expect(errors).toEqual([]);

    // A pepper that is gone: nothing is sent, and it is said what to do.
    await resealWebhookSecrets(ledger.db, createPeppers([pepperOf('p3')]), onError);
    expect(errors.map((error) => error.message)).toEqual([
      `Webhook endpoint ${endpointId}: The signing secret is sealed under the pepper 'p2', which KEY_PEPPERS no longer has. Put it back, or rotate the endpoint's secret.`,
    ]);
    expect(await sealedUnder()).toBe('p2');
  });
});
