import { sql, type KyselyPlugin } from 'kysely';
import { expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import { createAdmission } from '../../src/admission/create-admission.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { openTestLedger } from '../support/ledger.ts';

const AT_ONCE = 20;

/** Lets no statement through, with an error as the server would send it. */
const REFUSING: KyselyPlugin = {
  transformQuery: () => {
    throw Object.assign(new Error('permission denied for table api_keys'), { code: '42501' });
  },
  transformResult: ({ result }) => Promise.resolve(result),
};

it('where what decides can not be read nobody passes, nothing is charged, and the next one is asked anew', async () => {
  const ledger = await openTestLedger();
  const { secret } = await ledger.newKey();
  const errors: Error[] = [];
  let refusing = true;
  const admission = createAdmission({
    database: {
      ...ledger.database,
      get kysely() {
        return ledger.db.withPlugin({ ...REFUSING, transformQuery: (args) => (refusing ? REFUSING.transformQuery(args) : args.node) });
      },
    },
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
    refusing = false;
    expect(await admission.verify(caller, request)).toMatchObject({ code: 'VALID' });
    expect(await charged()).toEqual([{ total: 1n, events: 1 }]);
  } finally {
    await admission.close();
    await ledger.close();
  }
});
