import { canonicalJson } from '../lib/canonical-json.ts';
import type { ProfileEvent } from './event.ts';
import { refusal, type Refusal } from './refusals.ts';

export type ProfileSettings = Extract<ProfileEvent, { readonly type: 'ProfileCreated' }>['data']['settings'];

/** A named bundle of settings that keys can have. */
export type ProfileState =
  | { readonly kind: 'absent' }
  | { readonly kind: 'profile' | 'deleted'; readonly profileId: string; readonly name: string; readonly settings: ProfileSettings };

export type ProfileCommand =
  | { readonly kind: 'create'; readonly profileId: string; readonly name: string; readonly settings: ProfileSettings }
  /** What is left out stays; `settings` are replaced whole. */
  | { readonly kind: 'update'; readonly name?: string; readonly settings?: ProfileSettings }
  | { readonly kind: 'delete' };

export const ABSENT_PROFILE: ProfileState = { kind: 'absent' };

/** Decides a command: the events that follow, none where the profile already is as asked, or a refusal. */
export function decideProfile(state: ProfileState, command: ProfileCommand): readonly ProfileEvent[] | Refusal {
  if (command.kind === 'create') {
    if (state.kind !== 'absent') throw new Error(`Profile ${command.profileId} exists already: ids of new profiles must be new.`);
    const { kind: _, ...facts } = command;
    return [{ type: 'ProfileCreated', data: facts }];
  }
  if (state.kind !== 'profile') return refusal('NOT_FOUND', 'There is no such profile in your organization', 'id');
  switch (command.kind) {
    case 'update': {
      const { name, settings } = command;
      const changes = {
        ...(name === undefined || name === state.name ? {} : { name }),
        ...(settings === undefined || canonicalJson(settings) === canonicalJson(state.settings) ? {} : { settings }),
      };
      return Object.keys(changes).length === 0 ? [] : [{ type: 'ProfileUpdated', data: changes }];
    }
    case 'delete':
      return [{ type: 'ProfileDeleted', data: { name: state.name } }];
  }
  return command satisfies never;
}

/** Applies one event. */
export function evolveProfile(state: ProfileState, event: ProfileEvent): ProfileState {
  if (event.type === 'ProfileCreated') return { kind: 'profile', ...event.data };
  if (state.kind !== 'profile') throw new Error(`The log is damaged: ${event.type} for a profile that is ${state.kind}.`);
  switch (event.type) {
    case 'ProfileUpdated':
      return { ...state, name: event.data.name ?? state.name, settings: event.data.settings ?? state.settings };
    case 'ProfileDeleted':
      return { ...state, kind: 'deleted' };
  }
  return event satisfies never;
}
