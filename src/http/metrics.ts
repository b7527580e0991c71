import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

import { VERIFICATION_CODES, type VerificationCode } from '../domain/refusals.ts';
import { registerAnswerCounts } from './answer-counts.ts';
import { registerLagGauges, type Lags } from './lag-gauges.ts';

const DATABASE_DEADLINE_MS = 1000;
/** A receiver has ten seconds. */
const WEBHOOK_BUCKETS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const WEBHOOK_OUTCOMES = ['delivered', 'retry', 'failed', 'gone'] as const;
export type WebhookOutcome = (typeof WEBHOOK_OUTCOMES)[number];

/** What the gauges read when they are scraped. */
export type MetricSources = {
  readonly pool: { readonly totalCount: number; readonly idleCount: number; readonly waitingCount: number };
  /** Of the verifications' batches. */
  readonly admission: { queued(): number; inFlight(): number; connected(): boolean };
  /** Positions in the log; asked of the database. */
  readonly positions: () => Promise<{
    readonly head: bigint;
    readonly projectors: readonly { readonly name: string; readonly position: bigint }[];
  }>;
  /** Of alerts and webhooks; asked of the database. */
  readonly lags: () => Promise<Lags>;
  readonly subscriptions: () => number;
};

export type HttpMetrics = {
  answered(route: string, status: number, durationMs: number): void;
};
export type DataPlaneMetrics = {
  verified(code: VerificationCode): void;
  usageRecorded(accepted: number, duplicates: number): void;
};
export type WebhookMetrics = {
  webhookAttempted(outcome: WebhookOutcome, durationMs: number): void;
};
export type Metrics = HttpMetrics &
  DataPlaneMetrics &
  WebhookMetrics & {
    /** Prometheus text format 0.0.4. Without positions and lags where the database doesn't tell them within a second. */
    text(): Promise<string>;
    readonly contentType: string;
  };

/** The metrics of one server in a registry of its own. No label holds a tenant, a key or anything that a client chose. */
export function createMetrics(sources: MetricSources): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const answered = registerAnswerCounts(registry);
  // By prom-client only when it is scraped, as the answers.
  const verified = new Map<VerificationCode, number>(VERIFICATION_CODES.map((code) => [code, 0]));
  const verifications = new Counter({
    name: 'keyledger_verifications_total',
    help: 'Answers to verifications, over HTTP alone, in batches, for gateways and over GraphQL',
    labelNames: ['code'],
    registers,
    collect() {
      verifications.reset();
      for (const [code, count] of verified) verifications.inc({ code }, count);
    },
  });
  const usage = new Counter({ name: 'keyledger_usage_items_total', help: 'Items of POST /v1/usage', labelNames: ['outcome'], registers });
  const webhookAttempts = new Counter({
    name: 'keyledger_webhook_attempts_total',
    help: 'Attempts to deliver a webhook',
    labelNames: ['outcome'],
    registers,
  });
  const webhookDurations = new Histogram({
    name: 'keyledger_webhook_attempt_duration_seconds',
    help: 'From the first question to DNS to the answer of the receiver',
    buckets: WEBHOOK_BUCKETS,
    registers,
  });
  registerProcessGauges(registry, sources);
  const readPositions = registerPositionGauges(registry, sources);
  const readLags = registerLagGauges(registry, sources.lags);

  // Counted from 0, so that the first of its kind shows as an increase.
  for (const outcome of WEBHOOK_OUTCOMES) webhookAttempts.inc({ outcome }, 0);
  const accepted = usage.labels('accepted');
  const repeated = usage.labels('duplicate');
  let reading: Promise<unknown> | undefined;

  return {
    answered,
    verified(code) {
      verified.set(code, (verified.get(code) ?? 0) + 1);
    },
    usageRecorded(recorded, duplicates) {
      accepted.inc(recorded);
      repeated.inc(duplicates);
    },
    webhookAttempted(outcome, durationMs) {
      webhookAttempts.inc({ outcome });
      webhookDurations.observe(durationMs / 1000);
    },
    async text() {
      // Scrapes that come together, or while the database hangs, share one question to it.
      reading ??= Promise.all([readPositions(), readLags()]).finally(() => (reading = undefined));
      await Promise.race([reading, deadline()]);
      return registry.metrics();
    },
    contentType: registry.contentType,
  };
}

function deadline(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, DATABASE_DEADLINE_MS).unref());
}

function registerProcessGauges(registry: Registry, { pool, admission, subscriptions }: MetricSources): void {
  const registers = [registry];
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  gauge('keyledger_pool_connections', 'Open connections of the pool', () => pool.totalCount);
  gauge('keyledger_pool_idle_connections', 'Connections of the pool that nobody uses', () => pool.idleCount);
  gauge('keyledger_pool_waiting', 'Requests that wait for a connection of the pool', () => pool.waitingCount);
  gauge('keyledger_verify_queued', 'Verifications that wait for the next batch', () => admission.queued());
  gauge('keyledger_verify_batches_in_flight', 'Batches of verifications at the database', () => admission.inFlight());
  gauge('keyledger_verify_connected', '1 while the connection of the verifications is open', () => (admission.connected() ? 1 : 0));
  gauge('keyledger_subscriptions', 'Open GraphQL subscriptions', subscriptions);
}

/** Positions are read before a scrape and not in it, so that a database that hangs costs the scrape nothing but these. */
function registerPositionGauges(registry: Registry, { positions }: MetricSources): () => Promise<void> {
  const registers = [registry];
  const head = new Gauge({ name: 'keyledger_log_head_position', help: 'Position of the newest event', registers });
  const projectors = new Gauge({
    name: 'keyledger_projector_position',
    help: 'Up to where a projector has folded the log',
    labelNames: ['projector'],
    registers,
  });
  const up = new Gauge({
    name: 'keyledger_database_up',
    help: '1 where the database answered the last question about positions',
    registers,
  });
  return async () => {
    up.set(0);
    // Not `reset`, which would show position 0.
    head.remove();
    projectors.reset();
    try {
      const found = await positions();
      // Exact up to 2^53 events, which is further than any log gets.
      head.set(Number(found.head));
      for (const { name, position } of found.projectors) projectors.set({ projector: name }, Number(position));
      up.set(1);
    } catch {
      // keyledger_database_up says it
    }
  };
}
