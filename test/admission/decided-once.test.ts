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

it('a batch whose answer can not be put together is not decided again: each request is charged once', async () => {
  const ledger = await openTestLedger();
  const { secret } = await ledger.newKey();
  const errors: Error[] = [];
  const admission = createAdmission({
    database: { ...ledger.database, kysely: ledger.db.withPlugin(REFUSING) },
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
    const { rows } = await sql<{ total: bigint; events: number }>`
      SELECT sum(total)::bigint AS total, (SELECT count(*)::integer FROM usage_events) AS events FROM key_windows`.execute(ledger.db);
    expect(rows).toEqual([{ total: BigInt(AT_ONCE), events: AT_ONCE }]);
  } finally {
    await admission.close();
    await ledger.close();
  }
});
