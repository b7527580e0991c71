import { createHistogram } from 'node:perf_hooks';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { awaitQuiet } from '../database/await-quiet.ts';
import type { LedgerDatabase } from '../database/ledger-database.ts';
import { seedYear } from '../database/seed-year.ts';
import { KEY_LIST_QUESTIONS, LOG_QUESTIONS, USAGE_QUESTIONS, type Question } from './statistics-questions.ts';

const CATEGORIES = 100;
const WARM_UP = 20;
const ASKED = 200;

export type Latency = { readonly p50Ms: number; readonly p99Ms: number; readonly maxMs: number };

/** A large ledger's console: one client that asks one question after another. */
export const statistics: Scenario = {
  name: 'statistics',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const { options, progress, signal } = bench;
    // Categories of a thousand keys each, spread over the whole table.
    const ledger = await bench.newLedger('statistics', { keys: options.bigKeys, categoryOf: (index) => `category ${index % CATEGORIES}` });
    await seedYear(ledger, { events: options.bigEvents, signal, onProgress: progress });
    progress('the statistics are folded now');
    const server = await bench.keyledger(ledger);
    const folded = await awaitQuiet(bench.postgres.admin, ledger, signal);
    progress(`  ${folded.lagEvents} events folded in ${folded.seconds.toFixed(0)} s`);
    await ledger.owner.query('VACUUM ANALYZE usage_counters, usage_breakdown, key_last_used, api_keys');
    const rows: RowMeasurement[] = [];
    for (const [row, questions] of [
      ['statistics', USAGE_QUESTIONS],
      ['request-log', LOG_QUESTIONS],
      ['key-list', KEY_LIST_QUESTIONS],
    ] as const) {
      const detail: Record<string, Latency> = {};
      for (const question of questions) {
        const latency = await timed(server.port, ledger, question, signal);
        detail[question.name] = latency;
        progress(
          `  ${question.name}: p50 ${latency.p50Ms.toFixed(1)} ms, p99 ${latency.p99Ms.toFixed(1)} ms, at most ${latency.maxMs.toFixed(1)} ms`,
        );
      }
      rows.push({ row, values: [Math.max(...Object.values(detail).map(({ p99Ms }) => p99Ms))], detail: { folded, questions: detail } });
    }
    await server.stop();
    return rows;
  },
};

export async function timed(port: number, ledger: LedgerDatabase, question: Question, signal: AbortSignal): Promise<Latency> {
  const latency = createHistogram({ lowest: 1, highest: 60_000_000, figures: 3 });
  const organization = encodeGlobalId('Organization', ledger.organizationId);
  for (let turn = -WARM_UP; turn < ASKED; turn++) {
    // Each turn another key and category, all over the table; a hash, so that neighbours in time are none on disk.
    const key = ledger.keys[question.hot === true ? 0 : Math.abs(turn * 7919) % ledger.keys.length];
    const variables = { organization, key: encodeGlobalId('ApiKey', key?.id ?? ''), category: `category ${Math.abs(turn) % CATEGORIES}` };
    const body = JSON.stringify({ query: question.query, variables: { ...variables, ...question.variables() } });
    const startMs = performance.now();
    const answer = await fetch(`http://127.0.0.1:${port}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json', authorization: `Bearer ${ledger.readerToken}` },
      body,
      signal,
    });
    const text = await answer.text();
    if (turn >= 0) latency.record(Math.max(1, Math.round((performance.now() - startMs) * 1000)));
    if (!answer.ok || text.includes('"errors"')) throw new Error(`${question.name}: ${answer.status} ${text.slice(0, 600)}`);
    question.onAnswer?.(text);
  }
  return { p50Ms: latency.percentile(50) / 1000, p99Ms: latency.percentile(99) / 1000, maxMs: latency.max / 1000 };
}
