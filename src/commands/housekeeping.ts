import { sql, type Kysely, type RawBuilder } from 'kysely';

import { SECRET_REPLAY_MS } from '../ledger/idempotency.ts';
import { repeat, type Loop } from '../lib/repeat.ts';
import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { MINUTES_ERASED_MS } from '../projections/usage-period.ts';

/** Rows in one statement: none of them takes long enough to be in anybody's way. */
const BATCH = 5000;
/** Statements in one round and of one kind; what is left waits for the next round. */
const BATCHES_A_ROUND = 20;
const IDEMPOTENCY_KEPT_DAYS = 30;
/** As long as a report may lie in the past: what is older can be settled no more. */
const REQUEST_IDS_KEPT_DAYS = 31;
const DELIVERIES_KEPT_DAYS = 30;
const FAILED_ADDRESSES_KEPT = 100_000;

export type HousekeepingOptions = { readonly database: Database; readonly intervalMs: number; readonly onError: (error: Error) => void };

/** Keeps partitions ahead of the log and erases what has had its time. Any number of servers run the loop. */
export function createHousekeepingLoop({ database, intervalMs, onError }: HousekeepingOptions): Loop {
  return repeat({ intervalMs, onError, work: (signal) => keepHouse(database.kysely, { signal, onError }) });
}

/** One round. A chore that fails is reported and doesn't hold up the others. */
export async function keepHouse(
  db: Kysely<Tables>,
  { signal, onError }: { readonly signal?: AbortSignal; readonly onError: (error: Error) => void },
): Promise<void> {
  for (const [chore, work] of CHORES) {
    if (signal?.aborted === true) return;
    try {
      await work(db, signal);
    } catch (error) {
      onError(new Error(`Housekeeping could not ${chore}; it tries again.`, { cause: error }));
    }
  }
}

type Chore = readonly [string, (db: Kysely<Tables>, signal: AbortSignal | undefined) => Promise<void>];

const CHORES: readonly Chore[] = [
  ['make partitions for usage events ahead of need', async (db) => void (await sql`SELECT ensure_usage_partitions()`.execute(db))],
  [
    'erase the verifiers of outdated secrets',
    inBatches(sql`
      DELETE FROM key_verifiers WHERE lookup_id IN (
        SELECT lookup_id FROM key_verifiers WHERE NOT current AND expires_at <= now() LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'erase secrets that were kept for retries',
    inBatches(sql`
      UPDATE idempotency SET sealed_secret = NULL WHERE (actor, key_hash) IN (
        SELECT actor, key_hash FROM idempotency
        WHERE sealed_secret IS NOT NULL AND recorded_at <= now() - make_interval(secs => ${SECRET_REPLAY_MS / 1000}) LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'forget old idempotency keys',
    inBatches(sql`
      DELETE FROM idempotency WHERE (actor, key_hash) IN (
        SELECT actor, key_hash FROM idempotency WHERE recorded_at <= now() - make_interval(days => ${IDEMPOTENCY_KEPT_DAYS})
        ORDER BY recorded_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'forgive failed attempts of addresses',
    inBatches(sql`
      DELETE FROM address_failures WHERE (organization, address) IN (
        SELECT organization, address FROM address_failures
        WHERE first_at <= ledger_now() - interval '30 minutes' AND coalesce(blocked_until <= ledger_now(), true)
        ORDER BY first_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'keep the list of failed addresses bounded',
    // The oldest go first: an attacker with a million addresses must not fill the disk, and can only make himself forgotten.
    inBatches(sql`
      DELETE FROM address_failures WHERE (organization, address) IN (
        SELECT organization, address FROM address_failures WHERE first_at <= (SELECT first_at FROM address_failures ORDER BY first_at DESC OFFSET ${FAILED_ADDRESSES_KEPT} LIMIT 1)
        ORDER BY first_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'erase replaced webhook secrets',
    inBatches(sql`
      DELETE FROM webhook_secrets WHERE (endpoint_id, fingerprint) IN (
        SELECT endpoint_id, fingerprint FROM webhook_secrets WHERE expires_at <= ledger_now() LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'erase old webhook deliveries',
    inBatches(sql`
      DELETE FROM webhook_deliveries WHERE id IN (
        SELECT id FROM webhook_deliveries WHERE finished_at <= ledger_now() - make_interval(days => ${DELIVERIES_KEPT_DAYS})
        ORDER BY finished_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED)`),
  ],
  [
    'forget old request ids',
    inBatches(sql`
      DELETE FROM usage_requests WHERE (organization, request_id) IN (
        SELECT organization, request_id FROM usage_requests WHERE recorded_at <= ledger_now() - make_interval(days => ${REQUEST_IDS_KEPT_DAYS}) LIMIT ${BATCH})`),
  ],
  ...['usage_counters_0_minute', 'usage_counters_1_minute', 'usage_breakdown_0_minute', 'usage_breakdown_1_minute'].map((table): Chore => [
    `erase old minutes of ${table}`,
    inBatches(sql`
        DELETE FROM ${sql.table(table)} WHERE ctid = ANY (ARRAY(
          SELECT ctid FROM ${sql.table(table)} WHERE at < now() - make_interval(secs => ${MINUTES_ERASED_MS / 1000}) LIMIT ${BATCH}))`),
  ]),
];

function inBatches(statement: RawBuilder<unknown>): Chore[1] {
  return async (db, signal) => {
    for (let batch = 0; batch < BATCHES_A_ROUND && signal?.aborted !== true; batch++) {
      const { numAffectedRows } = await statement.execute(db);
      if (numAffectedRows === undefined || numAffectedRows < BATCH) return;
    }
  };
}
