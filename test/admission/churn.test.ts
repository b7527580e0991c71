import { hash, randomBytes } from 'node:crypto';

import { sql } from 'kysely';
import { afterEach, expect, it } from 'vitest';

import type { VerifyCaller } from '../../src/admission/admission.ts';
import { check } from '../../src/audit/check.ts';
import { accessTokenHash } from '../../src/identity/access-token.ts';
import { alterAdmit } from '../support/alter-admit.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { numberingFaults } from '../support/log-invariants.ts';
import { organizationWindowFaults, windowFaults } from '../support/window-faults.ts';
import { staleAnswers, type Changed, type Observed } from './interval-checker.ts';

const CALLERS = 32;
const CAP = 100;
const PLAIN_KEYS = 12;
/** Changes one after the other by each of so many. */
const CHURNERS = 4;

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource.close();
});

async function openTwo() {
  const first = await openTestLedger();
  open.push(first);
  const second = await openTestLedger({ on: first });
  open.push(second);
  return { first, second };
}

type Question = {
  readonly subject: string;
  readonly secret: string;
  readonly caller: VerifyCaller;
  readonly permissions: readonly string[];
};

/**
 * Verifications on two servers without pause, while all that decides about them is changed as fast as the log takes it: the keys asked about, others of the same
 * organization, its tokens, members, profiles and plan. Nothing waits for anything.
 */
async function churn({ first, second }: { first: TestLedger; second: TestLedger }, forMs: number) {
  const { owner } = first;
  const { organizationId } = owner;
  const organization: VerifyCaller = { kind: 'organization', organizationId };
  const observed: Observed[] = [];
  const changed: Changed[] = [];
  const failures = new Map<string, number>();
  const until = performance.now() + forMs;
  const going = (): boolean => performance.now() < until;
  let changes = 0;

  const questions: Question[] = [];
  const about = (subject: string, secret: string, more: Partial<Question> = {}): number =>
    questions.push({ subject, secret, caller: organization, permissions: [], ...more });
  async function change<Result>(on: string, what: string, outcome: string, work: () => Promise<Result>): Promise<Result> {
    const sentMs = performance.now();
    const result = await work();
    changes++;
    changed.push({ subject: on, what, sentMs, acknowledgedMs: performance.now(), outcome });
    return result;
  }
  const nothing = async (): Promise<void> => {};

  const profiled = done(await first.profiles.create(owner, { organizationId, name: 'tier', settings: { rate: 1 } })).result.profileId;
  const switched = await first.newKey({ profileId: profiled });
  const narrowed = await first.newKey({ permissions: ['read'] });
  const lifted = await first.newKey();
  const renewed = await first.newKey();
  const bounded = await first.newKey({ quotas: { total: CAP }, limits: { requestsPerMinute: 10 * CAP } });
  const daily = await first.newKey({ quotas: { daily: CAP } });
  const plain = await Promise.all(Array.from({ length: PLAIN_KEYS }, () => first.newKey({ quotas: { monthly: 10_000_000 } })));
  const { memberId } = done(await first.organizations.addMember(owner, { organizationId, role: 'ADMIN' })).result;
  const personal = done(await first.tokens.create(owner, { organizationId, name: 'of a member', memberId }));
  const capped = await first.newOrganization('Capped');
  const cappedKeys = [await first.newKey({}, capped.owner), await first.newKey({ limits: { requestsPerMinute: 10 * CAP } }, capped.owner)];
  about('switched', switched.secret);
  about('narrowed', narrowed.secret, { permissions: ['read'] });
  about('lifted', lifted.secret);
  about('renewed 0', renewed.secret);
  about('member', plain[0]?.secret ?? '', { caller: { kind: 'token', tokenHash: accessTokenHash(personal.secret?.reveal() ?? '') } });
  for (const { subject } of questions) await change(subject, 'nothing', 'VALID', nothing);
  about('bounded', bounded.secret);
  about('daily', daily.secret);
  for (const { secret } of plain) about('plain', secret);
  await change('plain', 'nothing', 'VALID', nothing);
  for (const { secret } of cappedKeys) about('capped', secret, { caller: { kind: 'organization', organizationId: capped.id } });

  const callers = Array.from({ length: CALLERS }, async (_, index) => {
    const server = index % 2 === 0 ? first : second;
    for (let turn = index; going(); turn += 7) {
      const question = questions[turn % questions.length];
      if (question === undefined) return;
      const { secret: key, caller, permissions } = question;
      const startMs = performance.now();
      try {
        const asked = { key, permissions, cost: 1, endpoint: null, ip: null, origin: null, environment: null, requestId: null };
        const answer = await server.admission.verify(caller, asked);
        const outcome = answer.kind === 'answer' ? answer.code : answer.kind;
        observed.push({ subject: question.subject, server: index % 2, startMs, endMs: performance.now(), outcome });
      } catch (error) {
        failures.set(String(error), (failures.get(String(error)) ?? 0) + 1);
      }
    }
  });

  const { keys, organizations, profiles, imports } = first;
  const unlimited = { total: null, daily: null, weekly: null, monthly: null };
  const churners: readonly (() => Promise<void>)[] = [
    async () => {
      for (let turn = 1; going(); turn++) {
        await change('switched', 'deactivate', 'INACTIVE', async () => done(await keys.deactivate(owner, { id: switched.keyId })));
        await change('narrowed', 'narrow', 'PERMISSION_DENIED', async () =>
          done(await keys.update(owner, { id: narrowed.keyId, permissions: [] })),
        );
        const least = { ...unlimited, total: 1 };
        await change('lifted', 'lower', 'QUOTA_EXCEEDED', async () => done(await keys.update(owner, { id: lifted.keyId, quotas: least })));
        await change('switched', 'activate', 'VALID', async () => done(await keys.activate(owner, { id: switched.keyId })));
        await change('narrowed', 'widen', 'VALID', async () =>
          done(await keys.update(owner, { id: narrowed.keyId, permissions: ['read'] })),
        );
        await change('lifted', 'lift', 'VALID', async () => done(await keys.update(owner, { id: lifted.keyId, quotas: unlimited })));
        done(await profiles.update(owner, { id: profiled, settings: { rate: turn } }));
      }
    },
    async () => {
      // The secret of one key, the role of a member, and the plan of the other organization.
      for (let turn = 1; going(); turn++) {
        const subject = `renewed ${turn}`;
        const { secret } = await change(`renewed ${turn - 1}`, 'regenerate', 'INVALID_KEY', async () =>
          done(await keys.regenerate(owner, { id: renewed.keyId })),
        );
        await change(subject, 'regenerate', 'VALID', nothing);
        about(subject, secret?.reveal() ?? '');
        if (questions.length > 40)
          questions.splice(
            questions.findIndex((one) => one.subject.startsWith('renewed')),
            1,
          );
        const role = (to: string) => async () => done(await organizations.changeMemberRole(owner, { id: memberId, role: to }));
        await change('member', 'lower role', 'forbidden', role('AUDITOR'));
        await change('member', 'raise role', 'VALID', role('ADMIN'));
        const caps = turn % 3 === 0 ? undefined : { requestsPerMinute: CAP, requestsPerSecond: 10 * CAP };
        done(await organizations.changePlan(null, { organizationId: capped.id, plan: 'ENTERPRISE', ...(caps && { caps }) }));
        changes++;
      }
    },
    async () => {
      // Keys that nobody asks about, in the same organization.
      const other = await first.newKey();
      for (let turn = 1; going(); turn++) {
        done(await keys.update(owner, { id: other.keyId, name: `Other ${turn}` }));
        changes++;
      }
    },
    async () => {
      // Keys that are made elsewhere, used at once and deleted.
      for (let turn = 1; going(); turn++) {
        const secret = `elsewhere_${randomBytes(16).toString('hex')}`;
        const name = `Elsewhere ${turn}`;
        const [imported] = done(await imports.importKeys(owner, { organizationId, keys: [{ name, hash: hash('sha256', secret, 'hex') }] }))
          .result.keyIds;
        const subject = `imported ${turn}`;
        await change(subject, 'import', 'VALID', nothing);
        about(subject, secret);
        await new Promise((resolve) => setTimeout(resolve, 20));
        await change(subject, 'delete', 'INVALID_KEY', async () => done(await keys.delete(owner, { id: imported, confirmName: name })));
        await new Promise((resolve) => setTimeout(resolve, 20));
        questions.splice(
          questions.findIndex((one) => one.subject === subject),
          1,
        );
      }
    },
  ];
  await Promise.all([...callers, ...churners.slice(0, CHURNERS).map((churner) => churner())]);
  for (let turn = 0; turn < 3; turn++) done(await organizations.changePlan(null, { organizationId: capped.id, plan: 'ENTERPRISE' }));
  return { observed, changed, failures: [...failures], changes };
}

it('2.1 3.5 4.6 keys that are changed as fast as the log takes it are answered as they are at that moment, within their limits, and nobody is turned away', async () => {
  const two = await openTwo();
  const { observed, changed, failures, changes } = await churn(two, 4000);
  console.log(`churn: ${observed.length} answers beside ${changes} changes`);
  expect(failures).toEqual([]);
  expect(staleAnswers(observed, changed)).toEqual([]);
  const { first, second } = two;
  const passed = (subject: string): number => observed.filter((one) => one.subject === subject && one.outcome === 'VALID').length;
  // A slow machine does not come to ask for all of it within the time.
  for (const subject of ['bounded', 'daily'])
    expect(passed(subject)).toBe(Math.min(CAP, observed.filter((one) => one.subject === subject).length));
  for (const server of [first, second]) expect(server.errors).toEqual([]);
  await first.admission.close();
  await second.admission.close();
  expect(await windowFaults(first.db)).toEqual([]);
  expect(await organizationWindowFaults(first.db)).toEqual([]);
  expect(await numberingFaults(first.db)).toEqual([]);
  const found: unknown[] = [];
  await check(first.database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
  expect(found).toEqual([]);
  const { rows } = await sql<{ valid: number }>`SELECT count(*)::integer AS valid FROM usage_events WHERE code = 0`.execute(first.db);
  expect(rows[0]?.valid).toBe(observed.filter((one) => one.outcome === 'VALID').length);
});

it('the control: servers that believe what they know are found', async () => {
  const two = await openTwo();
  await alterAdmit(two.first.testDatabase, 'IF stale THEN', "stale := false; changed := '{}'; IF stale THEN");
  const { observed, changed } = await churn(two, 2000);
  expect(staleAnswers(observed, changed).length).toBeGreaterThan(0);
});
