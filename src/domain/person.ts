import type { PersonEvent } from './event.ts';

/**
 * Somebody who may be a member of several organizations, each time under another member id. Known by the id of their first membership: the log holds ids, and no organization learns
 * from it who the person is elsewhere. All that decides whether their personal keys are archived stands in this one history, so that joining a team and creating a key
 * at the same moment are decided one after the other.
 */
export type PersonState = {
  /** Memberships of teams, by member id. */
  readonly teams: ReadonlySet<string>;
  /** Memberships that have ended. */
  readonly ended: ReadonlySet<string>;
  /** Every personal key that was ever created, deleted ones included. */
  readonly keys: readonly PersonalKey[];
  /** How often they joined a team, or left one or an organization: what they agreed to before that holds no more. */
  readonly moves: number;
};

/** `ownerId`: the membership under which the key was created. */
export type PersonalKey = { readonly keyId: string; readonly organizationId: string; readonly ownerId: string };

export type ArchiveReason = 'TEAM_JOINED' | 'OWNER_LEFT';

export const NEW_PERSON: PersonState = { teams: new Set(), ended: new Set(), keys: [], moves: 0 };

/** Why a personal key is archived at this state of its owner; null where it is not. */
export function archiveReason(person: PersonState, key: Pick<PersonalKey, 'ownerId'>): ArchiveReason | null {
  if (person.ended.has(key.ownerId)) return 'OWNER_LEFT';
  return person.teams.size > 0 ? 'TEAM_JOINED' : null;
}

/** Applies one event, which was recorded for `organizationId`. */
export function evolvePerson(state: PersonState, event: PersonEvent, organizationId: string): PersonState {
  switch (event.type) {
    case 'PersonalKeyAdded':
      return { ...state, keys: [...state.keys, { ...event.data, organizationId }] };
    case 'TeamJoined':
      return { ...state, teams: new Set(state.teams).add(event.data.memberId), moves: state.moves + 1 };
    case 'TeamLeft':
      return { ...state, teams: without(state.teams, event.data.memberId), moves: state.moves + 1 };
    case 'MembershipEnded': {
      const teams = without(state.teams, event.data.memberId);
      return { ...state, teams, ended: new Set(state.ended).add(event.data.memberId), moves: state.moves + 1 };
    }
  }
  return event satisfies never;
}

function without(teams: ReadonlySet<string>, memberId: string): ReadonlySet<string> {
  return new Set([...teams].filter((id) => id !== memberId));
}
