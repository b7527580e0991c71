import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { Actor } from '../../src/domain/actor.ts';
import { check } from '../../src/audit/check.ts';
import { done, member, openTestLedger, type TestLedger } from '../support/ledger.ts';

type Member = Actor & { readonly kind: 'member' };

describe('personal keys', () => {
  let ledger: TestLedger;
  let alice: Member;
  let team: Member;
  beforeEach(async () => {
    ledger = await openTestLedger();
    alice = await newMember(ledger.owner);
    team = await newTeam('The team');
  });
  afterEach(() => ledger.close());

  async function newMember(owner: Member): Promise<Member> {
    const { result } = done(await ledger.organizations.addMember(owner, { organizationId: owner.organizationId, role: 'MEMBER' }));
    return member(owner.organizationId, result.memberId ?? '', 'MEMBER');
  }

  async function newTeam(name: string): Promise<Member> {
    const { result } = done(await ledger.organizations.create(null, { name, team: true }));
    return member(result.organizationId, result.memberId ?? '', 'OWNER');
  }

  async function codeOf(person: Member, organizationId: string): Promise<string> {
    return done(await ledger.organizations.createJoinCode(person, { organizationId })).secret?.reveal() ?? '';
  }

  /** Adds a person to an organization with their consent; answers the member that they are there. */
  async function join(person: Member, owner: Member, on = ledger): Promise<Member> {
    const { organizationId } = owner;
    const joinCode = await codeOf(person, organizationId);
    const { result } = done(await on.organizations.addMember(owner, { organizationId, role: 'MEMBER', joinCode }));
    return member(organizationId, result.memberId ?? '', 'MEMBER');
  }

  const status = async (secret: string) => {
    const answer = await ledger.verify(secret);
    return answer.kind === 'answer' ? answer.code : answer.kind;
  };
  const archived = async (keyId: string) =>
    (await ledger.db.selectFrom('api_keys').select('archived').where('id', '=', keyId).executeTakeFirstOrThrow()).archived;
  const eventsOf = async (keyId: string) =>
    ledger.db
      .selectFrom('events')
      .select(['type', 'actor', 'organization_id', 'data'])
      .where('stream', '=', `key:${keyId}`)
      .orderBy('version')
      .execute();
  const findings = async () => {
    const found: unknown[] = [];
    await check(ledger.database, { onFinding: (finding) => void found.push(finding), onProgress: () => undefined });
    return found;
  };

  it('3.2 are archived when their owner joins a team, refused as inactive, and restored when the owner leaves it', async () => {
    const mine = await ledger.newKey({ personal: true }, alice);
    const other = await ledger.newKey({ personal: true }, await newMember(ledger.owner));
    const shared = await ledger.newKey();
    const inTeam = await join(alice, team);
    expect(await Promise.all([mine, other, shared].map(({ secret }) => status(secret)))).toEqual(['INACTIVE', 'VALID', 'VALID']);
    expect(await archived(mine.keyId)).toBe(true);
    done(await ledger.organizations.removeMember(team, { id: inTeam.memberId }));
    expect(await status(mine.secret)).toBe('VALID');
    expect(
      (await eventsOf(mine.keyId)).map(({ type, actor, data }) => [type, actor, data].slice(0, type === 'KeyCreated' ? 2 : 3)),
    ).toEqual([
      ['KeyCreated', alice.id],
      ['Archived', 'system', { reason: 'TEAM_JOINED' }],
      ['Restored', 'system', {}],
    ]);
  });

  it('3.2 stay archived until the owner has left every team, and what was inactive before is so after', async () => {
    const active = await ledger.newKey({ personal: true }, alice);
    const inactive = await ledger.newKey({ personal: true }, alice);
    const deleted = await ledger.newKey({ personal: true, name: 'deleted' }, alice);
    done(await ledger.keys.deactivate(alice, { id: inactive.keyId }));
    done(await ledger.keys.delete(alice, { id: deleted.keyId, confirmName: 'deleted' }));
    const first = await join(alice, team);
    const another = await newTeam('Another team');
    const second = await join(alice, another);
    done(await ledger.organizations.leave(first, {}));
    expect(await Promise.all([active, inactive, deleted].map(({ secret }) => status(secret)))).toEqual([
      'INACTIVE',
      'INACTIVE',
      'INVALID_KEY',
    ]);
    expect(await ledger.keys.activate(alice, { id: inactive.keyId })).toMatchObject({ code: 'KEY_ARCHIVED' });
    done(await ledger.organizations.leave(second, {}));
    expect(await Promise.all([active, inactive, deleted].map(({ secret }) => status(secret)))).toEqual([
      'VALID',
      'INACTIVE',
      'INVALID_KEY',
    ]);
    done(await ledger.keys.activate(alice, { id: inactive.keyId }));
    expect(await status(inactive.secret)).toBe('VALID');
    expect(await findings()).toEqual([]);
  });

  it('3.2 are not created while their owner belongs to a team, be it there or elsewhere', async () => {
    const inTeam = await join(alice, team);
    for (const who of [alice, inTeam, team])
      expect(
        await ledger.keys.create(who, { organizationId: who.organizationId, name: 'mine alone', type: 'SECRET', personal: true }),
      ).toMatchObject({
        code: 'KEY_ARCHIVED',
        field: 'personal',
      });
    done(await ledger.organizations.leave(inTeam, {}));
    await ledger.newKey({ personal: true }, alice);
  });

  it('3.2 are archived for good when their owner leaves the organization that they belong to', async () => {
    const mine = await ledger.newKey({ personal: true }, alice);
    const inTeam = await join(alice, team);
    done(await ledger.organizations.removeMember(ledger.owner, { id: alice.memberId }));
    done(await ledger.organizations.leave(inTeam, {}));
    expect(await status(mine.secret)).toBe('INACTIVE');
    const free = await newMember(ledger.owner);
    const theirs = await ledger.newKey({ personal: true }, free);
    done(await ledger.organizations.removeMember(ledger.owner, { id: free.memberId }));
    expect(await status(theirs.secret)).toBe('INACTIVE');
    expect((await eventsOf(theirs.keyId)).at(-1)).toMatchObject({
      type: 'Archived',
      actor: ledger.owner.id,
      data: { reason: 'OWNER_LEFT' },
    });
    expect(
      await ledger.keys.create(free, { organizationId: free.organizationId, name: 'too late', type: 'SECRET', personal: true }),
    ).toMatchObject({
      code: 'INVALID_INPUT',
      field: 'personal',
    });
    done(
      await ledger.keys.delete(ledger.owner, {
        id: theirs.keyId,
        confirmName: (await ledger.db.selectFrom('api_keys').select('name').where('id', '=', theirs.keyId).executeTakeFirstOrThrow()).name,
      }),
    );
  });

  it('nobody is made the same person without their own word, which holds for one organization, once, and for an hour', async () => {
    const mine = await ledger.newKey({ personal: true }, alice);
    const { organizationId } = team;
    const joinCode = await codeOf(alice, organizationId);
    const add = (owner: Member, code: string) =>
      ledger.organizations.addMember(owner, { organizationId: owner.organizationId, role: 'MEMBER', joinCode: code });
    const refused = { code: 'INVALID_INPUT', field: 'joinCode' };
    expect(await add(await newTeam('Another team'), joinCode)).toMatchObject(refused);
    for (const forged of ['', 'join_', 'join_AAAA', `${joinCode.slice(0, -4)}AAAA`, `${joinCode.slice(0, 30)}B${joinCode.slice(31)}`])
      expect(await add(team, forged)).toMatchObject(refused);
    expect(await status(mine.secret)).toBe('VALID');
    const { result } = done(await add(team, joinCode));
    expect(await add(team, joinCode)).toMatchObject(refused);
    expect(await add(team, await codeOf(alice, organizationId))).toMatchObject({ code: 'ALREADY_MEMBER' });
    done(await ledger.organizations.removeMember(team, { id: result.memberId }));
    expect(await add(team, joinCode)).toMatchObject(refused);
    // The same subject of the OIDC provider in two organizations is no consent either.
    const subject = { role: 'MEMBER', oidcSubject: 'bob' };
    const { memberId } = done(
      await ledger.organizations.addMember(ledger.owner, { organizationId: ledger.organization.id, ...subject }),
    ).result;
    const bobs = await ledger.newKey({ personal: true }, member(ledger.organization.id, memberId ?? '', 'MEMBER'));
    done(await ledger.organizations.addMember(team, { organizationId, ...subject }));
    expect(await status(bobs.secret)).toBe('VALID');
  });

  it('one organization learns nothing of another: its log has its own events and ids, and the system for what others did', async () => {
    const mine = await ledger.newKey({ personal: true }, alice);
    const inTeam = await join(alice, team);
    const of = async (organizationId: string) =>
      JSON.stringify(
        await ledger.db.selectFrom('events').selectAll().where('organization_id', '=', organizationId).execute(),
        (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value),
      );
    const [home, away] = [await of(ledger.organization.id), await of(team.organizationId)];
    for (const stranger of [team.organizationId, team.memberId, inTeam.memberId]) expect(home).not.toContain(stranger);
    for (const stranger of [ledger.organization.id, mine.keyId, ledger.owner.memberId]) expect(away).not.toContain(stranger);
    expect(await findings()).toEqual([]);
  });
});

const ROUNDS = 8;
const CREATORS = 6;

describe('creating a personal key at the moment of joining a team', () => {
  type Join = (on: TestLedger, alice: Member, team: Member) => Promise<void>;

  const properly: Join = async (on, alice, team) => {
    const joinCode = done(await on.organizations.createJoinCode(alice, { organizationId: team.organizationId })).secret?.reveal();
    done(await on.organizations.addMember(team, { organizationId: team.organizationId, role: 'MEMBER', joinCode }));
  };
  /** Joins an organization like any other, which then becomes a team. */
  const byTurning: Join = async (on, alice) => {
    const founded = done(await on.organizations.create(null, { name: 'Not yet a team' })).result;
    const owner = member(founded.organizationId, founded.memberId ?? '', 'OWNER');
    await properly(on, alice, owner);
    done(await on.organizations.changeTeam(owner, { organizationId: owner.organizationId, team: true }));
  };
  /** Breaks the rule: archives the keys that it has listed, and doesn't see those that come meanwhile. */
  const byList: Join = async (on, alice, team) => {
    const listed = await on.db.selectFrom('api_keys').select('id').where('owner_id', '=', alice.memberId).execute();
    done(await on.organizations.addMember(team, { organizationId: team.organizationId, role: 'MEMBER' }));
    for (const { id } of listed) await on.db.updateTable('api_keys').set({ archived: true }).where('id', '=', id).execute();
  };

  /** Keys that pass though their owner belongs to a team, over many rounds on two servers. */
  async function leftAlive(
    join: Join,
    rounds: number,
  ): Promise<{ readonly alive: number; readonly made: number; readonly refused: number }> {
    const first = await openTestLedger();
    const second = await openTestLedger({ on: first });
    const count = { alive: 0, made: 0, refused: 0 };
    try {
      for (let round = 0; round < rounds; round++) {
        const { organizationId } = first.owner;
        const added = done(await first.organizations.addMember(first.owner, { organizationId, role: 'MEMBER' })).result;
        const alice = member(organizationId, added.memberId ?? '', 'MEMBER');
        const founded = done(await first.organizations.create(null, { name: 'Team', team: true })).result;
        const team = member(founded.organizationId, founded.memberId ?? '', 'OWNER');
        const secrets: string[] = [];
        let joined = false;
        const create = async (server: TestLedger, name: string): Promise<void> => {
          for (let turn = 0; turn < 3 && !joined; turn++) {
            const outcome = await server.keys.create(alice, {
              organizationId,
              name: `${name} ${round} ${turn}`,
              type: 'SECRET',
              personal: true,
            });
            if (outcome.kind === 'done') secrets.push(outcome.secret?.reveal() ?? '');
            else if (outcome.code === 'KEY_ARCHIVED') count.refused++;
            else throw new Error(outcome.message);
          }
        };
        const creating = Array.from({ length: CREATORS }, (_, index) => create(index % 2 === 0 ? first : second, `key ${index}`));
        // In the midst of it: some are made, others are on their way.
        while (secrets.length <= round % CREATORS) await new Promise((resolve) => setTimeout(resolve, 5));
        await join(round % 2 === 0 ? second : first, alice, team);
        joined = true;
        await Promise.all(creating);
        count.made += secrets.length;
        for (const [index, secret] of secrets.entries()) {
          const answer = await (index % 2 === 0 ? first : second).verify(secret);
          if (answer.kind === 'answer' && answer.code === 'VALID') count.alive++;
        }
      }
    } finally {
      await second.close();
      await first.close();
    }
    return count;
  }

  it('3.2 leaves no live personal key, on whatever server', async () => {
    const { alive, made } = await leftAlive(properly, ROUNDS);
    expect(alive).toBe(0);
    expect(made).toBeGreaterThan(ROUNDS);
  }, 60_000);

  it('3.2 leaves none either where the organization becomes a team at that moment', async () => {
    const { alive, made } = await leftAlive(byTurning, ROUNDS);
    expect(alive).toBe(0);
    expect(made).toBeGreaterThan(ROUNDS);
  }, 60_000);

  it('is caught where joining archives what it has listed before', async () => {
    expect((await leftAlive(byList, 3)).alive).toBeGreaterThan(0);
  }, 60_000);
});
