import { afterAll, beforeAll, expect, it } from 'vitest';

import { alterAdmit } from '../support/alter-admit.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { windowFaults } from '../support/window-faults.ts';

const SECOND_MS = 1000;
const HALF_HOUR = 1800;
/** Seconds between one verification and the next: what windows are brought forward by has a way of its own for one, for two or three, for more, for a minute and for half an hour. */
const PAUSES = [0, 1, 1, 2, 3, 4, 1, 30, 2, 27, 3, 59, 60, 1, 61, 2, 3, HALF_HOUR, 1, 2, 13 * 3600, 1];

let ledger: TestLedger;
let clock: TestClock;
beforeAll(async () => {
  ledger = await openTestLedger();
  clock = await installTestClock(ledger.testDatabase);
  await clock.stopAt(new Date());
});
afterAll(async () => {
  await clock.close();
  await ledger.close();
});

/** Asks about keys, all at once, after each of the pauses. Answers where their windows are not what the log says, after which pause. */
async function faultsBetween(count: number): Promise<readonly string[]> {
  const secrets = await Promise.all(
    Array.from({ length: count }, () => ledger.newKey({ quotas: { daily: 10_000 }, limits: { requestsPerMinute: 10_000 } })),
  );
  const faults: string[] = [];
  for (const [turn, pause] of PAUSES.entries()) {
    await clock.advance(pause * SECOND_MS);
    const answers = await Promise.all(secrets.map(({ secret }) => ledger.verify(secret, { cost: 1 + turn })));
    for (const answer of answers) expect(answer).toMatchObject({ code: 'VALID' });
    for (const fault of await windowFaults(ledger.db)) faults.push(`turn ${turn}, after ${pause} s: ${fault}`);
  }
  return faults;
}

it.each([1, 2, 5])(
  'windows of %i keys that are asked about together are what the log says, however much time has passed',
  async (count) => {
    expect(await faultsBetween(count)).toEqual([]);
  },
);

it('the control: a lone key whose second is not taken out of its minute again is found', async () => {
  await alterAdmit(ledger.testDatabase, 'held.minute_closed - gone[i]', 'held.minute_closed');
  expect(await faultsBetween(1)).not.toEqual([]);
});
