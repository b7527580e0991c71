import { sql } from 'kysely';
import { afterEach, describe, expect, it } from 'vitest';

import { repairBalances } from '../../src/projections/balance-repair.ts';
import { staleAnswers, type Changed, type Observed } from '../admission/interval-checker.ts';
import { openDataPlane, type DataPlane } from '../http/data-plane.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { chargeReadThenWrite } from './charge-read-then-write.ts';

const UNIT = 1_000_000;
const REPORTERS = 24;
const REPORTS = 15;
const ROUNDS = 10;
const CACHED_MS = 50;

describe('3.4 a balance that two servers charge', () => {
  const open: { close(): Promise<void> }[] = [];
  afterEach(async () => {
    for (const one of open.splice(0).reverse()) await one.close();
  });

  async function openServers() {
    const first = await openTestLedger();
    open.push(first);
    const second = await openTestLedger({ on: first });
    open.push(second);
    const planes: DataPlane[] = [];
    for (const ledger of [first, second]) {
      const plane = await openDataPlane({ on: ledger });
      open.push(plane);
      planes.push(plane);
    }
    const [plane, other] = planes;
    if (plane === undefined || other === undefined) throw new Error('there are no servers');
    const token = (await plane.newToken(['keys:verify', 'usage:write'])).secret;
    const { keyId, secret } = await first.newKey();
    const { rows } = await sql<{ organization: number; key: number }>`
      SELECT o.number AS organization, k.number AS key FROM api_keys k JOIN organizations o ON o.id = k.organization_id WHERE k.id = ${keyId}`.execute(
      first.db,
    );
    const numbers = rows[0];
    if (numbers === undefined) throw new Error('there is no key');
    const planeOf = (index: number): DataPlane => (index % 2 === 0 ? plane : other);
    const report = async (index: number, items: readonly object[]) => {
      const answer = await planeOf(index).post(
        '/v1/usage',
        items.map((item) => ({ endpoint: 'POST /v1/chat', status: 200, durationMs: 5, ...item })),
        { token },
      );
      expect(answer.status).toBe(200);
    };
    return { first, second, token, keyId, secret, ...numbers, planeOf, report };
  }
  type Servers = Awaited<ReturnType<typeof openServers>>;

  const differencesOf = async (ledger: TestLedger, organization: number) =>
    (await sql<{ expected: bigint; found: bigint }>`SELECT * FROM balance_difference(${organization})`.execute(ledger.db)).rows;

  /** Charges by many at once, while funds are added; answers what should then be left. */
  async function hammer(servers: Servers, charge: (index: number, costMicros: number) => Promise<void>): Promise<bigint> {
    const { first, second } = servers;
    const organizationId = first.organization.id;
    done(await first.balances.enable(null, { organizationId, fundsMicros: 100 * UNIT }));
    let left = BigInt(100 * UNIT);
    const reporters = Array.from({ length: REPORTERS }, async (_, reporter) => {
      for (let turn = 0; turn < REPORTS; turn++) {
        const costMicros = 1 + ((reporter * 7919 + turn * 104_729) % 50_000);
        await charge(reporter, costMicros);
        left -= BigInt(costMicros);
      }
    });
    const funds = (async () => {
      for (let time = 1; time <= 20; time++) {
        done(await (time % 2 === 0 ? first : second).balances.addFunds(null, { organizationId, micros: time }));
        left += BigInt(time);
      }
    })();
    await Promise.all([...reporters, funds]);
    return left;
  }

  it('holds to the micro what all of them leave, whichever of them settles a request', async () => {
    const servers = await openServers();
    const { first, keyId, organization, report, planeOf, token, secret } = servers;
    const left = await hammer(servers, async (index, costMicros) => {
      // A request of its own; and one that both servers are told of at once, which is charged once.
      if (index % 3 !== 0) return report(index, [{ keyId, costMicros }]);
      const { requestId } = (await planeOf(index).post('/v1/verify', { key: secret }, { token })).body;
      await Promise.all([report(0, [{ requestId, costMicros }]), report(1, [{ requestId, costMicros }])]);
    });
    const { micros } = await first.db.selectFrom('balances').select('micros').executeTakeFirstOrThrow();
    expect(micros).toBe(left);
    expect(await differencesOf(first, organization)).toEqual([]);
    expect(await repairBalances(first.database, {})).toEqual({ compared: 1, repaired: 0, interrupted: false });
    expect(first.errors).toEqual([]);
  });

  it('control: charged by reading and then writing, it is found to be wrong', async () => {
    const servers = await openServers();
    const { first, second, key, organization } = servers;
    const left = await hammer(servers, (index, costMicros) =>
      chargeReadThenWrite((index % 2 === 0 ? first : second).db, { organization, key, costMicros }),
    );
    const { micros } = await first.db.selectFrom('balances').select('micros').executeTakeFirstOrThrow();
    expect(micros).not.toBe(left);
    expect(await differencesOf(first, organization)).toMatchObject([{ expected: left, found: micros }]);
  });

  it('that is switched off and on again under way is what its events say: what is reported in between costs nothing, and rebuild finds nothing to mend', async () => {
    const { first, second, keyId, organization, report } = await openServers();
    const organizationId = first.organization.id;
    done(await first.balances.enable(null, { organizationId, fundsMicros: UNIT }));
    let going = true;
    const reporters = Array.from({ length: 8 }, async (_, index) => {
      while (going) await report(index, [{ keyId, costMicros: 1 + index }]);
    });
    const repairing = (async () => {
      const repaired: number[] = [];
      while (going) repaired.push((await repairBalances(second.database, {})).repaired);
      return repaired;
    })();
    for (let round = 0; round < ROUNDS; round++) {
      const [one, other] = round % 2 === 0 ? [first, second] : [second, first];
      done(await one.balances.disable(null, { organizationId }));
      done(await other.balances.enable(null, { organizationId, fundsMicros: UNIT + round }));
    }
    going = false;
    await Promise.all(reporters);
    expect(new Set(await repairing)).toEqual(new Set([0]));
    expect(await differencesOf(first, organization)).toEqual([]);
    done(await first.balances.disable(null, { organizationId }));
    expect(await differencesOf(first, organization)).toEqual([]);
    expect(await first.db.selectFrom('balances').selectAll().execute()).toEqual([]);
    expect(first.errors).toEqual([]);
  });

  type Verify = (server: number, verify: () => Promise<string>) => Promise<string>;

  /** Drains the balance and fills it again, while both servers are asked without pause. */
  async function drainUnderLoad(ask: Verify) {
    const { first, second, secret, token, keyId, planeOf, report } = await openServers();
    const organizationId = first.organization.id;
    done(await first.balances.enable(null, { organizationId, fundsMicros: UNIT }));
    const observed: Observed[] = [];
    const changed: Changed[] = [];
    let going = true;
    const callers = Array.from({ length: 16 }, async (_, caller) => {
      const server = caller % 2;
      while (going) {
        const startMs = performance.now();
        const outcome = await ask(server, async () =>
          String((await planeOf(server).post('/v1/verify', { key: secret }, { token })).body['code']),
        );
        observed.push({ subject: 'key', server, startMs, endMs: performance.now(), outcome });
      }
    });
    async function change(what: string, work: () => Promise<unknown>, outcome: string): Promise<void> {
      const sentMs = performance.now();
      await work();
      changed.push({ subject: 'key', what, sentMs, acknowledgedMs: performance.now(), outcome });
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    try {
      await change('nothing', () => Promise.resolve(), 'VALID');
      for (let round = 0; round < ROUNDS; round++) {
        // Down to 0.05 by many at once: the last of them crosses the line.
        await change(
          'drained',
          () => Promise.all(Array.from({ length: 19 }, (_, index) => report(index, [{ keyId, costMicros: 50_000 }]))),
          'INSUFFICIENT_BALANCE',
        );
        const payer = round % 2 === 0 ? first : second;
        await change('filled', async () => done(await payer.balances.addFunds(null, { organizationId, micros: 950_000 })), 'VALID');
      }
    } finally {
      going = false;
      await Promise.all(callers);
    }
    return { observed, changed };
  }

  it('lets nothing pass that begins after the answer to the report that used it up, on neither server, and all after the answer to new funds', async () => {
    const { observed, changed } = await drainUnderLoad((_, verify) => verify());
    expect(staleAnswers(observed, changed)).toEqual([]);
    expect(new Set(observed.map(({ outcome }) => outcome))).toEqual(new Set(['VALID', 'INSUFFICIENT_BALANCE']));
    expect(observed.length).toBeGreaterThan(500);
  });

  it('control: where answers are kept for 50 ms, requests are found to pass', async () => {
    const kept = new Map<number, { readonly outcome: string; readonly untilMs: number }>();
    const { observed, changed } = await drainUnderLoad(async (server, verify) => {
      const known = kept.get(server);
      if (known !== undefined && known.untilMs > performance.now())
        return new Promise((resolve) => setImmediate(() => resolve(known.outcome)));
      const outcome = await verify();
      kept.set(server, { outcome, untilMs: performance.now() + CACHED_MS });
      return outcome;
    });
    expect(staleAnswers(observed, changed)).not.toEqual([]);
  });
});
