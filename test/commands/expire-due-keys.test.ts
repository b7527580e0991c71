import { setTimeout as sleep } from 'node:timers/promises';

import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { createExpiryLoop, expireDueKeys } from '../../src/commands/expire-due-keys.ts';
import type { Loop } from '../../src/lib/repeat.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';

let servers: TestLedger[];
let loops: Loop[];

beforeEach(async () => {
  const first = await openTestLedger();
  servers = [first, await openTestLedger({ on: first }), await openTestLedger({ on: first })];
  loops = [];
});

afterEach(async () => {
  await Promise.all(loops.map((loop) => loop.stop()));
  for (const server of servers.toReversed()) await server.close();
});

async function expiredEvents(ledger: TestLedger) {
  const rows = await ledger.db
    .selectFrom('events')
    .select(['stream', 'actor', 'data'])
    .where('type', '=', 'Expired')
    .orderBy('position')
    .execute();
  return rows.map((row) => `${row.stream} ${row.actor} ${(row.data as { expiresAt: string }).expiresAt}`);
}

test('each moment of expiry is recorded once, soon, however many servers look', async () => {
  const [first] = servers;
  if (first === undefined) throw new Error('no server');
  const clock = await installTestClock(first.testDatabase);
  const soon = new Date(Date.now() + 60_000).toISOString();
  const keys = await Promise.all(Array.from({ length: 5 }, () => first.newKey({ expiresAt: soon })));
  await first.newKey({ expiresAt: new Date(Date.now() + 3_600_000).toISOString() });
  const deleted = await first.newKey({ name: 'to be deleted', expiresAt: soon });
  await first.keys.delete(first.owner, { id: deleted.keyId, confirmName: 'to be deleted' });
  const errors: Error[] = [];
  await clock.advance(60_000);
  await clock.close();
  loops = servers.map(({ database, keys: commands }) =>
    createExpiryLoop({ database, keys: commands, intervalMs: 50, onError: (error) => errors.push(error) }),
  );
  const deadline = Date.now() + 15_000;
  while ((await expiredEvents(first)).length < keys.length && Date.now() < deadline) await sleep(20);
  await sleep(300);
  expect((await expiredEvents(first)).toSorted()).toEqual(keys.map(({ keyId }) => `key:${keyId} system ${soon}`).toSorted());
  expect(errors).toEqual([]);
});

test('a key whose stream can not be read is reported and does not hold up the others', async () => {
  const [first] = servers;
  if (first === undefined) throw new Error('no server');
  const clock = await installTestClock(first.testDatabase);
  const expiresAt = new Date(Date.now() + 60_000).toISOString();
  const keys = [await first.newKey({ expiresAt }), await first.newKey({ expiresAt })];
  await clock.advance(60_000);
  await clock.close();
  const errors: Error[] = [];
  const commands = {
    expire: (organizationId: string, keyId: string) =>
      keyId === keys[0]?.keyId ? Promise.reject(new Error('unreadable')) : first.keys.expire(organizationId, keyId),
  };
  await expireDueKeys(first.db, commands, { onError: (error) => errors.push(error) });
  expect(await expiredEvents(first)).toEqual([`key:${keys[1]?.keyId} system ${expiresAt}`]);
  expect(errors.map((error) => error.message)).toEqual([`Key ${keys[0]?.keyId} has expired, but its Expired event could not be appended.`]);
});

test('more keys than a batch holds are all expired in one round', async () => {
  const [first] = servers;
  if (first === undefined) throw new Error('no server');
  const { keyId } = await first.newKey();
  await sql`
    INSERT INTO api_keys (id, number, organization_id, name, name_folded, type, category, state, permissions, expires_at, metadata, ip_allowlist, allowed_origins, masked,
      created_at, created_by, secret_created_at, version)
    SELECT gen_random_uuid(), nextval('api_key_numbers'), organization_id, 'n' || i, 'n' || i, type, category, state, permissions, now() - interval '1 hour', metadata,
      ip_allowlist, allowed_origins, masked, created_at, created_by, secret_created_at, version
    FROM api_keys, generate_series(1, 250) AS i WHERE id = ${keyId}::uuid`.execute(first.db);
  const asked = new Set<string>();
  const commands = { expire: (_: string, id: string) => Promise.reject(asked.add(id)) };
  await expireDueKeys(first.db, commands as never, { onError: () => undefined });
  expect(asked.size).toBe(250);
});
