import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { check } from '../../src/audit/check.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { staleAnswers, type Changed, type Observed } from './interval-checker.ts';

const CALLERS = 16;
const CACHED_MS = 50;

describe('profiles', () => {
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

  let made = 0;
  async function newProfile(settings: Readonly<Record<string, unknown>> = {}): Promise<string> {
    const { id: organizationId, owner } = first.organization;
    return done(await first.profiles.create(owner, { organizationId, name: `profile ${++made}`, settings })).result.profileId;
  }
  const profileOf = async (server: TestLedger, secret: string): Promise<unknown> => {
    const answer = await server.verify(secret);
    if (answer.kind !== 'answer' || answer.key === null) throw new Error('the key did not pass');
    return answer.key.profile;
  };

  it('1.6 a profile is handed over at verification, and a change of it or of the association is there at the next one, on every server', async () => {
    const { owner } = first;
    const profileId = await newProfile({ bias: { depth: 3 }, labels: ['a'] });
    const { keyId, secret } = await first.newKey();
    for (const server of [first, second]) expect(await profileOf(server, secret)).toBeNull();
    done(await first.keys.update(owner, { id: keyId, profileId }));
    for (const server of [first, second])
      expect(await profileOf(server, secret)).toEqual({ name: `profile ${made}`, settings: { bias: { depth: 3 }, labels: ['a'] } });
    done(await second.profiles.update(owner, { id: profileId, settings: { bias: null } }));
    for (const server of [first, second])
      expect(await profileOf(server, secret)).toEqual({ name: `profile ${made}`, settings: { bias: null } });
    done(await first.profiles.update(owner, { id: profileId, name: 'Renamed' }));
    for (const server of [first, second]) expect(await profileOf(server, secret)).toEqual({ name: 'Renamed', settings: { bias: null } });
    const another = await newProfile({ bias: 2 });
    done(await first.keys.update(owner, { id: keyId, profileId: another }));
    for (const server of [first, second]) expect(await profileOf(server, secret)).toMatchObject({ settings: { bias: 2 } });
    done(await second.keys.update(owner, { id: keyId, profileId: null }));
    for (const server of [first, second]) expect(await profileOf(server, secret)).toBeNull();
  });

  it('an answer that is repeated tells the profile that it told before', async () => {
    const profileId = await newProfile({ version: 1 });
    const { secret } = await first.newKey({ profileId });
    const before = await first.verify(secret, { requestId: 'with a profile' });
    done(await first.profiles.update(first.owner, { id: profileId, settings: { version: 2 } }));
    expect(await second.verify(secret, { requestId: 'with a profile' })).toEqual(before);
  });

  /** Changes a profile and an association on one server while both are asked without pause; keys share the profile. */
  async function changeUnderLoad(ask: (server: TestLedger, secret: string) => Promise<unknown>, rounds: number) {
    const profileId = await newProfile({ round: 0 });
    const others = [await newProfile({ other: 0 }), await newProfile({ other: 1 })];
    const shared = await Promise.all([1, 2, 3].map(() => first.newKey({ profileId })));
    const moving = await first.newKey({ profileId: others[0] });
    const observed: Observed[] = [];
    const changed: Changed[] = [];
    let going = true;
    const callers = Array.from({ length: CALLERS }, async (_, index) => {
      for (let turn = index; going; turn++) {
        const { secret } = shared[turn % 4] ?? moving;
        const startMs = performance.now();
        const outcome = JSON.stringify(await ask(turn % 2 === 0 ? first : second, secret));
        observed.push({ subject: turn % 4 === 3 ? 'moving' : 'shared', server: turn % 2, startMs, endMs: performance.now(), outcome });
      }
    });
    async function change(subject: string, outcome: object, work: () => Promise<unknown>): Promise<void> {
      const sentMs = performance.now();
      await work();
      changed.push({ subject, what: JSON.stringify(outcome), sentMs, acknowledgedMs: performance.now(), outcome: JSON.stringify(outcome) });
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    for (let round = 1; round <= rounds; round++) {
      await change('shared', { round }, async () => done(await first.profiles.update(first.owner, { id: profileId, settings: { round } })));
      await change('moving', { other: round % 2 }, async () =>
        done(await first.keys.update(first.owner, { id: moving.keyId, profileId: others[round % 2] })),
      );
    }
    going = false;
    await Promise.all(callers);
    return { observed, changed };
  }

  const settingsNow = async (server: TestLedger, secret: string): Promise<unknown> =>
    ((await profileOf(server, secret)) as { readonly settings: unknown }).settings;

  it('1.6 under load on two servers, no verification after an acknowledgement has the settings of before', async () => {
    const { observed, changed } = await changeUnderLoad(settingsNow, 40);
    expect(staleAnswers(observed, changed)).toEqual([]);
    expect(observed.length).toBeGreaterThan(1000);
    expect(new Set(observed.map(({ outcome }) => outcome)).size).toBeGreaterThan(30);
  });

  it('the control: settings that are kept for 50 ms are found', async () => {
    const kept = new Map<string, { readonly value: unknown; readonly untilMs: number }>();
    const { observed, changed } = await changeUnderLoad(async (server, secret) => {
      const name = `${server === first ? 1 : 2} ${secret}`;
      const known = kept.get(name);
      if (known !== undefined && known.untilMs > performance.now())
        return new Promise((resolve) => setImmediate(() => resolve(known.value)));
      const value = await settingsNow(server, secret);
      kept.set(name, { value, untilMs: performance.now() + CACHED_MS });
      return value;
    }, 6);
    expect(staleAnswers(observed, changed)).not.toEqual([]);
  });

  it('is deleted only while no key has it, however keys take it at the same moment, and the log agrees', async () => {
    const { owner } = first;
    let deleted = 0;
    for (let round = 0; round < 12; round++) {
      const profileId = await newProfile();
      const { keyId, secret } = await first.newKey();
      const [taken, gone] = await Promise.all([
        second.keys.update(owner, { id: keyId, profileId }),
        first.profiles.delete(owner, { id: profileId }),
      ]);
      // Exactly one of the two, and the loser is told why.
      expect([taken, gone].filter((outcome) => outcome.kind === 'done').length).toBe(1);
      if (gone.kind === 'done') {
        deleted++;
        expect(taken).toMatchObject({ code: 'NOT_FOUND', field: 'profileId' });
        expect(await profileOf(second, secret)).toBeNull();
      } else {
        expect(gone).toMatchObject({ code: 'PROFILE_IN_USE' });
        expect(await profileOf(first, secret)).toMatchObject({ settings: {} });
      }
    }
    const rows = await first.db.selectFrom('profiles').select('id').execute();
    const { rows: events } = await sql<{ type: string; count: number }>`
      SELECT type, count(*)::integer AS count FROM events WHERE type IN ('ProfileCreated', 'ProfileDeleted') GROUP BY type`.execute(
      first.db,
    );
    const count = Object.fromEntries(events.map((row) => [row.type, row.count]));
    expect(count['ProfileDeleted'] ?? 0).toBe(deleted);
    expect(rows.length).toBe((count['ProfileCreated'] ?? 0) - deleted);
  });

  it('frees its name with its deletion, and a deleted key holds no profile', async () => {
    const { owner } = first;
    const { id: organizationId } = first.organization;
    const create = (name: string) => first.profiles.create(owner, { organizationId, name, settings: {} });
    const { result } = done(await create('Once'));
    expect(await create('ONCE')).toMatchObject({ code: 'NAME_TAKEN', message: expect.stringContaining('profile') as string });
    const { keyId } = await first.newKey({ name: 'with once', profileId: result.profileId });
    expect(await first.profiles.delete(owner, { id: result.profileId })).toMatchObject({ code: 'PROFILE_IN_USE' });
    done(await first.keys.delete(owner, { id: keyId, confirmName: 'with once' }));
    done(await first.profiles.delete(owner, { id: result.profileId }));
    done(await create('Once'));
    const other = await first.newOrganization('Other');
    done(await first.profiles.create(other.owner, { organizationId: other.id, name: 'Once', settings: {} }));
  });

  it('of another organization is none', async () => {
    const other = await first.newOrganization('Foreign');
    const profileId = await newProfile();
    expect(await first.profiles.update(other.owner, { id: profileId, name: 'Mine' })).toMatchObject({ code: 'NOT_FOUND' });
    expect(await first.profiles.delete(other.owner, { id: profileId })).toMatchObject({ code: 'NOT_FOUND' });
    const input = { organizationId: other.id, type: 'SECRET', name: 'reaching', profileId };
    expect(await first.keys.create(other.owner, input)).toMatchObject({ code: 'NOT_FOUND', field: 'profileId' });
  });

  it('are, row by row, what the log says; and the control: a row that was changed is found', async () => {
    const findings = async () => {
      const found: string[] = [];
      await check(first.database, { onFinding: ({ kind, subject }) => found.push(`${kind} ${subject}`), onProgress: () => undefined });
      return found;
    };
    expect(await findings()).toEqual([]);
    const profileId = await newProfile({ depth: 1 });
    await first.db.updateTable('profiles').set({ settings: '{"depth":2}' }).where('id', '=', profileId).execute();
    expect(await findings()).toEqual([`row-differs profiles ${profileId} settings`]);
    await first.db.deleteFrom('profiles').where('id', '=', profileId).execute();
    expect(await findings()).toEqual([`row-missing profiles ${profileId}`]);
  });
});
