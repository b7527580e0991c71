import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import { sql } from 'kysely';
import { afterEach, expect, it } from 'vitest';

import { createPeppers } from '../../src/identity/pepper.ts';
import { repairBalances } from '../../src/projections/balance-repair.ts';
import { alterAdmit } from '../support/alter-admit.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';
import { windowFaults } from '../support/window-faults.ts';

const QUARTER_OF_DAY_MS = 6 * 3_600_000;

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource.close();
});

async function openTwo(options: Parameters<typeof openTestLedger>[0] = {}) {
  const first = await openTestLedger();
  open.push(first);
  const second = await openTestLedger({ on: first, ...options });
  open.push(second);
  return { first, second };
}

async function codeOf(server: TestLedger, ...[secret, request, organization]: Parameters<TestLedger['verify']>): Promise<string> {
  const answer = await server.verify(secret, request, organization);
  return answer.kind === 'answer' ? answer.code : answer.kind;
}

/** Asks for as long as `going` holds, so many at once; answers how often each outcome came, an error under its message. */
async function outcomesWhile(going: () => boolean, atOnce: number, ask: (turn: number) => Promise<string>): Promise<Map<string, number>> {
  const outcomes = new Map<string, number>();
  await Promise.all(
    Array.from({ length: atOnce }, async (_, index) => {
      for (let turn = index; going(); turn += atOnce) {
        const outcome = await ask(turn).catch((error: unknown) => String(error));
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }
    }),
  );
  return outcomes;
}

/** One server repeats an answer of a key that another one consumes, while time flies. */
async function faultsBesideRepeated(
  { first, second }: { first: TestLedger; second: TestLedger },
  { quarters, untilFound = false }: { readonly quarters: number; readonly untilFound?: boolean },
): Promise<readonly string[]> {
  const clock = await installTestClock(first.testDatabase);
  open.push(clock);
  await clock.stopAt(new Date(Date.now() + 3_600_000));
  const { secret } = await first.newKey({ quotas: { daily: 1_000_000 } });
  expect(await codeOf(first, secret, { requestId: 'once' })).toBe('VALID');
  let going = true;
  const load = [
    outcomesWhile(
      () => going,
      8,
      () => codeOf(first, secret),
    ),
    outcomesWhile(
      () => going,
      8,
      () => codeOf(second, secret, { requestId: 'once' }),
    ),
  ];
  for (let quarter = 1; quarter <= quarters; quarter++) {
    await clock.advance(QUARTER_OF_DAY_MS);
    await sleep(10);
    if (untilFound && quarter % 20 === 0 && (await windowFaults(first.db)).length > 0) break;
  }
  going = false;
  for (const outcomes of await Promise.all(load)) expect([...outcomes.keys()]).toEqual(['VALID']);
  return windowFaults(first.db);
}

it('windows stay what the log says where another server only repeats an answer of the key', async () => {
  expect(await faultsBesideRepeated(await openTwo(), { quarters: 110 })).toEqual([]);
});

it('the control: windows that are brought forward without being locked are found', async () => {
  const two = await openTwo();
  await alterAdmit(two.first.testDatabase, 'WHERE b = ANY (p_keys))', 'WHERE true)');
  expect(await faultsBesideRepeated(two, { quarters: 1000, untilFound: true })).not.toEqual([]);
});

it('a balance that was mended without an event is known to the next verification', async () => {
  const { first, second } = await openTwo();
  const { secret } = await first.newKey();
  done(await first.balances.enable(null, { organizationId: first.organization.id }));
  await sql`DELETE FROM balances`.execute(first.db);
  expect(await codeOf(second, secret)).toBe('VALID');
  await repairBalances(first.database, {});
  expect(await codeOf(second, secret)).toBe('INSUFFICIENT_BALANCE');
});

it('a server that was idle while much happened lets nobody wait until it has gone through all of it', async () => {
  const { first, second } = await openTwo();
  const keys = await Promise.all(Array.from({ length: 8 }, () => first.newKey()));
  for (const { secret } of keys) expect(await codeOf(second, secret)).toBe('VALID');
  await asAdmin(async (client) => {
    await client.query(
      `INSERT INTO keyledger.events (position, organization_id, stream, version, type, actor, recorded_at, data)
       SELECT (SELECT max(position) FROM keyledger.ledger) + n, $1, 'alert:' || gen_random_uuid(), 1, 'AlertAcknowledged', 'system', now(), '{}' FROM generate_series(1, 150000) AS n`,
      [first.organization.id],
    );
  }, first.testDatabase.name);
  const until = performance.now() + 1500;
  const outcomes = await outcomesWhile(
    () => performance.now() < until,
    16,
    (turn) => codeOf(second, keys[turn % keys.length]?.secret ?? ''),
  );
  expect([...outcomes.keys()]).toEqual(['VALID']);
});

it('a log that was restored, and has gone on differently since, is told from the one that a server knows', async () => {
  const { first, second } = await openTwo();
  const other = await first.newOrganization('Other');
  const { secret, keyId } = await first.newKey();
  expect(await codeOf(second, secret)).toBe('VALID');
  done(await first.keys.deactivate(first.owner, { id: keyId }));
  // No usage is recorded: the end of the log is the event.
  expect(await codeOf(second, secret, { cost: 0 })).toBe('INACTIVE');
  await asAdmin(async (client) => {
    await client.query(`SET search_path = keyledger`);
    await client.query(`ALTER TABLE events DISABLE TRIGGER ALL`);
    await client.query(`DELETE FROM events WHERE position = (SELECT max(position) FROM events)`);
    await client.query(`UPDATE api_keys SET state = 'active', version = version - 1 WHERE id = $1`, [keyId]);
  }, first.testDatabase.name);
  await first.newKey({}, other.owner);
  await first.newKey({}, other.owner);
  for (let turn = 1; turn <= 3; turn++) expect(await codeOf(second, secret, { cost: 0 })).toBe('VALID');
});

it('while servers have different peppers at the front each of them accepts what the other one has just made', async () => {
  const first = await openTestLedger();
  open.push(first);
  const old = { id: 'p1', key: first.peppers.current.key.export() };
  const fresh = { id: 'p2', key: randomBytes(32) };
  const renewed = await openTestLedger({ on: first, peppers: createPeppers([fresh, old]) });
  open.push(renewed);
  const late = await openTestLedger({ on: first, peppers: createPeppers([old, fresh]) });
  open.push(late);
  const { secret, keyId } = await first.newKey();
  let going = true;
  const load = [renewed, late].map((server) =>
    outcomesWhile(
      () => going,
      4,
      () => codeOf(server, secret),
    ),
  );
  for (let change = 1; change <= 60; change++) done(await first.keys.update(first.owner, { id: keyId, name: `Key ${change}` }));
  going = false;
  for (const outcomes of await Promise.all(load)) expect([...outcomes.keys()]).toEqual(['VALID']);
});

it('4.6 an answer is repeated as it was given, though the key was changed while it was', async () => {
  const { first, second } = await openTwo();
  const { secret, keyId } = await first.newKey({ limits: { requestsPerMinute: 1_000_000 } });
  let going = true;
  const changing = (async () => {
    for (let change = 1; going; change++)
      done(
        await first.keys.update(first.owner, { id: keyId, name: `Key ${change}`, limits: { requestsPerMinute: 1_000_000 + (change % 7) } }),
      );
  })();
  for (let turn = 1; turn <= 250; turn++) {
    const requestId = `turn ${turn}`.replace(' ', '-');
    const given = await second.verify(secret, { requestId });
    expect(await first.verify(secret, { requestId })).toEqual(given);
  }
  going = false;
  await changing;
});

it('a key that expires while its organization waits for its turn is refused', async () => {
  const { first, second } = await openTwo();
  const organizationId = first.organization.id;
  done(await first.organizations.changePlan(null, { organizationId, plan: 'ENTERPRISE', caps: { requestsPerMinute: 1000 } }));
  const { secret } = await first.newKey({ expiresAt: new Date(Date.now() + 700).toISOString() });
  expect(await codeOf(second, secret)).toBe('VALID');
  await asAdmin(async (client) => {
    await client.query('BEGIN; SELECT FROM keyledger.organization_windows FOR UPDATE');
    const asked = codeOf(second, secret);
    await sleep(900);
    await client.query('COMMIT');
    expect(await asked).toBe('EXPIRED');
  }, first.testDatabase.name);
});
