import { afterEach, expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { numberingFaults, totalFaults } from '../support/log-invariants.ts';

const REQUESTS = 120;

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource.close();
});

/** Lets the statement fail that records a request with a certain endpoint: for ever, or every second time as if it had collided with another one. */
async function failOn({ testDatabase }: TestLedger): Promise<void> {
  await asAdmin(async (client) => {
    await client.query(`
      CREATE SEQUENCE keyledger.collisions; GRANT USAGE ON SEQUENCE keyledger.collisions TO keyledger_server;
      CREATE FUNCTION keyledger.fail_on() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.endpoint = 'GET /fails' THEN RAISE EXCEPTION 'this one fails' USING ERRCODE = '22023'; END IF;
        IF NEW.endpoint = 'GET /collides' AND nextval('keyledger.collisions') % 2 = 1 THEN RAISE EXCEPTION 'this one collides' USING ERRCODE = '40001'; END IF;
        RETURN NEW; END $$;
      GRANT EXECUTE ON FUNCTION keyledger.fail_on TO keyledger_server;
      CREATE TRIGGER fail_on BEFORE INSERT ON keyledger.usage_events FOR EACH ROW EXECUTE FUNCTION keyledger.fail_on()`);
  }, testDatabase.name);
}

it('a request that its statement fails for harms no other of its batch, and what was changed meanwhile is known to all of them', async () => {
  const first = await openTestLedger();
  open.push(first);
  const second = await openTestLedger({ on: first });
  open.push(second);
  await failOn(first);
  const { secret } = await first.newKey({ quotas: { daily: 10_000 } });
  const switched = await first.newKey();
  let acknowledged = Number.POSITIVE_INFINITY;
  const changing = (async () => {
    await new Promise((resolve) => setTimeout(resolve, 20));
    done(await first.keys.deactivate(first.owner, { id: switched.keyId }));
    acknowledged = performance.now();
  })();
  const failed: number[] = [];
  const wrong: string[] = [];
  await Promise.all(
    Array.from({ length: REQUESTS }, async (_, index) => {
      for (let turn = 0; turn < 8; turn++) {
        const endpoint = index % 40 === 7 ? 'GET /fails' : index % 40 === 9 ? 'GET /collides' : 'GET /';
        const startMs = performance.now();
        try {
          const answer = await second.verify(index % 3 === 1 && endpoint === 'GET /' ? switched.secret : secret, { endpoint });
          const code = answer.kind === 'answer' ? answer.code : answer.kind;
          if (endpoint === 'GET /fails') wrong.push(`passed: ${endpoint}`);
          if (code !== 'VALID' && !(index % 3 === 1 && code === 'INACTIVE')) wrong.push(code);
          if (index % 3 === 1 && endpoint === 'GET /' && startMs > acknowledged && code !== 'INACTIVE')
            wrong.push(`${code} after it was deactivated`);
        } catch (error) {
          if (!(error instanceof AdmissionUnavailableError) || endpoint !== 'GET /fails') wrong.push(`${endpoint}: ${String(error)}`);
          failed.push(index);
        }
      }
    }),
  );
  await changing;
  expect(wrong).toEqual([]);
  expect(failed).toHaveLength(8 * 3);
  expect(await totalFaults(first.db)).toEqual([]);
  expect(await numberingFaults(first.db)).toEqual([]);
});
