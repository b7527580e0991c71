import { setTimeout as sleep } from 'node:timers/promises';

import { sql } from 'kysely';
import type pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { compareStreams } from '../../src/projections/state-difference.ts';
import { STREAM_KINDS } from '../../src/projections/state-fold.ts';
import { repairState } from '../../src/projections/state-repair.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;

beforeEach(async () => {
  ledger = await openTestLedger();
});

afterEach(async () => {
  await ledger.close();
});

const repair = () => repairState(ledger.database, { kinds: STREAM_KINDS, onProgress: () => undefined });
const state = async () => {
  const tables = ['organizations', 'members', 'access_tokens', 'api_keys'];
  return Promise.all(
    tables.map(
      async (table) =>
        (await sql<{ row: unknown }>`SELECT to_jsonb(t) AS row FROM ${sql.table(table)} t ORDER BY 1`.execute(ledger.db)).rows,
    ),
  );
};

async function liveALittle() {
  const { owner, organization, keys, organizations, tokens } = ledger;
  const full = await ledger.newKey({
    name: 'Schlüssel ①',
    metadata: { b: [1, { ü: null }], a: 'x' },
    ipAllowlist: ['10.0.0.0/8', '2001:db8::/32', '192.0.2.7'],
    allowedOrigins: ['https://a.example'],
    quotas: { total: 9_007_199_254_740_991, daily: 5 },
    limits: { requestsPerMinute: 60 },
    expiresAt: '2999-12-31T23:59:59.5Z',
    rotateEveryDays: 90,
    permissions: ['read:a', 'write:b'],
    personal: true,
  });
  const changed = await ledger.newKey();
  done(
    await keys.update(owner, {
      id: changed.keyId,
      name: 'changed',
      category: 'staging',
      quotas: { total: 7, daily: null, weekly: null, monthly: null },
    }),
  );
  done(await keys.regenerate(owner, { id: changed.keyId, overlapUntil: new Date(Date.now() + 60_000).toISOString() }));
  done(await keys.deactivate(owner, { id: changed.keyId }));
  const deleted = await ledger.newKey({ name: 'deleted' });
  done(await keys.delete(owner, { id: deleted.keyId, confirmName: 'deleted' }));
  const joined = done(await organizations.addMember(owner, { organizationId: organization.id, role: 'MEMBER', name: 'Somebody' })).result
    .memberId;
  const left = done(await organizations.addMember(owner, { organizationId: organization.id, role: 'ADMIN' })).result.memberId;
  done(await organizations.changeMemberRole(owner, { id: left, role: 'AUDITOR' }));
  done(await organizations.removeMember(owner, { id: left }));
  done(await organizations.rename(owner, { organizationId: organization.id, name: 'Renamed' }));
  const token = done(
    await tokens.create(owner, {
      organizationId: organization.id,
      name: 'gateway',
      permissions: ['keys:verify'],
      expiresAt: '2999-01-01T00:00:00Z',
    }),
  );
  done(await tokens.create(owner, { organizationId: organization.id, name: 'member', memberId: joined }));
  done(await tokens.revoke(owner, { id: token.result.tokenId }));
  return { full, changed, deleted, joined, left };
}

test('what the commands wrote is what the log folds to: a repair finds nothing to do', async () => {
  await liveALittle();
  const before = await state();
  expect(await repair()).toEqual({ interrupted: false, streams: 7, repaired: [], left: [] });
  expect(await state()).toEqual(before);
});

test('rows that were changed, or are gone, are written anew to the microsecond', async () => {
  const { full, changed, joined } = await liveALittle();
  const before = await state();
  await asAdmin(async (admin) => {
    await admin.query('SET search_path = keyledger');
    await admin.query(
      "UPDATE api_keys SET state = 'active', permissions = '{admin}', created_by = 'system', created_at = created_at - interval '1 microsecond', version = 9 WHERE id = $1",
      [changed.keyId],
    );
    await admin.query('DELETE FROM key_verifiers WHERE key_id = $1', [full.keyId]);
    await admin.query('DELETE FROM api_keys WHERE id = $1', [full.keyId]);
    await admin.query("UPDATE members SET role = 'OWNER' WHERE id = $1", [joined]);
    await admin.query("UPDATE access_tokens SET revoked_at = NULL, permissions = '{keys:write}'");
    await admin.query("UPDATE organizations SET name = 'x', number = number + 100");
  }, ledger.testDatabase.name);
  const outcome = await repair();
  expect(outcome.left).toEqual([]);
  expect(outcome.repaired).toHaveLength(7);
  expect(await state()).toEqual(before);
});

test('a row that no stream accounts for is named and left, and so is a stream that can not be folded', async () => {
  const { changed, full } = await liveALittle();
  await asAdmin(async (admin) => {
    await admin.query('SET search_path = keyledger');
    await admin.query(
      "INSERT INTO members (organization_id, id, role, joined_at) VALUES ($1, '00000000-0000-0000-0000-000000000009', 'OWNER', now())",
      [ledger.organization.id],
    );
    await admin.query('ALTER TABLE events DISABLE TRIGGER ALL');
    await admin.query("UPDATE events SET type = 'Exploded' WHERE stream = $1 AND version = 2", [`key:${changed.keyId}`]);
    await admin.query('DELETE FROM events WHERE stream = $1', [`key:${full.keyId}`]);
  }, ledger.testDatabase.name);
  const outcome = await repair();
  expect(outcome.repaired).toEqual([]);
  expect(outcome.left).toEqual([
    `members ${ledger.organization.id}/00000000-0000-0000-0000-000000000009 is not in the log; the server may not delete it, the owner of the tables can`,
    expect.stringMatching(`key:${changed.keyId} can't be folded: .*'Exploded'`) as string,
    `api_keys ${full.keyId} is not in the log; the server may not delete it, the owner of the tables can`,
  ]);
});

/**
 * Lets one command run on each of some keys while a repair has something to write to all of them, again and again. Answers what went wrong, as soon as
 * something has: a column that is not what the log says when both have ended, or a row that was taken back to an earlier version, however briefly.
 */
async function repairUnderTraffic(database: Database, rounds: number): Promise<readonly string[]> {
  const keys = await Promise.all(Array.from({ length: 6 }, () => ledger.newKey()));
  await asAdmin(
    (admin) =>
      admin.query(`
        SET search_path = keyledger;
        CREATE TABLE taken_back (id uuid);
        GRANT SELECT, INSERT ON taken_back TO keyledger_server;
        CREATE FUNCTION note_taken_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO keyledger.taken_back VALUES (NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER taken_back BEFORE UPDATE ON api_keys FOR EACH ROW WHEN (NEW.version < OLD.version) EXECUTE FUNCTION note_taken_back()`),
    ledger.testDatabase.name,
  );
  for (let round = 0; round < rounds; round++) {
    // In a column that no command writes back by itself.
    await sql`UPDATE api_keys SET created_by = 'nobody'`.execute(ledger.db);
    const commands = keys.map(async ({ keyId }, index) => {
      await sleep(index * 2 + (round % 3));
      done(await ledger.keys.update(ledger.owner, { id: keyId, category: `c${round}` }));
    });
    await Promise.all([repairState(database, { kinds: ['key'], onProgress: () => undefined }), ...commands]);
    const { differences } = await compareStreams(ledger.database, 'key', { after: null, limit: 100 });
    const { rows } = await sql`SELECT id FROM taken_back`.execute(ledger.db);
    if (differences.length > 0 || rows.length > 0)
      return [...differences.flatMap(({ columns }) => columns), ...rows.map(() => 'taken back')];
  }
  return [];
}

test('commands that run at the same time lose nothing to a repair', async () => {
  expect(await repairUnderTraffic(ledger.database, 15)).toEqual([]);
});

test('control: a repair that does not look at the version of the row it writes takes back what a command has just done', async () => {
  const careless = openDatabase({
    connectionString: ledger.testDatabase.serverUrl,
    applicationName: 'careless',
    maxConnections: 2,
    onError: () => undefined,
  });
  const connect = careless.pool.connect.bind(careless.pool) as () => Promise<pg.PoolClient>;
  careless.pool.connect = (async () => {
    const client = await connect();
    const query = client.query.bind(client) as (...given: readonly unknown[]) => unknown;
    client.query = ((text: unknown, ...rest: readonly unknown[]) =>
      query(typeof text === 'string' ? text.replace(/xmin = (\$\d+::xid)/, '(xmin = $1 OR true)') : text, ...rest)) as typeof client.query;
    return client;
  }) as typeof careless.pool.connect;
  try {
    expect(await repairUnderTraffic(careless, 60)).toContain('taken back');
  } finally {
    await careless.close();
  }
});
