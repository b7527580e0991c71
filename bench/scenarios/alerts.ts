import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import type { LedgerDatabase } from '../database/ledger-database.ts';
import type { SeededKey } from '../database/seed-keys.ts';
import { verifyBody } from '../load/http-request.ts';
import { measure } from '../measure.ts';
import { bearer, keyledgerSlot } from './slots.ts';

const LOAD_PER_SECOND = 5_000;
const PROBES = 100;
const DEADLINE_MS = 10_000;
const RAISED = 'subscription ($o: ID!) { alertRaised(organizationId: $o) { alert { details apiKey { keyId } } } }';
const RAISED_AFTER = `
  SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS p99, max(ms) AS max
  FROM (
    SELECT extract(epoch FROM a.raised_at - u.recorded_at)::float8 * 1000 AS ms
    FROM alerts a JOIN api_keys k ON k.id = a.key_id
    CROSS JOIN LATERAL (SELECT u.recorded_at FROM usage_events u WHERE u.key = k.number ORDER BY u.position OFFSET CASE a.details ->> 'percent' WHEN '50' THEN 0 ELSE 1 END LIMIT 1) AS u
    WHERE a.details ->> 'percent' IN ('50', '100')) AS lags`;
const CAP = 'mutation ($input: UpdateApiKeyInput!) { updateApiKey(input: $input) { __typename ... on UserError { message } } }';

/** Keys with a quota of two are used under load: how soon are the alerts of 50 and of 100 % on a subscriber's socket? */
export const alerts: Scenario = {
  name: 'alerts',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const { options, progress } = bench;
    const ledger = await bench.newLedger('alerts', { keys: options.coldKeys + PROBES });
    const server = await bench.keyledger(ledger);
    const [probes, loaded] = [ledger.keys.slice(0, PROBES), ledger.keys.slice(PROBES)];
    for (const { id } of probes) {
      const input = { id: encodeGlobalId('ApiKey', id), quotas: { total: 2 } };
      await post(server.port, '/graphql', JSON.stringify({ query: CAP, variables: { input } }), ledger.readerToken, 'UpdateApiKeyPayload');
    }
    const followed = followAlerts(server.port, ledger);
    await sleep(1_000);
    const latency = createHistogram({ lowest: 1, highest: 60_000_000, figures: 3 });
    const slot = { ...keyledgerSlot(ledger, [server], loaded), name: 'verify beside alerts', perSecond: LOAD_PER_SECOND };
    const spanMs = options.seconds * 1000 * options.repetitions;
    const load = measure(bench, slot, spanMs);
    // Each probe is used once in the first half and once in the second, on a schedule that waits for no alert: all of it happens beside the load.
    const crossings: Promise<number>[] = [];
    for (const percent of [50, 100]) {
      for (const probe of probes) {
        crossings.push(crossing(server.port, ledger, probe, percent, followed));
        await sleep((0.9 * spanMs) / (2 * PROBES));
      }
    }
    for (const ms of await Promise.all(crossings)) latency.record(Math.round(ms * 1000));
    const loadMeasured = await load;
    const { rows: lags } = await ledger.owner.query<{ p50: number; p99: number; max: number }>(RAISED_AFTER);
    await followed.stop();
    await server.stop();
    const detail = {
      p50Ms: latency.percentile(50) / 1000,
      p99Ms: latency.percentile(99) / 1000,
      maxMs: latency.max / 1000,
      /** From the moment of the request in the log to that of the alert; what is left is the way there and the way back. */
      raisedAfterMs: lags[0],
      load: loadMeasured,
    };
    progress(
      `  alert on the socket: p50 ${detail.p50Ms.toFixed(0)} ms, p99 ${detail.p99Ms.toFixed(0)} ms, at most ${detail.maxMs.toFixed(0)} ms (raised after ${detail.raisedAfterMs?.p50.toFixed(0)}, ${detail.raisedAfterMs?.p99.toFixed(0)}, ${detail.raisedAfterMs?.max.toFixed(0)} ms), beside ${loadMeasured.perSecond.toFixed(0)} verifications/s`,
    );
    if (loadMeasured.perSecond < 0.9 * LOAD_PER_SECOND)
      throw new Error(
        `${loadMeasured.perSecond.toFixed(0)} verifications/s is all that this machine gave: a figure beside those is not the row's`,
      );
    return [{ row: 'alert-latency', values: [detail.p99Ms], detail }];
  },
};

type Followed = { arrival(keyId: string, percent: number): Promise<number>; stop(): Promise<void> };

/** One subscriber; when each alert came, by key and percentage. */
function followAlerts(port: number, ledger: LedgerDatabase): Followed {
  const waiting = new Map<string, PromiseWithResolvers<number>>();
  const waitFor = (keyId: string, percent: number): PromiseWithResolvers<number> => {
    const name = `${keyId} ${percent}`;
    const found = waiting.get(name) ?? Promise.withResolvers<number>();
    waiting.set(name, found);
    return found;
  };
  const client = createClient({
    url: `ws://127.0.0.1:${port}/graphql`,
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${ledger.readerToken}` },
    lazy: false,
    retryAttempts: 0,
    onNonLazyError: () => undefined,
  });
  client.subscribe<{ alertRaised: { alert: { details: { percent: number }; apiKey: { keyId: string } } } }>(
    { query: RAISED, variables: { o: encodeGlobalId('Organization', ledger.organizationId) } },
    {
      next: ({ data }) => {
        const alert = data?.alertRaised.alert;
        if (alert !== undefined) waitFor(alert.apiKey.keyId, alert.details.percent).resolve(performance.now());
      },
      error: () => undefined,
      complete: () => undefined,
    },
  );
  return { arrival: (keyId, percent) => waitFor(keyId, percent).promise, stop: async () => client.dispose() };
}

/** Uses a key once, and answers after how long the alert of that percentage was there. */
async function crossing(port: number, ledger: LedgerDatabase, key: SeededKey, percent: number, followed: Followed): Promise<number> {
  const sentMs = performance.now();
  await post(port, '/v1/verify', verifyBody(key.secret), ledger.gatewayToken, '"valid":true');
  const arrived = await Promise.race([followed.arrival(key.id, percent), sleep(DEADLINE_MS, null, { ref: false })]);
  if (arrived === null) throw new Error(`no alert of ${percent} % came within ${DEADLINE_MS} ms`);
  return arrived - sentMs;
}

async function post(port: number, path: string, body: string, token: string, expected: string): Promise<void> {
  const headers = { 'content-type': 'application/json', accept: 'application/json', ...bearer(token) };
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', headers, body });
  const text = await answer.text();
  if (!text.includes(expected)) throw new Error(`${path} was answered ${answer.status} ${text.slice(0, 400)}`);
}
