// A process of its own: sockets that follow keys and alerts, as graphql-transport-ws has it, and time what they are told. Speaks over the IPC channel and ends with it.
import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

import type { FromSubscribers, SubscriberPlan, SubscriberReport, ToSubscribers } from './subscriber-plan.ts';
import { openWsConnection, type WsConnection } from './ws-connection.ts';

const OPENING = 50;
const SETTLE_MS = 1000;
const KEY_USED = `subscription Used($organization: ID!, $keys: [ID!]) {
  keyUsed(organizationId: $organization, keyIds: $keys) { position keyId requests lastUsedAt } }`;
const ALERT_RAISED = `subscription Alerts($organization: ID!) {
  alertRaised(organizationId: $organization) { position alert { id kind message raisedAt } } }`;
const MOMENT = /"(lastUsedAt|raisedAt)":"([^"]+)"/;

const used = createHistogram({ lowest: 1, highest: 600_000, figures: 3 });
const alerts = createHistogram({ lowest: 1, highest: 600_000, figures: 3 });
let updates = 0;
let failures = 0;
let sampleFailure: string | null = null;
let closing = false;

function tell(message: FromSubscribers): void {
  process.send?.(message);
}

function fail(what: string): void {
  if (closing) return;
  failures++;
  sampleFailure ??= what.slice(0, 400);
}

async function open({ port, token, organization }: SubscriberPlan, keys: readonly string[]): Promise<WsConnection> {
  const acknowledged = Promise.withResolvers<void>();
  const onText = (message: Buffer): void => {
    const nowMs = Date.now();
    const text = message.toString('latin1');
    const [, kind, moment] = MOMENT.exec(text) ?? [];
    if (moment === undefined || text.includes('"errors"')) {
      if (text.includes('"connection_ack"')) return acknowledged.resolve();
      if (text.includes('"ping"')) return socket.send('{"type":"pong"}');
      return fail(text);
    }
    const latencyMs = Math.max(1, nowMs - Date.parse(moment));
    if (kind === 'raisedAt') return alerts.record(latencyMs);
    updates++;
    used.record(latencyMs);
  };
  const onClosed = (why: string): void => {
    fail(why);
    acknowledged.reject(new Error(why));
  };
  const socket = await openWsConnection(port, '/graphql', 'graphql-transport-ws', { onText, onClosed });
  const send = (message: object): void => socket.send(JSON.stringify(message));
  send({ type: 'connection_init', payload: { authorization: `Bearer ${token}` } });
  await acknowledged.promise;
  send({ id: 'used', type: 'subscribe', payload: { query: KEY_USED, variables: { organization, keys } } });
  send({ id: 'alerts', type: 'subscribe', payload: { query: ALERT_RAISED, variables: { organization } } });
  return socket;
}

const sockets: WsConnection[] = [];

async function openAll(plan: SubscriberPlan): Promise<void> {
  for (let start = 0; start < plan.keys.length; start += OPENING) {
    sockets.push(...(await Promise.all(plan.keys.slice(start, start + OPENING).map((keys) => open(plan, keys)))));
  }
  // The protocol has no word for a subscription that has begun.
  await sleep(SETTLE_MS);
}

function report(): SubscriberReport {
  const figures = (histogram: typeof used) => ({
    count: histogram.count,
    p50Ms: histogram.percentile(50),
    p99Ms: histogram.percentile(99),
    maxMs: histogram.count === 0 ? 0 : histogram.max,
  });
  return { sockets: sockets.length, updates, used: figures(used), alerts: figures(alerts), failures, sampleFailure };
}

process.on('message', (message: ToSubscribers) => {
  switch (message.kind) {
    case 'open':
      openAll(message.plan).then(
        () => tell({ kind: 'opened' }),
        (error: unknown) => tell({ kind: 'failed', message: String(error) }),
      );
      return;
    case 'reset':
      used.reset();
      alerts.reset();
      updates = 0;
      return;
    case 'report':
      return tell({ kind: 'report', report: report() });
    case 'close':
      closing = true;
      for (const socket of sockets.splice(0)) socket.close();
      return tell({ kind: 'closed' });
  }
  message satisfies never;
});
process.once('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
