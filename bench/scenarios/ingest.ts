import pg from 'pg';

import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { awaitQuiet } from '../database/await-quiet.ts';
import { copyIn } from '../database/copy-in.ts';
import type { LedgerDatabase } from '../database/ledger-database.ts';
import { describe } from '../interleave.ts';
import { postRequest } from '../load/http-request.ts';
import { measure, type Measured } from '../measure.ts';
import { bearer } from './slots.ts';

const BATCH = 1_000;
/** Different batches that the load goes round in. */
const BATCHES = 50;
/** Reporters at a time, and COPY sessions. */
const CONNECTIONS = 4;
const COPIED_COLUMNS =
  'position, recorded_at, organization, key, credits, kind, code, status, duration_ms, cost_micros, tokens_in, tokens_out, ip, endpoint, model';
/** Positions of copied rows all have so many digits, the last three counting within the batch. */
const FIRST_COPIED_POSITION = 1_000_000_000;

type Copied = { readonly rows: number; readonly seconds: number; readonly perSecond: number };

/** Reports of a thousand requests each over HTTP; beside it the same rows by COPY, in as many batches at a time, each committed. */
export const ingest: Scenario = {
  name: 'ingest',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const { options, progress, signal } = bench;
    const ledger = await bench.newLedger('ingest', { keys: options.keys });
    await createCopyTarget(ledger);
    const server = await bench.keyledger(ledger);
    const slot = {
      name: 'POST /v1/usage',
      subjects: [server],
      requests: [
        Array.from({ length: BATCHES }, (_, batch) => postRequest('/v1/usage', reportOf(ledger, batch), bearer(ledger.gatewayToken))),
      ],
      expect: `"accepted":${BATCH}`,
      connections: CONNECTIONS,
      ledger,
    };
    const http: Measured[] = [];
    const copy: Copied[] = [];
    await measure(bench, slot, Math.min(options.seconds, 3) * 1000);
    for (let repetition = 0; repetition < options.repetitions; repetition++) {
      const reported = await measure(bench, slot, options.seconds * 1000);
      http.push(reported);
      const copied = await copyFor(bench, ledger, options.seconds * 1000);
      copy.push(copied);
      await awaitQuiet(bench.postgres.admin, ledger, signal);
      progress(`  POST /v1/usage, ${Math.round(reported.perSecond * BATCH)} items/s: ${describe(reported)}`);
      progress(`  COPY: ${Math.round(copied.perSecond)} rows/s`);
    }
    await server.stop();
    const values = http.map(({ perSecond }, index) => (perSecond * BATCH) / (copy[index]?.perSecond ?? Number.NaN));
    return [{ row: 'ingest', values, detail: { http, copy, itemsPerRequest: BATCH } }];
  },
};

type Item = { readonly key: LedgerDatabase['keys'][number]; readonly durationMs: number; readonly tokens: number };

function items({ keys }: LedgerDatabase, batch: number): readonly Item[] {
  return Array.from({ length: BATCH }, (_, index) => {
    const number = batch * BATCH + index;
    // 7919 is prime: neighbours are of different keys, all keys have their turn.
    const key = keys[(number * 7919) % keys.length];
    if (key === undefined) throw new Error('the ledger has no keys');
    return { key, durationMs: 20 + (number % 900), tokens: 100 + (number % 4_000) };
  });
}

function reportOf(ledger: LedgerDatabase, batch: number): string {
  return JSON.stringify(
    items(ledger, batch).map(({ key, durationMs, tokens }) => ({
      keyId: key.id,
      endpoint: 'POST /v1/completions',
      status: 200,
      durationMs,
      ip: '203.0.113.7',
      costMicros: tokens * 3,
      tokensIn: tokens,
      tokensOut: tokens,
      model: 'large-1',
    })),
  );
}

/** Of the shape of one partition of usage_events: the same columns and the same indexes, the one that stays empty here included. */
async function createCopyTarget({ owner }: LedgerDatabase): Promise<void> {
  await owner.query('CREATE TABLE copied (LIKE usage_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)');
}

/** The rows come the way that the reports come to the server, and not by the Unix socket that the server has of Postgres. */
function overLoopback(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  url.searchParams.delete('host');
  return url.toString();
}

async function copyFor({ signal }: Bench, ledger: LedgerDatabase, measureMs: number): Promise<Copied> {
  await ledger.owner.query('TRUNCATE copied');
  const url = overLoopback(ledger.env['MIGRATION_DATABASE_URL'] ?? '');
  const clients = Array.from({ length: CONNECTIONS }, () => new pg.Client({ connectionString: url, options: '-c search_path=keyledger' }));
  for (const client of clients) client.on('error', () => undefined);
  await Promise.all(clients.map((client) => client.connect()));
  let batches = 0;
  let rows = 0;
  try {
    const startMs = performance.now();
    let lastMs = startMs;
    await Promise.all(
      clients.map(async (client, session) => {
        const { text, offsets } = copyText(ledger, session);
        while (lastMs - startMs < measureMs) {
          signal.throwIfAborted();
          const first = String(FIRST_COPIED_POSITION / BATCH + batches++);
          for (const offset of offsets) text.write(first, offset, 'latin1');
          await copyIn(client, `COPY copied (${COPIED_COLUMNS}) FROM STDIN`, text);
          rows += BATCH;
          lastMs = performance.now();
        }
      }),
    );
    const seconds = (lastMs - startMs) / 1000;
    return { rows, seconds, perSecond: rows / seconds };
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
}

/** A batch in COPY's text format, and where in it the positions begin, to be set anew for each use. */
function copyText(ledger: LedgerDatabase, batch: number): { readonly text: Buffer; readonly offsets: readonly number[] } {
  const offsets: number[] = [];
  let text = '';
  const at = new Date().toISOString();
  for (const [index, { key, durationMs, tokens }] of items(ledger, batch).entries()) {
    offsets.push(text.length);
    const fields = [
      FIRST_COPIED_POSITION + index,
      at,
      ledger.organizationNumber,
      key.number,
      1,
      2,
      0,
      200,
      durationMs,
      tokens * 3,
      tokens,
      tokens,
      '203.0.113.7',
      'POST /v1/completions',
      'large-1',
    ];
    text += `${fields.join('\t')}\n`;
  }
  return { text: Buffer.from(text, 'latin1'), offsets };
}
