import { afterEach, describe, expect, it } from 'vitest';

import { accessTokenHash } from '../../src/identity/access-token.ts';
import type { VerifyCaller } from '../../src/admission/admission.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { staleAnswers, type Changed, type Observed } from './interval-checker.ts';

const CALLERS = 32;
const ROUNDS = 12;
const FEWER_ROUNDS = 4;
const CACHED_MS = 50;

type Question = {
  readonly subject: string;
  readonly secret: string;
  readonly caller: VerifyCaller;
  readonly permissions: readonly string[];
};
type Ask = (server: TestLedger, question: Question) => Promise<string>;

const askServer: Ask = async (server, { secret, caller, permissions }) => {
  const answer = await server.admission.verify(caller, {
    key: secret,
    permissions,
    cost: 1,
    endpoint: null,
    ip: null,
    origin: null,
    environment: null,
    requestId: null,
  });
  return answer.kind === 'answer' ? answer.code : answer.kind;
};

describe('what is revoked on one of two servers under load', () => {
  const open: TestLedger[] = [];
  afterEach(async () => {
    for (const ledger of open.splice(0).reverse()) await ledger.close();
  });

  /** Changes keys and callers on the first server, one after the other, while both are asked about them without pause. */
  async function revokeUnderLoad(ask: Ask, rounds: number) {
    const first = await openTestLedger();
    open.push(first);
    const second = await openTestLedger({ on: first });
    open.push(second);
    const { owner } = first;
    const organization: VerifyCaller = { kind: 'organization', organizationId: first.organization.id };
    const observed: Observed[] = [];
    const changed: Changed[] = [];
    const questions: Question[] = [];
    const about = (subject: string, secret: string, more: Partial<Question> = {}): number =>
      questions.push({ subject, secret, caller: organization, permissions: [], ...more });

    /** Makes a change and notes when it was acknowledged, and what is to be answered from then on about which subjects. */
    async function change<Result>(what: string, work: () => Promise<Result>, outcomes: Readonly<Record<string, string>>): Promise<Result> {
      const sentMs = performance.now();
      const result = await work();
      const acknowledgedMs = performance.now();
      for (const [subject, outcome] of Object.entries(outcomes)) changed.push({ subject, what, sentMs, acknowledgedMs, outcome });
      await until(() =>
        Object.keys(outcomes).every(
          (subject) => !questions.some((question) => question.subject === subject) || answeredSince(subject, acknowledgedMs) >= 10,
        ),
      );
      return result;
    }
    const answeredSince = (subject: string, ms: number): number =>
      observed.filter((answer) => answer.subject === subject && answer.startMs > ms).length;

    const [switched, renewed, narrowed, capped, deleted, plain] = await Promise.all(
      [{}, {}, { permissions: ['read'] }, {}, {}, {}].map((settings) => first.newKey(settings)),
    );
    if (
      switched === undefined ||
      renewed === undefined ||
      narrowed === undefined ||
      capped === undefined ||
      deleted === undefined ||
      plain === undefined
    )
      throw new Error('there are no keys');
    const service = done(
      await first.tokens.create(owner, { organizationId: owner.organizationId, name: 'gateway', permissions: ['keys:verify'] }),
    );
    const { memberId } = done(await first.organizations.addMember(owner, { organizationId: owner.organizationId, role: 'ADMIN' })).result;
    const personal = done(await first.tokens.create(owner, { organizationId: owner.organizationId, name: 'of a member', memberId }));
    const callerOf = (token: typeof service): VerifyCaller => ({ kind: 'token', tokenHash: accessTokenHash(token.secret?.reveal() ?? '') });
    about('switched key', switched.secret);
    about('renewed key 0', renewed.secret);
    about('narrowed key', narrowed.secret, { permissions: ['read'] });
    about('capped key', capped.secret);
    about('deleted key', deleted.secret);
    about('service token', plain.secret, { caller: callerOf(service) });
    about("member's token", plain.secret, { caller: callerOf(personal) });
    const valid = Object.fromEntries(questions.map(({ subject }) => [subject, 'VALID']));

    let going = true;
    let failed: unknown;
    const callers = Array.from({ length: CALLERS }, async (_, index) => {
      const server = index % 2;
      for (let turn = index; going; turn++) {
        const question = questions[turn % questions.length];
        if (question === undefined) return;
        const startMs = performance.now();
        try {
          const outcome = await ask(server === 0 ? first : second, question);
          observed.push({ subject: question.subject, server, startMs, endMs: performance.now(), outcome });
        } catch (error) {
          failed ??= error;
          return;
        }
      }
    });
    try {
      await change('nothing', () => Promise.resolve(), valid);
      for (let round = 1; round <= rounds; round++) {
        await change('deactivate', async () => done(await first.keys.deactivate(owner, { id: switched.keyId })), {
          'switched key': 'INACTIVE',
        });
        await change('permissions taken', async () => done(await first.keys.update(owner, { id: narrowed.keyId, permissions: [] })), {
          'narrowed key': 'PERMISSION_DENIED',
        });
        await change(
          'quota lowered',
          async () =>
            done(await first.keys.update(owner, { id: capped.keyId, quotas: { total: 1, daily: null, weekly: null, monthly: null } })),
          {
            'capped key': 'QUOTA_EXCEEDED',
          },
        );
        await change('activate', async () => done(await first.keys.activate(owner, { id: switched.keyId })), { 'switched key': 'VALID' });
        await change('permissions given', async () => done(await first.keys.update(owner, { id: narrowed.keyId, permissions: ['read'] })), {
          'narrowed key': 'VALID',
        });
        await change(
          'quota lifted',
          async () =>
            done(await first.keys.update(owner, { id: capped.keyId, quotas: { total: null, daily: null, weekly: null, monthly: null } })),
          {
            'capped key': 'VALID',
          },
        );
        if (round % 4 === 0) {
          const secret = await change('regenerate', async () => done(await first.keys.regenerate(owner, { id: renewed.keyId })).secret, {
            [`renewed key ${round - 4}`]: 'INVALID_KEY',
            [`renewed key ${round}`]: 'VALID',
          });
          about(`renewed key ${round}`, secret?.reveal() ?? '');
        }
      }
      const { name } = await first.db.selectFrom('api_keys').select('name').where('id', '=', deleted.keyId).executeTakeFirstOrThrow();
      await change('delete', async () => done(await first.keys.delete(owner, { id: deleted.keyId, confirmName: name })), {
        'deleted key': 'INVALID_KEY',
      });
      await change('token revoked', async () => done(await first.tokens.revoke(owner, { id: service.result.tokenId })), {
        'service token': 'unauthenticated',
      });
      await change('member removed', async () => done(await first.organizations.removeMember(owner, { id: memberId })), {
        "member's token": 'unauthenticated',
      });
    } finally {
      going = false;
      await Promise.all(callers);
    }
    if (failed !== undefined) throw new Error('a verification failed', { cause: failed });
    return { observed, changed };

    async function until(condition: () => boolean): Promise<void> {
      const deadline = performance.now() + 10_000;
      while (!condition()) {
        if (failed !== undefined || performance.now() > deadline) throw new Error('the load stands still', { cause: failed });
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }
  }

  it('2.1 is refused by both from the moment of the acknowledgement on, and what is given again passes', async () => {
    const { observed, changed } = await revokeUnderLoad(askServer, ROUNDS);
    expect(staleAnswers(observed, changed)).toEqual([]);
    expect(new Set(observed.map((answer) => answer.outcome))).toEqual(
      new Set(['VALID', 'INACTIVE', 'PERMISSION_DENIED', 'QUOTA_EXCEEDED', 'INVALID_KEY', 'unauthenticated']),
    );
    expect(new Set(observed.map((answer) => answer.server))).toEqual(new Set([0, 1]));
    expect(observed.length).toBeGreaterThan(2000);
  });

  it('is found to pass where answers are kept for 50 ms', async () => {
    const kept = new Map<string, { readonly outcome: string; readonly untilMs: number }>();
    const { observed, changed } = await revokeUnderLoad(async (server, question) => {
      const name = `${server === open[0] ? 0 : 1} ${question.subject}`;
      const known = kept.get(name);
      if (known !== undefined && known.untilMs > performance.now())
        return new Promise((resolve) => setImmediate(() => resolve(known.outcome)));
      const outcome = await askServer(server, question);
      kept.set(name, { outcome, untilMs: performance.now() + CACHED_MS });
      return outcome;
    }, FEWER_ROUNDS);
    expect(staleAnswers(observed, changed)).not.toEqual([]);
  });
});
