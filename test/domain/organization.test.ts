import { describe, expect, it } from 'vitest';

import type { OrganizationEvent } from '../../src/domain/event.ts';
import { ABSENT_ORGANIZATION, decideOrganization, evolveOrganization, type OrganizationCommand } from '../../src/domain/organization.ts';

const OWNER = '01890000-0000-7000-8000-00000000000a';
const OTHER = '01890000-0000-7000-8000-00000000000b';
const create: OrganizationCommand = {
  kind: 'create',
  organizationId: '01890000-0000-7000-8000-000000000001',
  number: 1,
  name: 'Acme',
  plan: 'ENTERPRISE',
  ownerId: OWNER,
};
const fold = (events: readonly OrganizationEvent[]) => events.reduce(evolveOrganization, ABSENT_ORGANIZATION);
const given = (...commands: readonly OrganizationCommand[]) =>
  commands.reduce<readonly OrganizationEvent[]>((events, command) => {
    const decided = decideOrganization(fold(events), command);
    if (!Array.isArray(decided)) throw new Error(`given ${command.kind} was refused`);
    return [...events, ...(decided as readonly OrganizationEvent[])];
  }, []);

describe('an organization', () => {
  it('begins with its owner', () => {
    expect(given(create).map((event) => event.type)).toEqual(['OrganizationCreated', 'MemberAdded']);
    expect(fold(given(create))).toMatchObject({ name: 'Acme', members: new Map([[OWNER, 'OWNER']]) });
  });

  it('is renamed, once for one name', () => {
    expect(decideOrganization(fold(given(create)), { kind: 'rename', name: 'Acme' })).toEqual([]);
    expect(fold(given(create, { kind: 'rename', name: 'Apex' }))).toMatchObject({ name: 'Apex' });
  });

  it('adds a member once, changes their role and lets them go', () => {
    const joined = given(create, { kind: 'add-member', memberId: OTHER, role: 'MEMBER' });
    expect(decideOrganization(fold(joined), { kind: 'add-member', memberId: OTHER, role: 'ADMIN' })).toMatchObject({
      code: 'ALREADY_MEMBER',
    });
    const promoted = given(
      create,
      { kind: 'add-member', memberId: OTHER, role: 'MEMBER' },
      { kind: 'change-role', memberId: OTHER, role: 'ADMIN' },
    );
    expect(fold(promoted)).toMatchObject({
      members: new Map([
        [OWNER, 'OWNER'],
        [OTHER, 'ADMIN'],
      ]),
    });
    expect(decideOrganization(fold(promoted), { kind: 'remove-member', memberId: OTHER })).toEqual([
      { type: 'MemberRemoved', data: { memberId: OTHER } },
    ]);
  });

  it('keeps its last owner, by whatever way they would go', () => {
    const alone = fold(given(create));
    expect(decideOrganization(alone, { kind: 'remove-member', memberId: OWNER })).toMatchObject({ code: 'LAST_OWNER' });
    expect(decideOrganization(alone, { kind: 'change-role', memberId: OWNER, role: 'ADMIN' })).toMatchObject({ code: 'LAST_OWNER' });
    expect(decideOrganization(alone, { kind: 'change-role', memberId: OWNER, role: 'OWNER' })).toEqual([]);
    const two = fold(given(create, { kind: 'add-member', memberId: OTHER, role: 'OWNER' }));
    expect(decideOrganization(two, { kind: 'remove-member', memberId: OWNER })).toHaveLength(1);
  });

  it('knows only its own members', () => {
    expect(decideOrganization(fold(given(create)), { kind: 'remove-member', memberId: OTHER })).toMatchObject({ code: 'NOT_FOUND' });
    expect(decideOrganization(ABSENT_ORGANIZATION, { kind: 'rename', name: 'x' })).toMatchObject({ code: 'NOT_FOUND' });
  });
});
