import { subjectOfStream } from '../../src/graphql/global-id.ts';
import { createProjector } from '../../src/projections/projector.ts';
import { createDeliverer, type Deliverer, type DelivererOptions } from '../../src/webhooks/deliverer.ts';
import { webhookProjection } from '../../src/webhooks/delivery-projection.ts';
import { resolveHost } from '../../src/webhooks/resolve-host.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

export const LOOPBACK = ['127.0.0.0/8'];

export type WebhookLedger = Awaited<ReturnType<typeof openWebhookLedger>>;

/** A ledger whose deliveries are made and sent. `deliverers: 0` makes them alone. */
export async function openWebhookLedger(
  options: { readonly allowPrivate?: readonly string[]; readonly deliverer?: Partial<DelivererOptions> } = {},
) {
  const ledger = await openTestLedger({ webhookAllowPrivate: options.allowPrivate ?? LOOPBACK });
  const deliverers = new Set<Deliverer>();
  const projector = createProjector({
    database: ledger.database,
    projections: [webhookProjection(() => deliverers.forEach((deliverer) => deliverer.wake()))],
    pollMs: 20,
    pauseMs: 5,
    onError: (error) => ledger.errors.push(error),
    onPoisoned: () => undefined,
  });

  function deliver(more: Partial<DelivererOptions> = {}, on: TestLedger = ledger): Deliverer {
    const deliverer = createDeliverer({
      database: on.database,
      peppers: on.peppers,
      policy: on.policy,
      resolve: resolveHost,
      commands: on.webhooks,
      subjectIdOf: subjectOfStream,
      pollMs: 20,
      onError: (error) => ledger.errors.push(error),
      ...options.deliverer,
      ...more,
    });
    deliverers.add(deliverer);
    return deliverer;
  }

  return {
    ...ledger,
    deliver,
    async newEndpoint(url: string, input: Readonly<Record<string, unknown>> = {}) {
      const outcome = done(
        await ledger.webhooks.create(ledger.owner, { organizationId: ledger.organization.id, url, eventTypes: ['KeyCreated'], ...input }),
      );
      if (outcome.secret === null) throw new Error('the new endpoint has no secret');
      return { endpointId: outcome.result.endpointId, secret: outcome.secret.reveal() };
    },
    deliveries: (endpointId: string) =>
      ledger.db.selectFrom('webhook_deliveries').selectAll().where('endpoint_id', '=', endpointId).orderBy('event_position').execute(),
    attempts: (endpointId: string) =>
      ledger.db
        .selectFrom('webhook_attempts as a')
        .innerJoin('webhook_deliveries as d', 'd.id', 'a.delivery_id')
        .selectAll('a')
        .where('d.endpoint_id', '=', endpointId)
        .orderBy('a.id')
        .execute(),
    async close() {
      await projector.stop();
      await Promise.all([...deliverers].map((deliverer) => deliverer.stop()));
      await ledger.close();
    },
  };
}
