import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { ADDRESS_BLOCKING } from '../../src/admission/admit-batch.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';

const MINUTE_MS = 60 * 1000;

describe('an address that tries secrets', () => {
  let first: TestLedger;
  let second: TestLedger;
  let clock: TestClock;
  let good: Awaited<ReturnType<TestLedger['newKey']>>;
  beforeAll(async () => {
    first = await openTestLedger();
    second = await openTestLedger({ on: first });
    clock = await installTestClock(first.testDatabase);
    good = await first.newKey();
  });
  afterAll(async () => {
    await clock.close();
    await second.close();
    await first.close();
  });

  let tried = 0;
  const bad = (): string => `sk_live_${String(++tried).padStart(65, '0')}`;
  const code = async (...args: Parameters<TestLedger['verify']>): Promise<string> => {
    const answer = await first.verify(...args);
    return answer.kind === 'answer' ? answer.code : answer.kind;
  };
  /** Distinct bad secrets from an address, half of them through either server. */
  const tryBad = (ip: string | null, count: number, organizationId = first.organization.id) =>
    Promise.all(Array.from({ length: count }, (_, index) => (index % 2 === 0 ? first : second).verify(bad(), { ip }, organizationId)));

  it('is blocked on every server after 20 of them, for good keys too, and for no other organization', async () => {
    const ip = '198.51.100.1';
    const answers = await tryBad(ip, ADDRESS_BLOCKING.failures - 1);
    expect(new Set(answers.map((answer) => (answer.kind === 'answer' ? answer.code : answer.kind)))).toEqual(new Set(['INVALID_KEY']));
    expect(await code(good.secret, { ip })).toBe('VALID');
    await tryBad(ip, 1);
    for (const server of [first, second]) {
      expect(await server.verify(good.secret, { ip })).toMatchObject({
        code: 'IP_BLOCKED',
        message: 'IP temporarily blocked',
        httpStatus: 403,
        key: null,
      });
      expect(await server.verify(bad(), { ip })).toMatchObject({ code: 'IP_BLOCKED', position: null });
      expect(await server.verify('nonsense', { ip })).toMatchObject({ code: 'IP_BLOCKED' });
    }
    expect(await code(good.secret, { ip: '198.51.100.2' })).toBe('VALID');
    expect(await code(good.secret)).toBe('VALID');

    const other = await first.newOrganization('Neighbour');
    const { secret } = await first.newKey({}, other.owner);
    expect(await code(secret, { ip }, other.id)).toBe('VALID');
  });

  it('is told nothing of a key whose secret it lacks, and leaves no trace in that key', async () => {
    const ip = '198.51.100.3';
    await tryBad(ip, ADDRESS_BLOCKING.failures);
    const other = await first.newOrganization('Victim');
    const foreign = await first.newKey({}, other.owner);
    const wrong = good.secret.slice(0, 24) + foreign.secret.slice(24);
    const recorded = async () => (await first.db.selectFrom('usage_events').select('position').where('ip', '=', ip).execute()).length;
    expect(await first.verify(foreign.secret, { ip })).toMatchObject({ code: 'IP_BLOCKED', keyId: null, position: null });
    expect(await first.verify(wrong, { ip })).toMatchObject({ code: 'IP_BLOCKED', keyId: null, position: null });
    expect(await recorded()).toBe(0);
    // Its own organization's key with the right secret is in the request log of the key.
    expect(await first.verify(good.secret, { ip })).toMatchObject({ code: 'IP_BLOCKED', keyId: good.keyId });
    expect(await recorded()).toBe(1);
  });

  it('passes again when its time is over, and is blocked anew by new ones only', async () => {
    const ip = '198.51.100.4';
    await tryBad(ip, ADDRESS_BLOCKING.failures);
    expect(await code(good.secret, { ip })).toBe('IP_BLOCKED');
    await clock.advance(14 * MINUTE_MS);
    expect(await code(good.secret, { ip })).toBe('IP_BLOCKED');
    await clock.advance(1.1 * MINUTE_MS);
    expect(await code(good.secret, { ip })).toBe('VALID');
    await tryBad(ip, ADDRESS_BLOCKING.failures - 1);
    expect(await code(good.secret, { ip })).toBe('VALID');
    await tryBad(ip, 1);
    expect(await code(good.secret, { ip })).toBe('IP_BLOCKED');
  });

  it('is not blocked by as many over a longer time', async () => {
    const ip = '198.51.100.5';
    await tryBad(ip, ADDRESS_BLOCKING.failures - 1);
    await clock.advance(11 * MINUTE_MS);
    await tryBad(ip, ADDRESS_BLOCKING.failures - 1);
    expect(await code(good.secret, { ip })).toBe('VALID');
  });

  it('is not blocked by one bad secret in a loop', async () => {
    const ip = '198.51.100.6';
    const secret = bad();
    for (let round = 0; round < 5; round++) await Promise.all(Array.from({ length: 20 }, () => first.verify(secret, { ip })));
    expect(await code(good.secret, { ip })).toBe('VALID');
  });

  it("is not blocked by its neighbours' expired, inactive, exhausted and forbidden keys", async () => {
    const ip = '198.51.100.7';
    const expiresAt = new Date((await clock.now()).getTime() + MINUTE_MS);
    const keys = await Promise.all(
      Array.from({ length: 24 }, (_, index) => first.newKey(index < 8 ? { expiresAt } : index < 16 ? { quotas: { total: 1 } } : {})),
    );
    for (const { keyId } of keys.slice(16)) done(await first.keys.deactivate(first.owner, { id: keyId }));
    await clock.advance(2 * MINUTE_MS);
    const codes = await Promise.all(keys.map(({ secret }) => code(secret, { ip, cost: 2 })));
    expect(
      Object.fromEntries(
        Map.groupBy(codes, (one) => one)
          .entries()
          .map(([one, all]) => [one, all.length]),
      ),
    ).toEqual({ EXPIRED: 8, QUOTA_EXCEEDED: 8, INACTIVE: 8 });
    expect(await Promise.all(Array.from({ length: 25 }, () => code(good.secret, { ip, permissions: ['no:such'] })))).toEqual(
      Array.from({ length: 25 }, () => 'PERMISSION_DENIED'),
    );
    expect(await code(good.secret, { ip })).toBe('VALID');
  });

  it('is its /64 for IPv6', async () => {
    await Promise.all(
      Array.from({ length: ADDRESS_BLOCKING.failures }, (_, index) => first.verify(bad(), { ip: `2001:db8:0:7:${index + 1}::1` })),
    );
    expect(await code(good.secret, { ip: '2001:db8:0:7:ffff::9' })).toBe('IP_BLOCKED');
    expect(await code(good.secret, { ip: '2001:db8:0:8::1' })).toBe('VALID');
  });

  it('can not be blocked where no address is given', async () => {
    await tryBad(null, 2 * ADDRESS_BLOCKING.failures);
    expect(await code(good.secret)).toBe('VALID');
  });

  it('is counted with all its secrets when they come in one batch', async () => {
    const ip = '198.51.100.8';
    await Promise.all(Array.from({ length: ADDRESS_BLOCKING.failures }, () => first.verify(bad(), { ip })));
    expect(await code(good.secret, { ip })).toBe('IP_BLOCKED');
  });
});
