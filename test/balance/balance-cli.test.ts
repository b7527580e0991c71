import { afterAll, beforeAll, expect, test } from 'vitest';

import { runCli } from '../cli/run-cli.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;
let env: Readonly<Record<string, string>>;
beforeAll(async () => {
  ledger = await openTestLedger();
  env = { DATABASE_URL: ledger.testDatabase.serverUrl.reveal() };
});
afterAll(() => ledger.close());

const balance = (...args: readonly string[]) => runCli(['balance', ...args], env);

test(
  '3.4 keyledger balance shows, enables, adds to and disables a balance, and tells each time what it is then',
  { timeout: 60_000 },
  async () => {
    const { secret } = await ledger.newKey();
    expect(await balance('show')).toMatchObject({ code: 0, out: 'No balance is kept: nothing is charged.\n' });
    expect(await balance('add', '1')).toMatchObject({ code: 2, out: '', err: expect.stringContaining('enableBalance') as string });
    expect(await balance('enable')).toMatchObject({ code: 0, out: 'Balance   0.00   suspended: no key passes until funds are added\n' });
    expect(await ledger.verify(secret)).toMatchObject({ code: 'INSUFFICIENT_BALANCE' });
    expect(await balance('add', '12.5', '--idempotency-key', 'payment 1')).toMatchObject({ code: 0, out: 'Balance   12.50\n' });
    expect(await balance('add', '12.50', '--idempotency-key', 'payment 1')).toMatchObject({ code: 0, out: 'Balance   12.50\n' });
    expect(await balance('add', '13', '--idempotency-key', 'payment 1')).toMatchObject({
      code: 1,
      err: expect.stringContaining('idempotency key') as string,
    });
    expect(await ledger.verify(secret)).toMatchObject({ code: 'VALID' });
    expect(await balance('add', '0.000001', '--organization', 'Acme')).toMatchObject({ code: 0, out: 'Balance   12.500001\n' });
    const shown = await balance('show', '--json');
    expect(JSON.parse(shown.out)).toEqual({ organizationId: ledger.organization.id, balance: { micros: '12500001', suspended: false } });
    expect(await balance('enable', '--funds', '1')).toMatchObject({ code: 2, err: expect.stringContaining('addFunds') as string });
    expect(await balance('disable')).toMatchObject({ code: 0, out: 'No balance is kept: nothing is charged.\n' });
    const again = await balance('enable', '--funds', '3', '--json');
    expect(JSON.parse(again.out)).toMatchObject({ balance: { micros: '3000000' }, position: expect.stringMatching(/^\d+$/) as string });
    expect(await balance('show', '--organization', 'Nobody')).toMatchObject({
      code: 2,
      err: expect.stringContaining('no organization "Nobody"') as string,
    });
  },
);
