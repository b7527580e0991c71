import { afterEach, describe, expect, it, vi } from 'vitest';

import { evaluateUses } from '../../src/alerts/evaluate-uses.ts';
import { createRaiseAlerts } from '../../src/alerts/raise-alerts.ts';
import { readUses } from '../../src/alerts/read-uses.ts';
import { createSlack, type Slack } from '../../src/alerts/slack.ts';
import { headPosition } from '../../src/ledger/append.ts';
import { done, openTestLedger } from '../support/ledger.ts';
import { seededRandom } from '../support/random.ts';
import { installTestClock } from '../support/test-clock.ts';

vi.setConfig({ testTimeout: 90_000, hookTimeout: 30_000 });

const SECOND_MS = 1000;
const HOUR_MS = 3600 * SECOND_MS;
const STEPS = 300;

describe('6.1 windows are read only where a threshold can have been crossed', () => {
  const releases: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const release of releases.splice(0).reverse()) await release();
  });

  /**
   * Random traffic, reports, changes of caps and rules, and leaps of time, looked at now and then with the slack. After each look everything that the page has
   * touched is evaluated once more without it. Answers how many alerts that raised which the look had left out, and what all was raised and read.
   */
  async function compare(slackOf: (slack: Slack) => Slack, random = seededRandom()) {
    const ledger = await openTestLedger();
    releases.push(() => ledger.close());
    const clock = await installTestClock(ledger.testDatabase);
    releases.push(() => clock.close());
    await clock.stopAt(new Date());
    const { owner, organization, db } = ledger;
    const caps = { requestsPerSecond: null, requestsPerMinute: 150 };
    done(await ledger.organizations.changePlan(null, { organizationId: organization.id, plan: 'ENTERPRISE', caps }));
    done(await ledger.balances.enable(null, { organizationId: organization.id, fundsMicros: 3_000_000 }));
    const cap = () => random.pick([null, random.between(1, 12), random.between(10, 400)]);
    const capsOf = () => ({
      quotas: { total: cap(), daily: cap(), weekly: cap(), monthly: cap() },
      limits: { requestsPerMinute: cap(), tokensPerMinute: random.pick([null, 500, 5000]) },
    });
    const keys = await Promise.all(Array.from({ length: 8 }, () => ledger.newKey(capsOf())));
    const [first, ...others] = keys;
    if (first === undefined) throw new Error('there are no keys');
    const key = () => random.pick([first, ...others]);
    const rules = [done(await ledger.alerts.createRule(owner, ruleOf())).result.ruleId];

    function ruleOf() {
      const percentages = [...new Set([random.between(1, 100), random.between(1, 100)])];
      return {
        organizationId: organization.id,
        kind: random.pick(['QUOTA_THRESHOLD', 'RATE_LIMIT_APPROACHED']),
        percentages,
        ...(random.chance(0.5) ? { apiKeyId: key().keyId } : {}),
      };
    }
    async function report(): Promise<void> {
      const now = (await clock.now()).getTime();
      const at = random.chance(0.5) ? null : new Date(now - random.pick([SECOND_MS, 40 * SECOND_MS, HOUR_MS, 30 * HOUR_MS, 300 * HOUR_MS]));
      const tokens = random.chance(0.5) ? BigInt(random.between(1, 400)) : null;
      const [credits, costMicros] = [random.between(0, 4), random.chance(0.5) ? BigInt(random.between(1, 90_000)) : null];
      const item = { requestId: null, keyId: key().keyId, at, endpoint: 'GET /', status: 200, durationMs: 1, ip: null, model: null };
      await ledger.admission.recordUsage(organization.id, [{ ...item, credits, costMicros, tokensIn: tokens, tokensOut: null }]);
    }
    async function act(): Promise<void> {
      const dice = random.between(1, 100);
      if (dice <= 55) {
        const { secret } = key();
        for (let time = random.between(1, 6); time > 0; time--) await ledger.verify(secret, { cost: random.between(1, 3) });
      } else if (dice <= 75) await report();
      else if (dice <= 88) await clock.advance(random.pick([100, SECOND_MS, 61 * SECOND_MS, HOUR_MS, 25 * HOUR_MS, 200 * HOUR_MS]));
      else if (dice <= 92) done(await ledger.keys.update(owner, { id: key().keyId, ...capsOf() }));
      else if (dice <= 94) await ledger.balances.addFunds(null, { organizationId: organization.id, micros: random.between(1, 800_000) });
      else if (dice <= 96) rules.push(done(await ledger.alerts.createRule(owner, ruleOf())).result.ruleId);
      else if (dice <= 98) {
        const id = random.pick([rules[0] ?? '', ...rules]);
        done(await ledger.alerts.updateRule(owner, { id, percentages: [random.between(1, 100)] }));
      } else {
        const changed = { requestsPerSecond: null, requestsPerMinute: random.pick([null, 20, 150]) };
        done(await ledger.organizations.changePlan(null, { organizationId: organization.id, plan: 'ENTERPRISE', caps: changed }));
      }
    }

    const slack = slackOf(createSlack());
    const count = { leftOut: 0, raised: 0, read: 0, touched: 0 };
    let place = await headPosition(db);
    async function look(): Promise<void> {
      const page = await readUses(db, place);
      if (page.upTo === page.after) return;
      const due = slack.due(page);
      const { changedKeys, ruledOrganizations } = page;
      // Remembers nothing: that is by the clock of the process.
      const counted =
        (into: 'raised' | 'leftOut') =>
        async (...args: Parameters<ReturnType<typeof createRaiseAlerts>>) => {
          const raised = await createRaiseAlerts(db)(...args);
          count[into] += raised;
          return raised;
        };
      await evaluateUses(db, { ...due, changedKeys, ruledOrganizations }, { raise: counted('raised'), slack });
      const all = { keys: page.uses.map((use) => use.key), organizations: [...new Set(page.uses.map((use) => use.organization))] };
      await evaluateUses(db, { ...all, changedKeys, ruledOrganizations }, { raise: counted('leftOut'), slack: createSlack() });
      count.read += due.keys.length;
      count.touched += all.keys.length;
      place = page.upTo;
    }
    for (let step = 0; step < STEPS; step++) {
      await act();
      if (random.chance(0.4)) await look();
    }
    await look();
    expect(ledger.errors).toEqual([]);
    return { ...count, seed: random.seed };
  }

  it('6.1 whatever traffic, time and changes bring, no alert is left out by it, and few windows are read', async () => {
    const { leftOut, raised, read, touched, seed } = await compare((slack) => slack);
    expect({ leftOut, seed }).toEqual({ leftOut: 0, seed });
    expect(raised).toBeGreaterThan(0);
    expect(read).toBeLessThan(touched);
  });

  it('6.1 one that takes keys for farther from their thresholds than they are would be found', async () => {
    const tooFar = (slack: Slack): Slack => ({
      ...slack,
      learnKey: (number, known) => slack.learnKey(number, { ...known, headroom: { ...known.headroom, credits: Infinity } }),
    });
    // Always the same traffic, of which it is known to bring many.
    const { leftOut } = await compare(tooFar, seededRandom(2));
    expect(leftOut).toBeGreaterThan(0);
  });

  it('6.1 what could raise use unseen makes it forget: a page left out, a repair, a clock set back, an event about the key or its organization', async () => {
    const page = {
      position: 0n,
      after: 10n,
      upTo: 20n,
      more: false,
      nowMs: 1_000,
      revision: 1n,
      keysWithEvents: [],
      organizationsWithEvents: [],
    };
    const use = { key: 1, organization: 1, credits: 1, tokens: 0, costMicros: 0 };
    const first = { ...page, uses: [use], changedKeys: [], ruledOrganizations: [] };
    const next = { ...first, after: 20n, upTo: 30n, nowMs: 2_000 };
    const dueAfter = (second: typeof first | object) => {
      const slack = createSlack();
      expect(slack.due(first).keys).toEqual([1]);
      const headroom = { credits: 3, tokens: 100, costMicros: Infinity };
      slack.learnKey(1, { keyId: 'k', organizationId: 'o', headroom, againAtMs: 30_000 });
      return slack.due({ ...next, ...second }).keys.length === 1;
    };
    expect(dueAfter({})).toBe(false);
    const forgets = [
      { after: 21n },
      { revision: 2n },
      { nowMs: 999 },
      { nowMs: 30_000 },
      { keysWithEvents: ['k'] },
      { organizationsWithEvents: ['o'] },
      { uses: [{ ...use, credits: 3 }] },
      { uses: [{ ...use, tokens: 100 }] },
    ];
    expect(forgets.map(dueAfter)).toEqual(forgets.map(() => true));
    expect(dueAfter({ keysWithEvents: ['another'], organizationsWithEvents: ['another'], uses: [{ ...use, credits: 2 }] })).toBe(false);
  });
});
