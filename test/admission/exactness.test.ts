import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { numberingFaults, totalFaults } from '../support/log-invariants.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { organizationWindowFaults, windowFaults } from '../support/window-faults.ts';
import { verifyReadThenWrite } from './read-then-write.ts';

const ROUNDS = 20;
const FEWER_ROUNDS = 5;
const AT_ONCE = 300;
const TWO_DAYS_MS = 2 * 24 * 3600 * 1000;

describe('300 verifications at once where 100 fit', () => {
  let servers: readonly [TestLedger, TestLedger];
  let clock: TestClock;
  beforeAll(async () => {
    const first = await openTestLedger();
    servers = [first, await openTestLedger({ on: first })];
    clock = await installTestClock(first.testDatabase);
    await clock.stopAt(new Date());
  });
  afterAll(async () => {
    await clock.close();
    await servers[1].close();
    await servers[0].close();
  });

  /** How many of them passed in each round; the windows are empty again at the beginning of each. */
  async function passed(
    serverCount: number,
    ask: (server: TestLedger) => ReturnType<TestLedger['verify']>,
    rounds: number,
  ): Promise<readonly number[]> {
    const counts: number[] = [];
    for (let round = 0; round < rounds; round++) {
      await clock.advance(TWO_DAYS_MS);
      const answers = await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => ask(servers[index % serverCount === 0 ? 0 : 1])));
      counts.push(answers.filter((answer) => answer.kind === 'answer' && answer.code === 'VALID').length);
    }
    return counts;
  }
  const always = (count: number, rounds: number): readonly number[] => Array.from({ length: rounds }, () => count);

  for (const serverCount of [1, 2]) {
    const where = serverCount === 1 ? 'on one server' : 'on two servers';

    it(`let exactly 100 through ${where}, 20 times over`, async () => {
      const { secret } = await servers[0].newKey({ quotas: { daily: 100 } });
      expect(await passed(serverCount, (server) => server.verify(secret), ROUNDS)).toEqual(always(100, ROUNDS));
    });

    it(`let exactly 33 of cost 3 through ${where}, and what is left of the last one after`, async () => {
      const { secret } = await servers[0].newKey({ quotas: { daily: 100 } });
      expect(await passed(serverCount, (server) => server.verify(secret, { cost: 3 }), FEWER_ROUNDS)).toEqual(always(33, FEWER_ROUNDS));
      expect(await servers[1].verify(secret, { cost: 1 })).toMatchObject({ code: 'VALID', quotas: [{ remaining: 0 }] });
      expect(await servers[1].verify(secret, { cost: 1 })).toMatchObject({ code: 'QUOTA_EXCEEDED' });
    });

    for (const cap of ['requestsPerSecond', 'requestsPerMinute'] as const) {
      it(`let exactly the 100 of an organization's ${cap} through ${where}, over all its keys`, async () => {
        const organization = await servers[0].newOrganization(`Capped ${cap} ${where}`);
        done(
          await servers[0].organizations.changePlan(null, { organizationId: organization.id, plan: 'ENTERPRISE', caps: { [cap]: 100 } }),
        );
        const keys = await Promise.all(
          [{}, { quotas: { daily: 500 } }, {}].map((settings) => servers[0].newKey(settings, organization.owner)),
        );
        let next = 0;
        const ask = (server: TestLedger) => server.verify(keys[next++ % keys.length]?.secret ?? '', {}, organization.id);
        expect(await passed(serverCount, ask, FEWER_ROUNDS)).toEqual(always(100, FEWER_ROUNDS));
      });
    }
  }

  it('leave counters that equal the log', async () => {
    expect(await numberingFaults(servers[0].db)).toEqual([]);
    expect(await totalFaults(servers[0].db)).toEqual([]);
    expect(await windowFaults(servers[0].db)).toEqual([]);
    expect(await organizationWindowFaults(servers[0].db)).toEqual([]);
  });

  it('let more than 100 through where counters are read first and written then', async () => {
    const { keyId } = await servers[0].newKey();
    const key = await servers[0].db.selectFrom('api_keys').select('number').where('id', '=', keyId).executeTakeFirstOrThrow();
    const organization = await servers[0].db
      .selectFrom('organizations')
      .select('number')
      .where('id', '=', servers[0].organization.id)
      .executeTakeFirstOrThrow();
    const request = { key: key.number, organization: organization.number, cost: 1, daily: 100 };
    const answers = await Promise.all(
      Array.from({ length: AT_ONCE }, (_, index) => verifyReadThenWrite(servers[index % 2 === 0 ? 0 : 1].db, request)),
    );
    expect(answers.filter((answer) => answer.code === 'VALID').length).toBeGreaterThan(100);
    // And what was written past the windows is found.
    expect(await windowFaults(servers[0].db)).not.toEqual([]);
  });
});
