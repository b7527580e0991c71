import { Gauge, type Registry } from 'prom-client';

/** By how much what follows the log is behind; asked of the database, and so the same on every server. */
export type Lags = {
  readonly alerts: readonly { readonly evaluation: string; readonly events: number; readonly seconds: number }[];
  /** Seconds, by the kind of endpoint. */
  readonly deliveries: { readonly healthy: number; readonly troubled: number };
};

/** Read before a scrape and not in it, as positions are. None of them is shown where the database doesn't tell. */
export function registerLagGauges(registry: Registry, read: () => Promise<Lags>): () => Promise<void> {
  const registers = [registry];
  const events = new Gauge({
    name: 'keyledger_alert_evaluation_lag_events',
    help: 'Events that no evaluation of alerts has seen yet',
    labelNames: ['evaluation'],
    registers,
  });
  const seconds = new Gauge({
    name: 'keyledger_alert_evaluation_lag_seconds',
    help: 'Age of the oldest event that an evaluation of alerts has not seen yet',
    labelNames: ['evaluation'],
    registers,
  });
  const deliveries = new Gauge({
    name: 'keyledger_webhook_delivery_lag_seconds',
    help: 'For how long the webhook delivery that waits longest has been due',
    labelNames: ['endpoints'],
    registers,
  });
  return async () => {
    for (const gauge of [events, seconds, deliveries]) gauge.reset();
    try {
      const lags = await read();
      for (const { evaluation, ...behind } of lags.alerts) {
        events.set({ evaluation }, behind.events);
        seconds.set({ evaluation }, behind.seconds);
      }
      deliveries.set({ endpoints: 'healthy' }, lags.deliveries.healthy);
      deliveries.set({ endpoints: 'troubled' }, lags.deliveries.troubled);
    } catch {
      // keyledger_database_up says it
    }
  };
}
