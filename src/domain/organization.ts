import type { OrganizationEvent } from './event.ts';
import type { Role } from './permissions.ts';
import { PLANS, type PlanCaps, type PlanName } from './plan.ts';
import { refusal, type Refusal } from './refusals.ts';

/** An organization with its members; both are one aggregate, so that "at least one owner" is decided on one history. */
export type OrganizationState =
  | { readonly kind: 'absent' }
  | {
      readonly kind: 'organization';
      readonly organizationId: string;
      readonly number: number;
      readonly name: string;
      readonly plan: string;
      readonly caps: PlanCaps;
      /** Role by member id; removed members are not in it. */
      readonly members: ReadonlyMap<string, Role>;
    };

export type OrganizationCommand =
  | {
      readonly kind: 'create';
      readonly organizationId: string;
      readonly number: number;
      readonly name: string;
      readonly plan: string;
      readonly ownerId: string;
    }
  | { readonly kind: 'rename'; readonly name: string }
  /** `caps` only with ENTERPRISE: the other plans have their own. */
  | { readonly kind: 'change-plan'; readonly plan: PlanName; readonly caps: PlanCaps | null }
  | { readonly kind: 'add-member'; readonly memberId: string; readonly role: Role }
  | { readonly kind: 'change-role'; readonly memberId: string; readonly role: Role }
  | { readonly kind: 'remove-member'; readonly memberId: string };

export const ABSENT_ORGANIZATION: OrganizationState = { kind: 'absent' };

/** Decides a command: the events that follow, none where it already is as asked, or a refusal. */
export function decideOrganization(state: OrganizationState, command: OrganizationCommand): readonly OrganizationEvent[] | Refusal {
  if (command.kind === 'create') {
    if (state.kind !== 'absent')
      throw new Error(`Organization ${command.organizationId} exists already: ids of new organizations must be new.`);
    const { kind: _, ownerId, ...facts } = command;
    return [
      { type: 'OrganizationCreated', data: facts },
      { type: 'MemberAdded', data: { memberId: ownerId, role: 'OWNER' } },
    ];
  }
  if (state.kind === 'absent') return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
  switch (command.kind) {
    case 'rename':
      return state.name === command.name ? [] : [{ type: 'OrganizationRenamed', data: { name: command.name } }];
    case 'change-plan':
      return decidePlan(state, command.plan, command.caps);
    case 'add-member':
      if (state.members.has(command.memberId)) return refusal('ALREADY_MEMBER', undefined, 'memberId');
      return [{ type: 'MemberAdded', data: { memberId: command.memberId, role: command.role } }];
    case 'change-role': {
      const role = state.members.get(command.memberId);
      if (role === undefined) return memberNotFound();
      if (role === command.role) return [];
      if (isLastOwner(state.members, command.memberId)) return refusal('LAST_OWNER', undefined, 'role');
      return [{ type: 'MemberRoleChanged', data: { memberId: command.memberId, role: command.role } }];
    }
    case 'remove-member':
      if (!state.members.has(command.memberId)) return memberNotFound();
      if (isLastOwner(state.members, command.memberId)) return refusal('LAST_OWNER', undefined, 'id');
      return [{ type: 'MemberRemoved', data: { memberId: command.memberId } }];
  }
  return command satisfies never;
}

function decidePlan(
  state: { readonly plan: string; readonly caps: PlanCaps },
  plan: PlanName,
  agreed: PlanCaps | null,
): readonly OrganizationEvent[] | Refusal {
  if (agreed !== null && plan !== 'ENTERPRISE')
    return refusal('INVALID_INPUT', `Plan ${plan} has caps of its own; leave 'caps' out, or choose ENTERPRISE`, 'caps');
  const caps = agreed ?? PLANS[plan];
  const same =
    state.plan === plan &&
    state.caps.requestsPerSecond === caps.requestsPerSecond &&
    state.caps.requestsPerMinute === caps.requestsPerMinute;
  return same ? [] : [{ type: 'PlanChanged', data: { plan, ...caps } }];
}

function memberNotFound(): Refusal {
  return refusal('NOT_FOUND', 'There is no such member in your organization', 'id');
}

function isLastOwner(members: ReadonlyMap<string, Role>, memberId: string): boolean {
  return members.get(memberId) === 'OWNER' && [...members.values()].filter((role) => role === 'OWNER').length === 1;
}

/** Applies one event. */
export function evolveOrganization(state: OrganizationState, event: OrganizationEvent): OrganizationState {
  if (event.type === 'OrganizationCreated') {
    return { kind: 'organization', ...event.data, caps: { requestsPerSecond: null, requestsPerMinute: null }, members: new Map() };
  }
  if (state.kind === 'absent') throw new Error(`The log is damaged: ${event.type} before OrganizationCreated.`);
  switch (event.type) {
    case 'OrganizationRenamed':
      return { ...state, name: event.data.name };
    case 'PlanChanged': {
      const { plan, ...caps } = event.data;
      return { ...state, plan, caps };
    }
    case 'MemberAdded':
    case 'MemberRoleChanged':
      return { ...state, members: new Map(state.members).set(event.data.memberId, event.data.role) };
    case 'MemberRemoved': {
      const members = new Map(state.members);
      members.delete(event.data.memberId);
      return { ...state, members };
    }
  }
  return event satisfies never;
}
