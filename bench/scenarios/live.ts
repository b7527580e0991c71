import { setTimeout as sleep } from 'node:timers/promises';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import type { LedgerDatabase } from '../database/ledger-database.ts';
import { reuseLogFiles } from '../database/reuse-log-files.ts';
import { describe } from '../interleave.ts';
import { startSubscribers, type Subscribers } from '../load/start-subscribers.ts';
import type { SubscriberPlan, SubscriberReport } from '../load/subscriber-plan.ts';
import { measure, type Measured, type Slot } from '../measure.ts';
import { residentMib } from '../processes/memory.ts';
import type { Subject } from '../subjects/keyledger-server.ts';
import { bearer, keyledgerSlot } from './slots.ts';

const KEYS = 10_000;
const SOCKETS = 1_000;
const WANTED_PER_SECOND = 5_000;
/** Of what the machine sustains with the sockets open; closer to it, a queue is measured and not the product. */
const SHARE_OF_CAPACITY = 0.6;
const PROBE_MS = 6_000;
/** Keys whose quota is set so that they raise an alert in the middle of each slot. */
const ALERTING_KEYS = 3;
const WARM_UP_SECONDS = 2;
/** So long before each turn the same load runs uncounted: the server has rested while the other one worked. */
const SETTLING_MS = 6_000;
/** What is under way when the load ends may take so long. */
const DRAIN_MS = 2_000;

type LiveSlot = {
  readonly measured: Measured;
  readonly told: SubscriberReport;
  readonly memoryMib: { readonly beginning: number; readonly end: number } | null;
};

/**
 * Two servers, each on a ledger of its own, and a thousand consoles that watch one of them. They get the same load in turns. The consoles stay: a thousand that open leave a server much to collect, and that
 * is not what is measured.
 */
export const live: Scenario = {
  name: 'live',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const { options, postgres, progress, signal } = bench;
    progress('  writing 1 GB of log, so that its files are used again');
    await reuseLogFiles(postgres.admin, signal);
    const unwatched = await startSide(bench, 'unwatched');
    const watched = await startSide(bench, 'watched');
    const subscribers = bench.keep(startSubscribers(signal));
    await subscribers.open(consolesOf(watched));
    const probe = await measure(bench, watched.slot, PROBE_MS);
    const perSecond = Math.min(WANTED_PER_SECOND, Math.floor(probe.perSecond * SHARE_OF_CAPACITY));
    progress(
      `  with ${SOCKETS} sockets this machine sustains ${Math.round(probe.perSecond)} verifications/s; the load is ${perSecond}/s${perSecond < WANTED_PER_SECOND ? `, not ${WANTED_PER_SECOND}` : ''}`,
    );
    const turns: { without: Measured; watched: LiveSlot }[] = [];
    const without = async (): Promise<Measured> => {
      const slot = { ...unwatched.slot, perSecond };
      await measure(bench, slot, SETTLING_MS);
      const measured = await measure(bench, slot, options.seconds * 1000);
      progress(`  without sockets: ${describe(measured)}`);
      return measured;
    };
    const withSockets = async (): Promise<LiveSlot> => {
      const slot = await watchedSlot(bench, { ...watched, slot: { ...watched.slot, perSecond } }, subscribers);
      const { measured, told, memoryMib } = slot;
      progress(`  with ${told.sockets} sockets: ${describe(measured)}`);
      progress(
        `  ${told.updates} updates, from commit to client p50 ${told.used.p50Ms} ms, p99 ${told.used.p99Ms} ms, at most ${told.used.maxMs} ms; ` +
          `${told.alerts.count} alerts, p99 ${told.alerts.p99Ms} ms; memory ${memoryMib?.beginning.toFixed(0) ?? '?'} to ${memoryMib?.end.toFixed(0) ?? '?'} MiB`,
      );
      return slot;
    };
    for (let turn = 0; turn < options.repetitions; turn++) {
      if (turn % 2 === 0) turns.push({ without: await without(), watched: await withSockets() });
      else turns.push({ watched: await withSockets(), without: await without() });
    }
    await Promise.all([unwatched.server.stop(), watched.server.stop(), subscribers.stop()]);
    const detail = { perSecond, probe, turns };
    const figures = (figure: (turn: (typeof turns)[number]) => number | null): readonly number[] =>
      turns.flatMap((turn) => {
        const value = figure(turn);
        return value === null ? [] : [value];
      });
    const memory = figures(({ watched: { memoryMib } }) => (memoryMib === null ? null : memoryMib.end / memoryMib.beginning));
    return [
      { row: 'live', values: figures((turn) => turn.watched.told.used.p99Ms), detail },
      { row: 'live-verify', values: figures((turn) => turn.watched.measured.p99Us / turn.without.p99Us), detail: { perSecond } },
      ...(memory.length === 0 ? [] : [{ row: 'live-memory' as const, values: memory, detail: { perSecond } }]),
    ];
  },
};

type Side = { readonly ledger: LedgerDatabase; readonly server: Subject; readonly slot: Slot };

async function startSide(bench: Bench, name: string): Promise<Side> {
  const ledger = await bench.newLedger(name, { keys: KEYS });
  const server = await bench.keyledger(ledger);
  return { ledger, server, slot: keyledgerSlot(ledger, [server]) };
}

function consolesOf({ ledger, server }: Side): SubscriberPlan {
  return {
    port: server.port,
    token: ledger.readerToken,
    organization: encodeGlobalId('Organization', ledger.organizationId),
    keys: Array.from({ length: SOCKETS }, (_, socket) =>
      ledger.keys.filter((__, index) => index % SOCKETS === socket).map(({ id }) => encodeGlobalId('ApiKey', id)),
    ),
  };
}

async function watchedSlot(bench: Bench, { ledger, server, slot }: Side, subscribers: Subscribers): Promise<LiveSlot> {
  await measure(bench, slot, SETTLING_MS);
  // The load goes through the keys in order, from the first one.
  const due = Math.floor((slot.perSecond ?? 0) * (WARM_UP_SECONDS + bench.options.seconds / 2));
  await armAlerts(ledger, server, due);
  const memory: Promise<number | null>[] = [];
  const measured = await measure(
    bench,
    {
      ...slot,
      onPhase(phase) {
        if (phase === 'measuring') subscribers.reset();
        memory.push(residentMib(server.pid));
      },
    },
    bench.options.seconds * 1000,
  );
  await sleep(DRAIN_MS, undefined, { signal: bench.signal });
  const told = await subscribers.report();
  if (told.failures > 0)
    throw new Error(`${told.failures} sockets or subscriptions failed; the first one: ${told.sampleFailure ?? '(none)'}`);
  if (told.updates === 0) throw new Error('nobody was told of any use');
  if (told.alerts.count === 0) throw new Error('nobody was told of an alert');
  const [beginning, end] = await Promise.all(memory);
  return { measured, told, memoryMib: beginning == null || end == null ? null : { beginning, end } };
}

/** Gives the keys that the n-th request and the next ones ask for the quota of which these use half, as their owner would. */
async function armAlerts({ owner, keys, readerToken }: LedgerDatabase, server: Subject, due: number): Promise<void> {
  const first = due % keys.length;
  const uses = Math.floor(due / keys.length) + 1;
  const { rows } = await owner.query<{ id: string; quota: number }>(
    `SELECT k.id, (2 * (w.day_closed + w.half_hour_count + $2))::float8 AS quota FROM api_keys k JOIN key_windows w ON w.key = k.number WHERE k.number = ANY ($1)`,
    [keys.slice(first, first + ALERTING_KEYS).map(({ number }) => number), uses],
  );
  for (const { id, quota } of rows) {
    const response = await fetch(`http://127.0.0.1:${server.port}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...bearer(readerToken) },
      body: JSON.stringify({
        query: 'mutation ($input: UpdateApiKeyInput!) { updateApiKey(input: $input) { __typename } }',
        variables: { input: { id: encodeGlobalId('ApiKey', id), quotas: { daily: quota } } },
      }),
    });
    const answer = await response.text();
    if (!answer.includes('"UpdateApiKeyPayload"')) throw new Error(`the quota of a key was not changed: ${answer}`);
  }
}
