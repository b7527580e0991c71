import { afterEach, expect, it } from 'vitest';

import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { organizationWindowFaults } from '../support/window-faults.ts';

const CALLERS = 24;
const CHANGES = 30;

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource.close();
});

async function openTwo() {
  const first = await openTestLedger();
  open.push(first);
  const second = await openTestLedger({ on: first });
  open.push(second);
  return { first, second };
}

/** An organization is given a cap, and has it taken away, under full load of two servers. Answers where its windows are not what the log says. */
async function faultsWhileCapsBegin(
  { first, second }: { first: TestLedger; second: TestLedger },
  { changes }: { readonly changes: number },
): Promise<readonly string[]> {
  const organizationId = first.organization.id;
  const keys = await Promise.all(Array.from({ length: CALLERS }, () => first.newKey()));
  let going = true;
  const failures: unknown[] = [];
  const load = keys.map(async ({ secret }, index) => {
    while (going) await (index % 2 === 0 ? first : second).verify(secret).catch((error: unknown) => failures.push(error));
  });
  const faults: string[] = [];
  for (let change = 1; change <= changes && faults.length === 0; change++) {
    const caps = { requestsPerMinute: 10_000_000 };
    done(await first.organizations.changePlan(null, { organizationId, plan: 'ENTERPRISE', caps }));
    await new Promise((resolve) => setTimeout(resolve, 25));
    faults.push(...(await organizationWindowFaults(first.db)));
    // Twice: windows that were not kept are thrown away.
    for (const name of ['ENTERPRISE', 'ENTERPRISE']) done(await first.organizations.changePlan(null, { organizationId, plan: name }));
  }
  going = false;
  await Promise.all(load);
  expect(failures).toEqual([]);
  return faults;
}

it('4.6 what was consumed while there was no cap is counted where one begins, also by requests that are under way', async () => {
  expect(await faultsWhileCapsBegin(await openTwo(), { changes: CHANGES })).toEqual([]);
});

it('the control: requests that are under way when a cap begins, and are not decided again, are missing', async () => {
  const two = await openTwo();
  await asAdmin(async (client) => {
    await client.query('SET search_path = keyledger');
    const { rows } = await client.query<{ definition: string }>(
      `SELECT pg_get_functiondef('keyledger.reserve_position'::regproc) AS definition`,
    );
    await client.query(rows[0]?.definition.replace('IF event_position > p_seen THEN', 'IF false THEN') ?? '');
  }, two.first.testDatabase.name);
  expect(await faultsWhileCapsBegin(two, { changes: 20 * CHANGES })).not.toEqual([]);
});
