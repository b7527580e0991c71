import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { AdmissionUnavailableError, type UsageItem, type UsageOutcome } from '../../src/admission/admission.ts';
import { createUsageRecorder } from '../../src/admission/usage-recorder.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { seededRandom, type Random } from '../support/random.ts';
import { reportFaults, type SentReport } from './report-faults.ts';

const HOUR_MS = 3_600_000;
const NOBODY = '019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f';

const ITEM: UsageItem = {
  requestId: null,
  keyId: null,
  at: null,
  endpoint: 'POST /v1/chat',
  status: 200,
  durationMs: 12,
  ip: null,
  credits: null,
  costMicros: null,
  tokensIn: null,
  tokensOut: null,
  model: null,
};

type Record = (items: readonly UsageItem[]) => Promise<UsageOutcome>;

describe('reports that come at the same time', () => {
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

  const by =
    (server: TestLedger): Record =>
    (items) =>
      server.admission.recordUsage(first.organization.id, items);

  /** Reports of all kinds: some plain, some of the past, some that name requests, verified or their own, which others name too; some with a bad item. */
  async function hammer(random: Random, recorders: readonly [Record, ...Record[]], prefix: string): Promise<readonly SentReport[]> {
    const keys = await Promise.all(Array.from({ length: 6 }, () => first.newKey()));
    const verified = await Promise.all(keys.flatMap(({ secret }) => [1, 2, 3, 4, 5, 6].map(() => first.verify(secret))));
    const requestIds = verified.flatMap((answer) => (answer.kind === 'answer' ? [answer.requestId] : []));
    const pickKey = () => random.pick(keys as [(typeof keys)[number], ...typeof keys]).keyId;
    const good = (style: 'plain' | 'past' | 'named'): Partial<UsageItem> => ({
      keyId: random.chance(0.2) ? pickKey().toUpperCase() : pickKey(),
      credits: random.chance(0.5) ? null : random.between(0, 3),
      tokensIn: BigInt(random.between(0, 50)),
      tokensOut: random.chance(0.5) ? null : 7n,
      ...(style === 'plain' || random.chance(0.3)
        ? {}
        : { at: new Date(Date.now() - random.between(-2_000, random.pick([3_000, 90_000, HOUR_MS, 400 * HOUR_MS]))) }),
      ...(style !== 'named' || random.chance(0.3)
        ? {}
        : random.chance(0.5)
          ? { requestId: `${prefix}-${random.between(1, 60)}` }
          : { requestId: random.pick(requestIds as [string, ...string[]]), keyId: null }),
    });
    const sendOne = async (number: number): Promise<SentReport> => {
      const name = `${prefix} ${number}`;
      const style = random.pick<'plain' | 'past' | 'named'>(['plain', 'plain', 'past', 'named']);
      const items = Array.from({ length: random.between(1, 30) }, () => ({ ...ITEM, model: name, ...good(style) }));
      const bad = random.chance(0.15) ? random.between(0, items.length - 1) : null;
      if (bad !== null)
        items[bad] = {
          ...ITEM,
          model: name,
          ...random.pick<Partial<UsageItem>>([{ keyId: NOBODY }, {}, { requestId: 'req_999999999', keyId: pickKey() }]),
        };
      const outcome = await random.pick(recorders)(items);
      return { name, items, bad, outcome };
    };
    const reporters = Array.from({ length: 12 }, async (_, reporter) => {
      const sent: SentReport[] = [];
      for (let round = 0; round < 10; round++) sent.push(await sendOne(reporter * 100 + round));
      return sent;
    });
    return (await Promise.all(reporters)).flat();
  }

  it('are each recorded whole or not at all, once, with exact windows, beside bad ones and on two servers', async () => {
    const random = seededRandom();
    console.log(`shared reports: TEST_SEED=${random.seed}`);
    const verifying = { on: true };
    const { secret } = await first.newKey();
    const verifications = (async () => {
      while (verifying.on) await second.verify(secret);
    })();
    const sent = await hammer(random, [by(first), by(second)], 'shared').finally(() => (verifying.on = false));
    await verifications;
    expect(await reportFaults(first.db, sent)).toEqual([]);
    expect(sent.filter(({ outcome }) => outcome.kind === 'bad-item').length).toBeGreaterThan(0);
    expect([...first.errors, ...second.errors]).toEqual([]);
  });

  it.each<[string, (items: readonly UsageItem[]) => Promise<UsageOutcome>]>([
    [
      'records item by item',
      async (items) => {
        const outcomes: UsageOutcome[] = [];
        for (const [index, item] of items.entries()) {
          const outcome = await by(first)([item]);
          if (outcome.kind === 'bad-item') return { ...outcome, index };
          outcomes.push(outcome);
        }
        const done = outcomes.filter((outcome) => outcome.kind === 'recorded');
        return {
          kind: 'recorded',
          accepted: done.reduce((sum, { accepted }) => sum + accepted, 0),
          duplicates: done.reduce((sum, { duplicates }) => sum + duplicates, 0),
          position: done.at(-1)?.position ?? 0n,
        };
      },
    ],
    [
      'takes a bad neighbour for its own fault',
      async (items) => {
        const neighbour = await by(first)([{ ...ITEM, keyId: NOBODY }]);
        return items.length > 5 ? neighbour : by(first)(items);
      },
    ],
    [
      'records a report again after its answer was lost',
      async (items) => {
        await by(first)(items);
        return by(first)(items);
      },
    ],
  ])('(control) a recorder that %s is found out', async (what, record) => {
    const sent = await hammer(seededRandom(), [record], what.slice(0, 12));
    expect(await reportFaults(first.db, sent)).not.toEqual([]);
  });

  it('share a statement and a commit', async () => {
    const { keyId } = await first.newKey();
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, () =>
        by(first)([
          { ...ITEM, keyId },
          { ...ITEM, keyId },
        ]),
      ),
    );
    expect(outcomes.every((outcome) => outcome.kind === 'recorded' && outcome.accepted === 2)).toBe(true);
    const { rows } = await sql<{ moments: bigint; events: bigint }>`
      SELECT count(DISTINCT u.recorded_at) AS moments, count(*) AS events FROM usage_events u JOIN api_keys k ON k.number = u.key WHERE k.id = ${keyId}`.execute(
      first.db,
    );
    expect(rows).toEqual([{ moments: 1n, events: 40n }]);
  });

  it('are not harmed by one that the database can not store', async () => {
    const { keyId } = await first.newKey();
    const reports = Array.from({ length: 6 }, (_, number) => ({ ...ITEM, keyId, endpoint: number === 3 ? 'a\u0000b' : 'GET /' }));
    const outcomes = await Promise.allSettled(reports.map((item) => by(first)([item])));
    expect(outcomes.map(({ status }) => status)).toEqual(reports.map((_, number) => (number === 3 ? 'rejected' : 'fulfilled')));
    expect(await reportFaults(first.db, [])).not.toContainEqual(expect.stringContaining('counted'));
  });

  it('wait for a bounded time and in a bounded number, and are then refused with nothing recorded', async () => {
    const { keyId } = await first.newKey();
    const recorder = createUsageRecorder({ db: first.db, maxItems: 2, maxQueuedItems: 3, maxWaitMs: 200 });
    const report = (items: number) =>
      recorder.record(
        first.organization.id,
        Array.from({ length: items }, () => ({ ...ITEM, keyId })),
      );
    let underWay: Promise<UsageOutcome> | undefined;
    let late: Promise<unknown> | undefined;
    await second.db.transaction().execute(async (tx) => {
      await sql`SELECT FROM key_windows w JOIN api_keys k ON k.number = w.key WHERE k.id = ${keyId} FOR UPDATE OF w`.execute(tx);
      underWay = report(5); // more than either bound, and nothing else is there
      await new Promise((resolve) => setTimeout(resolve, 50));
      late = report(3).catch((error: unknown) => error);
      await expect(report(1)).rejects.toBeInstanceOf(AdmissionUnavailableError);
      await new Promise((resolve) => setTimeout(resolve, 250));
    });
    expect(await underWay).toMatchObject({ kind: 'recorded', accepted: 5 });
    expect(await late).toBeInstanceOf(AdmissionUnavailableError);
    expect(await report(3)).toMatchObject({ kind: 'recorded', accepted: 3 });
    const { rows } = await sql<{
      total: bigint;
    }>`SELECT w.total FROM key_windows w JOIN api_keys k ON k.number = w.key WHERE k.id = ${keyId}`.execute(first.db);
    expect(rows).toEqual([{ total: 8n }]);
  });
});
