import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Tables } from '../../src/postgres/tables.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

const CALLERS = 24;
const MINUTE_MS = 60_000;

describe('a plan that is changed under load on two servers', () => {
  let first: TestLedger;
  let second: TestLedger;
  beforeAll(async () => {
    first = await openTestLedger();
    second = await openTestLedger({ on: first });
  });
  afterAll(async () => {
    await second.close();
    await first.close();
  });

  it('3.5 holds at the next verification and counts what was used before, on both', async () => {
    const { id, owner } = await first.newOrganization('Under load');
    const { secret } = await first.newKey({}, owner);
    const ask = async (server: TestLedger): Promise<boolean> => {
      const answer = await server.verify(secret, {}, id);
      return answer.kind === 'answer' && answer.code === 'VALID';
    };
    const startMs = performance.now();
    for (let round = 0; round < 5; round++) {
      // 20 are used without a cap, and then 300 are asked for under one that has room for 30 more.
      done(await first.organizations.changePlan(null, { organizationId: id, plan: 'ENTERPRISE' }));
      await Promise.all(Array.from({ length: 20 }, (_, index) => ask(index % 2 === 0 ? first : second)));
      const caps = { requestsPerMinute: 50 * (round + 1) };
      done(await first.organizations.changePlan(null, { organizationId: id, plan: 'ENTERPRISE', caps }));
      const answers = await Promise.all(Array.from({ length: 300 }, (_, index) => ask(index % 2 === 0 ? first : second)));
      expect(answers.filter(Boolean)).toHaveLength(30);
    }
    expect(performance.now() - startMs).toBeLessThan(MINUTE_MS);
  });

  it('3.5 lets nobody wait: a command that holds the log does not wait for verifications, which would wait for it', async () => {
    const { id, owner } = await first.newOrganization('Changing');
    const keys = await Promise.all([1, 2, 3].map(() => first.newKey({}, owner)));
    let going = true;
    let passed = 0;
    const callers = Array.from({ length: CALLERS }, async (_, index) => {
      for (let turn = index; going; turn++) {
        const answer = await (turn % 2 === 0 ? first : second).verify(keys[turn % keys.length]?.secret ?? '', {}, id);
        if (answer.kind === 'answer' && answer.code === 'VALID') passed++;
      }
    });
    for (let round = 0; round < 60; round++) {
      const caps = { requestsPerMinute: 1_000_000 + round };
      done(await first.organizations.changePlan(null, { organizationId: id, plan: 'ENTERPRISE', caps }));
    }
    going = false;
    await Promise.all(callers);
    expect(passed).toBeGreaterThan(0);
    expect(await deadlocks(first)).toBe(0);
  });

  it('3.5 has those decided again that a cap begins for meanwhile, and nobody else, however often plans change', async () => {
    const { id } = await first.newOrganization('Often');
    const number = await numberOf(first, id);
    const seen = await headOf(first);
    const reserve = (counted: readonly number[], begun = false): Promise<unknown> =>
      sql`SELECT reserve_position(0, ${seen}, ARRAY[${number}]::integer[], ${counted}::integer[], ${begun})`.execute(first.db);
    const change = async (caps?: { readonly requestsPerMinute: number }): Promise<void> => {
      done(await first.organizations.changePlan(null, { organizationId: id, plan: 'ENTERPRISE', ...(caps && { caps }) }));
    };
    await change({ requestsPerMinute: 10 });
    await expect(reserve([])).rejects.toMatchObject({ code: 'KL004' });
    await expect(reserve([number])).resolves.toBeDefined();
    await change({ requestsPerMinute: 20 });
    await expect(reserve([number])).resolves.toBeDefined();
    await change();
    await expect(reserve([])).resolves.toBeDefined();
    await expect(reserve([], true)).rejects.toMatchObject({ code: 'KL004' });
  });

  it('3.5 knows the windows of an organization that it made itself, which no change of plan can take away yet', async () => {
    const { id } = await first.newOrganization('Begun');
    const number = await numberOf(first, id);
    const lock = (db: Kysely<Tables>) =>
      sql<{ begun: boolean }>`SELECT begun FROM lock_organization_windows(ARRAY[${number}]::integer[], '{}')`.execute(db);
    await first.db.transaction().execute(async (transaction) => {
      expect((await lock(transaction)).rows).toEqual([{ begun: true }]);
    });
    expect((await lock(first.db)).rows).toEqual([{ begun: false }]);
  });
});

async function numberOf({ db }: TestLedger, id: string): Promise<number> {
  return (await db.selectFrom('organizations').select('number').where('id', '=', id).executeTakeFirstOrThrow()).number;
}

async function headOf({ db }: TestLedger): Promise<bigint> {
  return (await db.selectFrom('events').select('position').orderBy('position', 'desc').limit(1).executeTakeFirstOrThrow()).position;
}

function deadlocks({ testDatabase }: TestLedger): Promise<number> {
  return asAdmin(async (admin) => {
    const { rows } = await admin.query<{ deadlocks: string }>('SELECT deadlocks FROM pg_stat_database WHERE datname = $1', [
      testDatabase.name,
    ]);
    return Number(rows[0]?.deadlocks);
  });
}
