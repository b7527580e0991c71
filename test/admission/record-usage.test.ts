import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { UsageItem } from '../../src/admission/admission.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { numberingFaults, totalFaults } from '../support/log-invariants.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { seededRandom } from '../support/random.ts';
import { windowFaults } from '../support/window-faults.ts';

const SECOND_MS = 1000;
const HOUR_MS = 3600 * SECOND_MS;
const DAY_MS = 24 * HOUR_MS;
const MAX_ITEMS = 10_000;

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

describe('reported usage', () => {
  let first: TestLedger;
  let second: TestLedger;
  let clock: TestClock;
  beforeAll(async () => {
    first = await openTestLedger();
    second = await openTestLedger({ on: first });
    clock = await installTestClock(first.testDatabase);
  });
  afterAll(async () => {
    await clock.close();
    await second.close();
    await first.close();
  });

  const report = (items: readonly Partial<UsageItem>[], server = first) =>
    server.admission.recordUsage(
      first.organization.id,
      items.map((item) => ({ ...ITEM, ...item })),
    );
  const verify = async (secret: string, cost = 1) => {
    const answer = await first.verify(secret, { cost });
    if (answer.kind !== 'answer') throw new Error(`the caller was refused: ${answer.kind}`);
    return answer;
  };
  const windowsOf = async (keyId: string) => {
    const { rows } = await sql<{ total: bigint; day: bigint; week: bigint; month: bigint; minute: bigint; tokens: bigint }>`
      SELECT w.total, w.half_hour_count + w.day_closed AS day, w.quarter_count + w.week_closed AS week, w.quarter_count + w.month_closed AS month,
        w.second_count + w.minute_closed AS minute, w.token_count + w.token_closed AS tokens
      FROM key_windows w JOIN api_keys k ON k.number = w.key WHERE k.id = ${keyId}`.execute(first.db);
    return Object.fromEntries(Object.entries(rows[0] ?? {}).map(([name, value]) => [name, Number(value)]));
  };
  const logged = async () =>
    Number((await sql<{ count: bigint }>`SELECT count(*) AS count FROM usage_events`.execute(first.db)).rows[0]?.count ?? 0n);

  it('of the past lands in the sub-bucket of its moment, and leaves each window when that does', async () => {
    await clock.stopAt(new Date('2030-03-10T12:00:10Z'));
    const { keyId, secret } = await first.newKey({ quotas: { total: null, daily: 8, weekly: null, monthly: null } });
    const now = await clock.now();
    const ago = (ms: number): Partial<UsageItem> => ({ keyId, at: new Date(now.getTime() - ms), tokensIn: 1n });
    expect(
      await report([
        { keyId, tokensIn: 1n },
        ago(30 * SECOND_MS),
        ago(5 * HOUR_MS),
        ago(23 * HOUR_MS),
        ago(3 * DAY_MS),
        ago(20 * DAY_MS),
        { ...ago(29 * DAY_MS), credits: 3 },
      ]),
    ).toMatchObject({
      kind: 'recorded',
      accepted: 7,
      duplicates: 0,
    });
    expect(await windowsOf(keyId)).toEqual({ total: 9, day: 4, week: 5, month: 9, minute: 2, tokens: 2 });
    expect(await windowFaults(first.db)).toEqual([]);
    // What was reported late counts for the quota: 4 of 8 are left.
    expect(await verify(secret, 5)).toMatchObject({ code: 'QUOTA_EXCEEDED' });
    expect(await verify(secret, 4)).toMatchObject({ code: 'VALID' });
    // An hour and a half later that of 23 hours ago has left the day with its half hour.
    await clock.advance(1.5 * HOUR_MS);
    expect(await verify(secret, 1)).toMatchObject({ code: 'VALID', quotas: [{ window: 'DAILY', remaining: 0 }] });
    expect(await windowsOf(keyId)).toEqual({ total: 14, day: 8, week: 10, month: 14, minute: 1, tokens: 0 });
    expect(await windowFaults(first.db)).toEqual([]);
  });

  it('equals what the windows say, wherever in time it lies and however the clock moves on', async () => {
    const random = seededRandom();
    console.log(`usage: TEST_SEED=${random.seed}`);
    const keys = await Promise.all(Array.from({ length: 4 }, () => first.newKey()));
    const spans = [1, 60 * SECOND_MS, HOUR_MS, DAY_MS, 30 * DAY_MS] as const;
    for (let round = 0; round < 25; round++) {
      await clock.advance(random.between(0, random.pick([100, 2 * SECOND_MS, 90 * SECOND_MS, HOUR_MS, 8 * HOUR_MS, 2 * DAY_MS])));
      const now = await clock.now();
      const item = (): Partial<UsageItem> => ({
        keyId: random.pick([keys[0], keys[1], keys[2], keys[3]])?.keyId ?? null,
        at: random.chance(0.2) ? null : new Date(now.getTime() - random.between(-2 * SECOND_MS, random.pick(spans))),
        credits: random.between(0, 3),
        tokensIn: BigInt(random.between(0, 50)),
        tokensOut: random.chance(0.5) ? null : 7n,
      });
      const reports = [
        report(Array.from({ length: random.between(1, 20) }, item)),
        report(Array.from({ length: random.between(1, 20) }, item), second),
      ];
      const answers = await Promise.all([...keys.map(({ secret }) => verify(secret, random.between(1, 3))), ...reports]);
      expect(answers.map((answer) => (answer.kind === 'answer' ? answer.code : answer.kind))).toEqual([
        ...keys.map(() => 'VALID'),
        'recorded',
        'recorded',
      ]);
    }
    expect(await windowFaults(first.db)).toEqual([]);
    expect(await totalFaults(first.db)).toEqual([]);
  });

  it('5.4 settles a request once, with its tokens charged once, however often and from wherever it is reported', async () => {
    await clock.advance(DAY_MS);
    const { keyId, secret } = await first.newKey();
    const requests = await Promise.all(Array.from({ length: 20 }, () => verify(secret)));
    const items = requests.map(({ requestId }) => ({ requestId, tokensIn: 10n, tokensOut: 5n, costMicros: 100n }));
    const outcomes = await Promise.all(
      Array.from({ length: 12 }, (_, index) => report(index % 3 === 0 ? items.toReversed() : items, index % 2 === 0 ? first : second)),
    );
    expect(outcomes.reduce((sum, outcome) => sum + (outcome.kind === 'recorded' ? outcome.accepted : Number.NaN), 0)).toBe(20);
    expect(outcomes.reduce((sum, outcome) => sum + (outcome.kind === 'recorded' ? outcome.duplicates : Number.NaN), 0)).toBe(20 * 11);
    expect(await windowsOf(keyId)).toMatchObject({ total: 20, tokens: 300 });
    const { rows } = await sql<{ settles: bigint; count: bigint }>`
      SELECT settles, count(*) AS count FROM usage_events WHERE kind = 3 AND settles = ANY (${requests.map(({ position }) => position)}::bigint[]) GROUP BY 1`.execute(
      first.db,
    );
    expect(rows.map((row) => row.count)).toEqual(requests.map(() => 1n));
  });

  it('with an id of the reporter counts once, whether repeated in one report, in the next one or by two servers at once', async () => {
    const { keyId } = await first.newKey();
    const items = ['a', 'b', 'c', 'b'].map((id) => ({ requestId: `job-${id}`, keyId, credits: 2 }));
    const outcomes = await Promise.all([report(items), report(items, second)]);
    expect(outcomes.map((outcome) => (outcome.kind === 'recorded' ? [outcome.accepted, outcome.duplicates] : []))).toEqual(
      expect.arrayContaining([
        [0, 4],
        [3, 1],
      ]),
    );
    expect(await report(items)).toMatchObject({ accepted: 0, duplicates: 4 });
    expect(await windowsOf(keyId)).toMatchObject({ total: 6 });
  });

  it('is refused whole for one bad item, which is named', async () => {
    const { keyId } = await first.newKey();
    const foreign = await first.newKey({}, (await first.newOrganization('Other')).owner);
    const before = await logged();
    for (const [bad, message] of [
      [{ requestId: 'req_999999999' }, "'requestId' names no request"],
      [{}, "'keyId' is needed"],
      [{ keyId: foreign.keyId }, "'keyId' is no key of your organization"],
    ] as const) {
      expect(await report([{ keyId }, { keyId }, bad, { keyId }])).toEqual({
        kind: 'bad-item',
        index: 2,
        message: expect.stringContaining(message) as unknown,
      });
    }
    expect(await logged()).toBe(before);
    expect(await windowsOf(keyId)).toMatchObject({ total: 0 });
  });

  it('takes 10,000 items in one commit, beside verifications of the same keys', async () => {
    const keys = await Promise.all(Array.from({ length: 10 }, () => first.newKey()));
    const now = (await clock.now()).getTime();
    const items = Array.from({ length: MAX_ITEMS }, (_, index) => ({
      keyId: keys[index % keys.length]?.keyId ?? null,
      requestId: index % 4 === 0 ? `bulk-${index}` : null,
      at: index % 2 === 0 ? null : new Date(now - index * 200 * SECOND_MS),
      tokensIn: 3n,
      costMicros: 5n,
    }));
    const before = await logged();
    const began = performance.now();
    const [outcome, ...answers] = await Promise.all([report(items), ...keys.map(({ secret }) => verify(secret))]);
    console.log(`usage: ${MAX_ITEMS} items in ${Math.round(performance.now() - began)} ms`);
    expect(outcome).toMatchObject({ kind: 'recorded', accepted: MAX_ITEMS, duplicates: 0 });
    expect(answers.every((answer) => answer.code === 'VALID')).toBe(true);
    expect(await logged()).toBe(before + MAX_ITEMS + keys.length);
    expect(await windowFaults(first.db)).toEqual([]);
    expect(await numberingFaults(first.db)).toEqual([]);
  });
});
