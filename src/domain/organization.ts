import type { OrganizationEvent } from './event.ts';
import { changedSettings, DEFAULT_SETTINGS, type OrganizationSettings, type SettingsChanges } from './organization-settings.ts';
import type { Role } from './permissions.ts';
import { PLANS, type PlanCaps, type PlanName } from './plan.ts';
import { isRefusal, refusal, type Refusal } from './refusals.ts';

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
      /** All that was added since the balance was enabled, in millionths; what is left of it also depends on usage. Null: it keeps no balance. */
      readonly fundsMicros: number | null;
      readonly settings: OrganizationSettings;
      /** Whoever joins it has their personal keys archived while they belong to it. */
      readonly team: boolean;
      /** Role by member id; removed members are not in it. */
      readonly members: ReadonlyMap<string, Role>;
      /** Who a member is, by member id, where that was first known by another membership; removed members are not in it. */
      readonly persons: ReadonlyMap<string, string>;
    };

export type OrganizationCommand =
  | {
      readonly kind: 'create';
      readonly organizationId: string;
      readonly number: number;
      readonly name: string;
      readonly plan: string;
      readonly team?: boolean;
      readonly ownerId: string;
    }
  | { readonly kind: 'rename'; readonly name: string }
  | { readonly kind: 'change-team'; readonly team: boolean }
  /** `caps` only with ENTERPRISE: the other plans have their own. */
  | { readonly kind: 'change-plan'; readonly plan: PlanName; readonly caps: PlanCaps | null }
  | { readonly kind: 'enable-balance'; readonly fundsMicros: number | null }
  | { readonly kind: 'disable-balance' }
  | { readonly kind: 'add-funds'; readonly micros: number }
  | { readonly kind: 'change-settings'; readonly changes: SettingsChanges }
  | { readonly kind: 'add-member'; readonly memberId: string; readonly role: Role; readonly personId?: string | null }
  | { readonly kind: 'change-role'; readonly memberId: string; readonly role: Role }
  | { readonly kind: 'remove-member'; readonly memberId: string };

export const ABSENT_ORGANIZATION: OrganizationState = { kind: 'absent' };

/** Decides a command: the events that follow, none where it already is as asked, or a refusal. */
export function decideOrganization(state: OrganizationState, command: OrganizationCommand): readonly OrganizationEvent[] | Refusal {
  if (command.kind === 'create') {
    if (state.kind !== 'absent')
      throw new Error(`Organization ${command.organizationId} exists already: ids of new organizations must be new.`);
    const { kind: _, ownerId, team, ...facts } = command;
    return [
      { type: 'OrganizationCreated', data: { ...facts, ...(team === true ? { team } : {}) } },
      { type: 'MemberAdded', data: { memberId: ownerId, role: 'OWNER' } },
    ];
  }
  if (state.kind === 'absent') return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
  switch (command.kind) {
    case 'rename':
      return state.name === command.name ? [] : [{ type: 'OrganizationRenamed', data: { name: command.name } }];
    case 'change-team':
      return state.team === command.team ? [] : [{ type: 'OrganizationTeamChanged', data: { team: command.team } }];
    case 'change-plan':
      return decidePlan(state, command.plan, command.caps);
    case 'enable-balance':
      return decideBalance(state.fundsMicros, command.fundsMicros);
    case 'disable-balance':
      return state.fundsMicros === null ? [] : [{ type: 'BalanceDisabled', data: {} }];
    case 'add-funds':
      return decideFunds(state.fundsMicros, command.micros, 'micros');
    case 'change-settings': {
      const changed = changedSettings(state.settings, command.changes);
      return Object.keys(changed).length === 0 ? [] : [{ type: 'OrganizationSettingsChanged', data: changed }];
    }
    case 'add-member':
      if (state.members.has(command.memberId)) return refusal('ALREADY_MEMBER', undefined, 'memberId');
      return decideJoining(state, command.memberId, command.role, command.personId ?? null);
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

function decideBalance(has: number | null, funds: number | null): readonly OrganizationEvent[] | Refusal {
  if (has !== null && funds === null) return [];
  if (has !== null) return refusal('INVALID_INPUT', 'The organization keeps a balance already; call addFunds', 'fundsMicros');
  const first = funds === null ? [] : decideFunds(0, funds, 'fundsMicros');
  return isRefusal(first) ? first : [{ type: 'BalanceEnabled', data: {} }, ...first];
}

/** The sum stays a number that every JSON reader knows exactly. */
function decideFunds(has: number | null, micros: number, field: string): readonly OrganizationEvent[] | Refusal {
  if (has === null) return refusal('INVALID_INPUT', 'The organization keeps no balance; call enableBalance first', 'organizationId');
  if (has + micros > Number.MAX_SAFE_INTEGER)
    return refusal('INVALID_INPUT', `All funds of an organization together can be ${Number.MAX_SAFE_INTEGER} micros at most`, field);
  return [{ type: 'FundsAdded', data: { micros } }];
}

function decideJoining(
  state: { readonly members: ReadonlyMap<string, Role>; readonly persons: ReadonlyMap<string, string> },
  memberId: string,
  role: Role,
  personId: string | null,
): readonly OrganizationEvent[] | Refusal {
  if (personId === null) return [{ type: 'MemberAdded', data: { memberId, role } }];
  const known = state.members.has(personId) || [...state.persons.values()].includes(personId);
  return known ? refusal('ALREADY_MEMBER', undefined, 'joinCode') : [{ type: 'MemberAdded', data: { memberId, role, personId } }];
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
    return {
      kind: 'organization',
      ...event.data,
      caps: { requestsPerSecond: null, requestsPerMinute: null },
      settings: DEFAULT_SETTINGS,
      fundsMicros: null,
      team: event.data.team === true,
      members: new Map(),
      persons: new Map(),
    };
  }
  if (state.kind === 'absent') throw new Error(`The log is damaged: ${event.type} before OrganizationCreated.`);
  switch (event.type) {
    case 'OrganizationRenamed':
      return { ...state, name: event.data.name };
    case 'OrganizationTeamChanged':
      return { ...state, team: event.data.team };
    case 'PlanChanged': {
      const { plan, ...caps } = event.data;
      return { ...state, plan, caps };
    }
    case 'BalanceEnabled':
      return { ...state, fundsMicros: 0 };
    case 'BalanceDisabled':
      return { ...state, fundsMicros: null };
    case 'FundsAdded':
      return { ...state, fundsMicros: (state.fundsMicros ?? 0) + event.data.micros };
    case 'OrganizationSettingsChanged':
      return { ...state, settings: { ...state.settings, ...withoutUndefined(event.data) } };
    case 'MemberAdded': {
      const { memberId, role, personId } = event.data;
      const persons = personId === undefined ? state.persons : new Map(state.persons).set(memberId, personId);
      return { ...state, members: new Map(state.members).set(memberId, role), persons };
    }
    case 'MemberRoleChanged':
      return { ...state, members: new Map(state.members).set(event.data.memberId, event.data.role) };
    case 'MemberRemoved': {
      const members = new Map(state.members);
      members.delete(event.data.memberId);
      const persons = new Map(state.persons);
      persons.delete(event.data.memberId);
      return { ...state, members, persons };
    }
  }
  return event satisfies never;
}

function withoutUndefined(changes: { readonly [Name in keyof OrganizationSettings]?: OrganizationSettings[Name] | undefined }) {
  return Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined)) as Partial<OrganizationSettings>;
}
