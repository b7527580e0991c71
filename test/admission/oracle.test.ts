import { sql } from 'kysely';
import { afterEach, describe, expect, it } from 'vitest';

import type { VerifyAnswer } from '../../src/admission/admission.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { numberingFaults } from '../support/log-invariants.ts';
import { seededRandom, type Random } from '../support/random.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { organizationWindowFaults, windowFaults } from '../support/window-faults.ts';
import { verifyReadThenWrite } from './read-then-write.ts';
import { oracleFaults, type Answered, type Caps, type Charged, type History } from './window-oracle.ts';

const CALLERS = 32;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** Of the keys in an organization without caps, and of those in one with. */
const UNCAPPED_KEYS: readonly [Caps, ...Caps[]] = [
  {},
  { total: 400 },
  { daily: 60 },
  { weekly: 150 },
  { monthly: 300 },
  { key_minute: 25 },
  { key_tokens: 2000 },
  { key_minute: 30, key_tokens: 4000, daily: 90, weekly: 220, monthly: 500, total: 1500 },
];
const CAPPED_KEYS: readonly [Caps, ...Caps[]] = [{}, {}, { key_minute: 40, daily: 200 }];
const JUMPS: readonly [readonly [number, number], ...(readonly [number, number])[]] = [
  [1, 80],
  [1, 80],
  [200, 1500],
  [200, 1500],
  [5 * SECOND_MS, 70 * SECOND_MS],
  [5 * SECOND_MS, 70 * SECOND_MS],
  [10 * MINUTE_MS, 90 * MINUTE_MS],
  [3 * HOUR_MS, 9 * HOUR_MS],
  [DAY_MS, 3 * DAY_MS],
];
const ORGANIZATION_CAPS: Caps = { organization_second: 40, organization_minute: 90 };

const RULES = ['daily', 'key_minute', 'key_tokens', 'monthly', 'organization_minute', 'organization_second', 'total', 'weekly'];

type Key = {
  readonly number: number;
  readonly secret: string;
  readonly organization: number;
  readonly organizationId: string;
  readonly caps: Caps;
};
type Verify = (server: TestLedger, key: Key, cost: number) => Promise<Pick<VerifyAnswer, 'position' | 'code' | 'refusedBy' | 'requestId'>>;

describe('the exactness of limits under random traffic', () => {
  const opened: { close(): Promise<void> }[] = [];
  afterEach(async () => {
    for (const resource of opened.splice(0).reverse()) await resource.close();
  });

  async function open() {
    const first = await openTestLedger();
    opened.push(first);
    const second = await openTestLedger({ on: first });
    opened.push(second);
    const clock = await installTestClock(first.testDatabase);
    opened.push(clock);
    const capped = await first.newOrganization('Capped');
    const caps = { requestsPerSecond: ORGANIZATION_CAPS.organization_second, requestsPerMinute: ORGANIZATION_CAPS.organization_minute };
    done(await first.organizations.changePlan(null, { organizationId: capped.id, plan: 'ENTERPRISE', caps }));
    const numbers = new Map(
      (await first.db.selectFrom('organizations').select(['id', 'number']).execute()).map((row) => [row.id, row.number]),
    );
    const newKey = async ({ id: organizationId, owner }: typeof capped, keyCaps: Caps): Promise<Key> => {
      const {
        total = null,
        daily = null,
        weekly = null,
        monthly = null,
        key_minute: requestsPerMinute = null,
        key_tokens: tokensPerMinute = null,
      } = keyCaps;
      const { keyId, secret } = await first.newKey(
        { quotas: { total, daily, weekly, monthly }, limits: { requestsPerMinute, tokensPerMinute } },
        owner,
      );
      const { number } = await first.db.selectFrom('api_keys').select('number').where('id', '=', keyId).executeTakeFirstOrThrow();
      return { number, secret, organizationId, organization: numbers.get(organizationId) ?? 0, caps: keyCaps };
    };
    const [one, ...others] = await Promise.all([
      ...UNCAPPED_KEYS.map((keyCaps) => newKey(first.organization, keyCaps)),
      ...CAPPED_KEYS.map((keyCaps) => newKey(capped, keyCaps)),
    ]);
    if (one === undefined) throw new Error('there are no keys');
    const keys: readonly [Key, ...Key[]] = [one, ...others];
    return { servers: [first, second] as const, clock, keys, cappedOrganization: numbers.get(capped.id) ?? 0 };
  }

  /** Sends traffic from all callers until so many requests were answered, with the clock jumping meanwhile. Answers what the callers saw, and what the log says of it. */
  async function drive(
    { servers, clock, keys, cappedOrganization }: Awaited<ReturnType<typeof open>>,
    {
      random,
      requests,
      goOnFor = [],
      verify,
      settling,
      minCost,
    }: {
      readonly random: Random;
      readonly requests: number;
      /** Rules: so long as one of them has refused nothing, up to four times as many requests are sent. */
      readonly goOnFor?: readonly string[];
      readonly verify: Verify;
      readonly settling: boolean;
      readonly minCost: number;
    },
  ) {
    const seen: (Omit<Answered, 'recordedAtUs'> & { readonly code: string })[] = [];
    let asked = 0;
    const dry: string[] = [];
    const missing = new Set(goOnFor);
    const caller = async (index: number): Promise<void> => {
      const server = servers[index % 2 === 0 ? 0 : 1];
      while (asked++ < requests || (missing.size > 0 && asked < 4 * requests)) {
        const key = random.pick(keys);
        const cost = random.between(minCost, 5);
        if (random.chance(0.012)) await jump(clock, random);
        const startMs = performance.now();
        const answer = await verify(server, key, cost);
        const endMs = performance.now();
        if (answer.position === null) dry.push(answer.code);
        else {
          const refusedBy =
            answer.refusedBy === null ? null : 'quota' in answer.refusedBy ? answer.refusedBy.quota : answer.refusedBy.limit;
          if (refusedBy !== null) missing.delete(refusedBy);
          seen.push({
            key: key.number,
            organization: key.organization,
            cost,
            refusedBy,
            position: answer.position,
            startMs,
            endMs,
            code: answer.code,
          });
        }
        if (!settling || key.caps.key_tokens === undefined || answer.position === null || random.chance(0.3)) continue;
        const at = random.chance(0.5) ? null : new Date((await clock.now()).getTime() - random.between(0, 90) * SECOND_MS);
        const usage = {
          keyId: null,
          endpoint: 'POST /v1/chat',
          status: 200,
          durationMs: 5,
          ip: null,
          credits: null,
          costMicros: null,
          model: null,
        };
        const tokensIn = BigInt(random.between(0, 400));
        const outcome = await server.admission.recordUsage(key.organizationId, [
          { ...usage, requestId: answer.requestId, at, tokensIn, tokensOut: 100n },
        ]);
        if (outcome.kind !== 'recorded') throw new Error(outcome.message);
      }
    };
    await Promise.all(Array.from({ length: CALLERS }, (_, index) => caller(index)));

    const { rows } = await sql<{
      position: bigint;
      kind: number;
      code: number;
      credits: number;
      key: number;
      at_us: bigint;
      tokens: bigint;
    }>`
      SELECT position, kind, code, credits, key, (extract(epoch FROM least(occurred_at, recorded_at)) * 1000000)::bigint AS at_us, coalesce(tokens_in, 0) + coalesce(tokens_out, 0) AS tokens
      FROM usage_events ORDER BY position`.execute(servers[0].db);
    const logged = new Map(rows.filter((row) => row.kind === 1).map((row) => [row.position, row]));
    const charged: readonly Charged[] = rows
      .filter((row) => row.kind === 3)
      .map((row) => ({ key: row.key, tokens: Number(row.tokens), position: row.position, atUs: Number(row.at_us) }));
    const history: History = {
      answered: seen.map((one) => ({ ...one, recordedAtUs: Number(logged.get(one.position)?.at_us) })),
      charged,
      keyCaps: new Map(keys.map((key) => [key.number, key.caps])),
      organizationCaps: new Map([[cappedOrganization, ORGANIZATION_CAPS]]),
    };
    const consumedByRefused = rows.filter((row) => row.kind !== 1 || row.code !== 0).reduce((sum, row) => sum + row.credits, 0);
    const unlikeTheLog = seen.filter((one) => {
      const row = logged.get(one.position);
      return (
        row === undefined ||
        row.key !== one.key ||
        (row.code === 0) !== (one.code === 'VALID') ||
        row.credits !== (one.code === 'VALID' ? one.cost : 0)
      );
    });
    return { history, seen, dry, logged, consumedByRefused, unlikeTheLog };
  }

  it('4.6 overruns no window of any length, refuses nothing that fits, and takes all of a request or none of it', async () => {
    const random = seededRandom();
    console.log(`oracle: TEST_SEED=${random.seed}`);
    const scene = await open();
    const { servers } = scene;
    const verify: Verify = async (server, key, cost) => {
      const answer = await server.verify(key.secret, { cost }, key.organizationId);
      if (answer.kind !== 'answer') throw new Error(`the caller was refused: ${answer.kind}`);
      return answer;
    };
    const { history, seen, dry, logged, consumedByRefused, unlikeTheLog } = await drive(scene, {
      random,
      requests: 4500,
      goOnFor: RULES,
      verify,
      settling: true,
      minCost: 0,
    });
    expect(oracleFaults(history)).toEqual([]);
    expect(unlikeTheLog).toEqual([]);
    expect(logged.size).toBe(seen.length);
    expect(consumedByRefused).toBe(0);
    expect(await windowFaults(servers[0].db)).toEqual([]);
    expect(await organizationWindowFaults(servers[0].db)).toEqual([]);
    expect(await numberingFaults(servers[0].db)).toEqual([]);
    expect(servers.flatMap((server) => server.errors)).toEqual([]);
    // The traffic has been where the limits are: each of them has refused.
    const refusals = Map.groupBy(history.answered, (one) => one.refusedBy ?? 'none');
    expect([...refusals.keys()].sort()).toEqual(['none', ...RULES].sort());
    expect(dry.length).toBeGreaterThan(500);

    // Rows are locked in one order by all: what deadlocks is run again and right, but stands still for a second.
    for (const server of servers) await server.admission.close();
    expect(await deadlocks(servers[0])).toBe(0);
  });

  it('is not found where counters are read first and written then', async () => {
    const random = seededRandom();
    const scene = await open();
    const verify: Verify = (server, key, cost) =>
      verifyReadThenWrite(server.db, { key: key.number, organization: key.organization, cost, daily: key.caps.daily ?? null });
    const keys = [scene.keys[2] ?? scene.keys[0]] as const;
    const { history } = await drive({ ...scene, keys }, { random, requests: 400, verify, settling: false, minCost: 1 });
    const faults = oracleFaults(history);
    expect(faults.length).toBeGreaterThan(0);
    expect(faults.join()).toContain('daily of key');
  });
});

/** Deadlocks in the database of a ledger since it was made, as told by sessions that have ended. */
function deadlocks({ testDatabase }: TestLedger): Promise<number> {
  return asAdmin(async (admin) => {
    const { rows } = await admin.query<{ deadlocks: string }>('SELECT deadlocks FROM pg_stat_database WHERE datname = $1', [
      testDatabase.name,
    ]);
    return Number(rows[0]?.deadlocks);
  });
}

/** Moves the clock by moments, seconds, hours or days. */
function jump(clock: TestClock, random: Random): Promise<void> {
  const [min, max] = random.pick(JUMPS);
  return clock.advance(random.between(min, max));
}
