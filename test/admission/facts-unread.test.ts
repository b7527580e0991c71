import { sql } from 'kysely';
import { expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import { createAdmission } from '../../src/admission/create-admission.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { asAdmin } from '../support/database.ts';
import { openTestLedger } from '../support/ledger.ts';

const AT_ONCE = 20;

it('where what decides can not be read nobody passes, nothing is charged, and the next one is asked anew', async () => {
  const ledger = await openTestLedger();
  const { secret } = await ledger.newKey();
  const errors: Error[] = [];
  const mayRead = (change: 'REVOKE SELECT ON keyledger.key_verifiers FROM' | 'GRANT SELECT ON keyledger.key_verifiers TO') =>
    asAdmin((client) => client.query(`${change} keyledger_server`), ledger.testDatabase.name);
  await mayRead('REVOKE SELECT ON keyledger.key_verifiers FROM');
  const admission = createAdmission({
    database: ledger.database,
    connection: clientConfig({ connectionString: ledger.testDatabase.serverUrl, applicationName: 'keyledger test' }),
    peppers: ledger.peppers,
    argon2: ledger.argon2,
    replaceVerifier: ledger.imports.replaceVerifier,
    onError: (error) => void errors.push(error),
  });
  try {
    const request = { key: secret, permissions: [], cost: 1, endpoint: null, ip: null, origin: null, environment: null, requestId: null };
    const caller = { kind: 'organization', organizationId: ledger.organization.id } as const;
    const answers = await Promise.allSettled(Array.from({ length: AT_ONCE }, () => admission.verify(caller, request)));
    for (const answer of answers) expect(answer.status === 'rejected' && answer.reason instanceof AdmissionUnavailableError).toBe(true);
    const charged = async () =>
      (
        await sql<{ total: bigint; events: number }>`
          SELECT sum(total)::bigint AS total, (SELECT count(*)::integer FROM usage_events) AS events FROM key_windows`.execute(ledger.db)
      ).rows;
    expect(await charged()).toEqual([{ total: 0n, events: 0 }]);
    await mayRead('GRANT SELECT ON keyledger.key_verifiers TO');
    expect(await admission.verify(caller, request)).toMatchObject({ code: 'VALID' });
    expect(await charged()).toEqual([{ total: 1n, events: 1 }]);
  } finally {
    await admission.close();
    await ledger.close();
  }
});
