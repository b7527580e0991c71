import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { check } from '../../src/audit/check.ts';
import type { Actor } from '../../src/domain/actor.ts';
import { done, member, openTestLedger, type TestLedger } from '../support/ledger.ts';

type Member = Actor & { readonly kind: 'member' };

describe('an organization that becomes a team, and ceases to be one', () => {
  let ledger: TestLedger;
  let owner: Member;
  beforeEach(async () => {
    ledger = await openTestLedger();
    owner = await found(false);
  });
  afterEach(() => ledger.close());

  async function found(team: boolean): Promise<Member> {
    const { result } = done(await ledger.organizations.create(null, { name: 'Founded', team }));
    return member(result.organizationId, result.memberId ?? '', 'OWNER');
  }

  async function newMember(): Promise<Member> {
    const { organizationId } = ledger.owner;
    const { result } = done(await ledger.organizations.addMember(ledger.owner, { organizationId, role: 'MEMBER' }));
    return member(organizationId, result.memberId ?? '', 'MEMBER');
  }

  async function join(person: Member, to: Member): Promise<Member> {
    const { organizationId } = to;
    const joinCode = done(await ledger.organizations.createJoinCode(person, { organizationId })).secret?.reveal();
    const { result } = done(await ledger.organizations.addMember(to, { organizationId, role: 'MEMBER', joinCode }));
    return member(organizationId, result.memberId ?? '', 'MEMBER');
  }

  const change = (team: boolean, of = owner) => ledger.organizations.changeTeam(of, { organizationId: of.organizationId, team });
  const codes = (keys: readonly { readonly secret: string }[], organizationId = ledger.organization.id) =>
    Promise.all(
      keys.map(async ({ secret }) => {
        const answer = await ledger.verify(secret, {}, organizationId);
        return answer.kind === 'answer' ? answer.code : answer.kind;
      }),
    );
  const typesOf = async (stream: string) =>
    (await ledger.db.selectFrom('events').select('type').where('stream', '=', stream).orderBy('version').execute()).map(({ type }) => type);
  const findings = async () => {
    const found: unknown[] = [];
    await check(ledger.database, { onFinding: (finding) => void found.push(finding), onProgress: () => undefined });
    return found;
  };

  it('3.2 archives the personal keys of its members there and then, wherever they are, and restores them as they were', async () => {
    const [alice, bob, stranger] = [await newMember(), await newMember(), await newMember()];
    const inside = await join(alice, owner);
    await join(bob, owner);
    const theirs = [
      await ledger.newKey({ personal: true }, alice),
      await ledger.newKey({ personal: true }, alice),
      await ledger.newKey({ personal: true }, bob),
      await ledger.newKey({ personal: true }, stranger),
    ];
    const [, second] = theirs;
    done(await ledger.keys.deactivate(alice, { id: second?.keyId }));
    const here = [
      await ledger.newKey({ personal: true }, inside),
      await ledger.newKey({ personal: true }, owner),
      await ledger.newKey({}, owner),
    ];
    const { position } = done(await change(true));
    expect(await codes(theirs)).toEqual(['INACTIVE', 'INACTIVE', 'INACTIVE', 'VALID']);
    expect(await codes(here, owner.organizationId)).toEqual(['INACTIVE', 'INACTIVE', 'VALID']);
    expect(await ledger.newKey({}, owner)).toMatchObject({});
    for (const who of [alice, inside, owner])
      expect(
        await ledger.keys.create(who, { organizationId: who.organizationId, name: 'mine alone', type: 'SECRET', personal: true }),
      ).toMatchObject({
        code: 'KEY_ARCHIVED',
      });
    // Asked for once more, nothing happens.
    expect(done(await change(true)).position).toBeGreaterThan(position);
    expect(await typesOf(`person:${alice.memberId}`)).toEqual(['PersonalKeyAdded', 'PersonalKeyAdded', 'PersonalKeyAdded', 'TeamJoined']);
    expect(await findings()).toEqual([]);
    done(await change(false));
    expect(await codes(theirs)).toEqual(['VALID', 'INACTIVE', 'VALID', 'VALID']);
    expect(await codes(here, owner.organizationId)).toEqual(['VALID', 'VALID', 'VALID']);
    await ledger.newKey({ personal: true }, inside);
    expect(await typesOf(`key:${theirs[0]?.keyId}`)).toEqual(['KeyCreated', 'Archived', 'Restored']);
    expect(await typesOf(`organization:${owner.organizationId}`)).toEqual([
      'OrganizationCreated',
      'MemberAdded',
      'MemberAdded',
      'MemberAdded',
      'OrganizationTeamChanged',
      'OrganizationTeamChanged',
    ]);
    expect(await findings()).toEqual([]);
  });

  it('3.2 leaves archived what another team, or having left, keeps so; who leaves it meanwhile gets theirs back', async () => {
    const [alice, bob, carol] = [await newMember(), await newMember(), await newMember()];
    const keys = [
      await ledger.newKey({ personal: true }, alice),
      await ledger.newKey({ personal: true }, bob),
      await ledger.newKey({ personal: true }, carol),
    ];
    const another = await found(true);
    await join(alice, another);
    await join(alice, owner);
    const bobInside = await join(bob, owner);
    await join(carol, owner);
    done(await change(true));
    expect(await codes(keys)).toEqual(['INACTIVE', 'INACTIVE', 'INACTIVE']);
    done(await ledger.organizations.leave(bobInside, {}));
    done(await ledger.organizations.removeMember(ledger.owner, { id: carol.memberId }));
    expect(await codes(keys)).toEqual(['INACTIVE', 'VALID', 'INACTIVE']);
    done(await change(false));
    expect(await codes(keys)).toEqual(['INACTIVE', 'VALID', 'INACTIVE']);
    done(await change(false, another));
    expect(await codes(keys)).toEqual(['VALID', 'VALID', 'INACTIVE']);
    // Whoever joins it now joins an organization like any other, and whoever joins a team that was made one, a team.
    const dora = await newMember();
    const hers = await ledger.newKey({ personal: true }, dora);
    await join(dora, owner);
    expect(await codes([hers])).toEqual(['VALID']);
    const [eve, made] = [await newMember(), await found(false)];
    const eves = await ledger.newKey({ personal: true }, eve);
    done(await change(true, made));
    await join(eve, made);
    expect(await codes([eves])).toEqual(['INACTIVE']);
    expect(await findings()).toEqual([]);
  });

  it("is an owner's to decide, for their own organization, once an idempotency key", async () => {
    const { organizationId } = owner;
    const admin = member(organizationId, owner.memberId, 'ADMIN');
    await expect(ledger.organizations.changeTeam(admin, { organizationId, team: true })).rejects.toThrow("'organization:write'");
    expect(await ledger.organizations.changeTeam(ledger.owner, { organizationId, team: true })).toMatchObject({ code: 'NOT_FOUND' });
    for (const team of [undefined, null, 'yes'])
      expect(await ledger.organizations.changeTeam(owner, { organizationId, team })).toMatchObject({
        code: 'INVALID_INPUT',
        field: 'team',
      });
    const once = { organizationId, team: true, idempotencyKey: 'once' };
    const first = done(await ledger.organizations.changeTeam(owner, once));
    done(await change(false));
    expect(done(await ledger.organizations.changeTeam(owner, once))).toMatchObject({ position: first.position, replayed: true });
    expect(await ledger.organizations.changeTeam(owner, { ...once, team: false })).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
  });

  it('of sixty members is one append: each moves with it', async () => {
    const people: Member[] = [];
    for (let number = 0; number < 60; number++) people.push(await newMember());
    const keys = await Promise.all(people.map((person) => ledger.newKey({ personal: true }, person)));
    for (const person of people) await join(person, owner);
    const { position } = done(await change(true));
    const { rows } = await ledger.database.pool.query<{ n: number }>(
      'SELECT count(DISTINCT recorded_at)::integer AS n FROM events WHERE position > $1',
      [position - 121n],
    );
    expect(rows[0]?.n).toBe(1);
    expect(new Set(await codes(keys))).toEqual(new Set(['INACTIVE']));
  });
});
