import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { createHousekeepingLoop, keepHouse } from '../../src/commands/housekeeping.ts';
import { asAdmin } from '../support/database.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;
const errors: Error[] = [];
const onError = (error: Error): void => void errors.push(error);

beforeEach(async () => {
  errors.length = 0;
  ledger = await openTestLedger();
});

afterEach(async () => {
  await ledger.close();
});

const count = async (query: ReturnType<typeof sql<{ n: number }>>) => (await query.execute(ledger.db)).rows[0]?.n;

test('verifiers of outdated secrets go at their moment, and others stay', async () => {
  const gone = await ledger.newKey();
  const stays = await ledger.newKey();
  await ledger.keys.regenerate(ledger.owner, { id: gone.keyId, overlapUntil: new Date(Date.now() + 60_000).toISOString() });
  await ledger.keys.regenerate(ledger.owner, { id: stays.keyId, overlapUntil: new Date(Date.now() + 60_000).toISOString() });
  await sql`UPDATE key_verifiers SET expires_at = now() WHERE key_id = ${gone.keyId}::uuid AND NOT current`.execute(ledger.db);
  await keepHouse(ledger.db, { onError });
  const left = await ledger.db.selectFrom('key_verifiers').select(['key_id', 'current']).orderBy('key_id').orderBy('current').execute();
  expect(left.filter((row) => row.key_id === gone.keyId)).toEqual([{ key_id: gone.keyId, current: true }]);
  expect(left.filter((row) => row.key_id === stays.keyId)).toHaveLength(2);
  expect(errors).toEqual([]);
});

test('sealed secrets are erased after an hour, and idempotency keys forgotten after 30 days', async () => {
  await ledger.newKey({ idempotencyKey: 'an hour' });
  await ledger.newKey({ idempotencyKey: 'now' });
  await ledger.newKey({ idempotencyKey: 'a month' });
  await sql`UPDATE idempotency SET sealed_secret = sealed_secret WHERE false`.execute(ledger.db);
  await asAdmin(async (admin) => {
    const rows = await admin.query<{ key_hash: Buffer }>('SELECT key_hash FROM keyledger.idempotency ORDER BY position');
    await admin.query("UPDATE keyledger.idempotency SET recorded_at = now() - interval '61 minutes' WHERE key_hash = $1", [
      rows.rows[0]?.key_hash,
    ]);
    await admin.query("UPDATE keyledger.idempotency SET recorded_at = now() - interval '31 days' WHERE key_hash = $1", [
      rows.rows[2]?.key_hash,
    ]);
  }, ledger.testDatabase.name);
  await keepHouse(ledger.db, { onError });
  expect(await count(sql`SELECT count(*)::integer AS n FROM idempotency`)).toBe(2);
  expect(await count(sql`SELECT count(*)::integer AS n FROM idempotency WHERE sealed_secret IS NOT NULL`)).toBe(1);
  expect(errors).toEqual([]);
});

test('old minutes are erased from the counters, hours and days stay', async () => {
  for (const grain of [1, 2, 3]) {
    await sql`
      INSERT INTO usage_counters SELECT 0, ${grain}, 1, 1, now() - make_interval(days => d), 1, 1, 0, 0, 1, 0, 0, 0, 0, 0 FROM unnest(ARRAY[1, 8, 10]) AS d`.execute(
      ledger.db,
    );
  }
  await keepHouse(ledger.db, { onError });
  expect(await count(sql`SELECT count(*)::integer AS n FROM usage_counters WHERE grain = 1`)).toBe(2);
  expect(await count(sql`SELECT count(*)::integer AS n FROM usage_counters WHERE grain > 1`)).toBe(6);
});

test('partitions are made ahead of the log, and a chore that fails is reported without stopping the others', async () => {
  await asAdmin(
    (admin) => admin.query('REVOKE EXECUTE ON FUNCTION keyledger.ensure_usage_partitions(integer) FROM keyledger_server'),
    ledger.testDatabase.name,
  );
  await sql`INSERT INTO usage_counters SELECT 0, 1, 1, 1, now() - interval '10 days', 1, 1, 0, 0, 1, 0, 0, 0, 0, 0`.execute(ledger.db);
  const loop = createHousekeepingLoop({ database: ledger.database, intervalMs: 10, onError });
  const deadline = Date.now() + 10_000;
  while (errors.length < 2 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
  await loop.stop();
  expect(errors[0]?.message).toMatch(/could not make partitions/);
  expect(await count(sql`SELECT count(*)::integer AS n FROM usage_counters`)).toBe(0);
});
