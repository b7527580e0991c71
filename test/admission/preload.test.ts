import { afterEach, expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

const open: TestLedger[] = [];
afterEach(async () => {
  for (const ledger of open.splice(0).reverse()) await ledger.close();
});

it('a server that starts knows the keys that were used last, and refuses those that have changed since', async () => {
  const first = await openTestLedger();
  open.push(first);
  const [used, revoked, unused] = [await first.newKey(), await first.newKey(), await first.newKey()];
  for (const { secret } of [used, revoked]) expect(await first.verify(secret)).toMatchObject({ code: 'VALID' });

  const second = await openTestLedger({ on: first });
  open.push(second);
  await second.admission.preload();
  expect(second.errors).toEqual([]);
  done(await first.keys.deactivate(first.owner, { id: revoked.keyId }));
  const maySee = (change: string) => asAdmin((client) => client.query(`${change} keyledger_server`), first.testDatabase.name);
  await maySee('REVOKE SELECT ON keyledger.key_verifiers FROM');
  // From memory alone: nothing can be read now.
  expect(await second.verify(used.secret)).toMatchObject({ code: 'VALID' });
  await expect(second.verify(unused.secret)).rejects.toBeInstanceOf(AdmissionUnavailableError);
  await expect(second.verify(revoked.secret)).rejects.toBeInstanceOf(AdmissionUnavailableError);
  await maySee('GRANT SELECT ON keyledger.key_verifiers TO');
  expect(await second.verify(revoked.secret)).toMatchObject({ code: 'INACTIVE' });
  expect(await second.verify(unused.secret)).toMatchObject({ code: 'VALID' });
});

it('a server that can not read ahead says so, and reads when it is asked', async () => {
  const first = await openTestLedger();
  open.push(first);
  const { secret } = await first.newKey();
  await first.verify(secret);
  const second = await openTestLedger({ on: first });
  open.push(second);
  const maySee = (change: string) => asAdmin((client) => client.query(`${change} keyledger_server`), first.testDatabase.name);
  await maySee('REVOKE SELECT ON keyledger.key_verifiers FROM');
  await second.admission.preload();
  expect(second.errors.map(({ message }) => message)).toEqual(['The facts of the keys used last could not be read ahead.']);
  await maySee('GRANT SELECT ON keyledger.key_verifiers TO');
  expect(await second.verify(secret)).toMatchObject({ code: 'VALID' });
});
