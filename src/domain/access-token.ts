import type { TokenEvent } from './event.ts';
import type { Permission } from './permissions.ts';
import { refusal, type Refusal } from './refusals.ts';

/** An access token: issued once, perhaps revoked. Its expiry is read from the clock wherever it is used. */
export type TokenState =
  | { readonly kind: 'absent' }
  | {
      readonly kind: 'issued' | 'revoked';
      readonly tokenId: string;
      readonly name: string;
      readonly memberId: string | null;
      readonly permissions: readonly Permission[] | null;
      readonly expiresAt: string | null;
    };

export type TokenCommand =
  | {
      readonly kind: 'issue';
      readonly tokenId: string;
      readonly name: string;
      readonly memberId: string | null;
      readonly permissions: readonly Permission[] | null;
      readonly expiresAt: Date | null;
      readonly tokenHash: string;
    }
  | { readonly kind: 'revoke' };

export const ABSENT_TOKEN: TokenState = { kind: 'absent' };

/** Decides a command: the events that follow, none where it already is as asked, or a refusal. */
export function decideToken(state: TokenState, command: TokenCommand, now: Date): readonly TokenEvent[] | Refusal {
  switch (command.kind) {
    case 'issue': {
      if (state.kind !== 'absent') throw new Error(`Access token ${command.tokenId} exists already: ids of new tokens must be new.`);
      if (command.memberId === null && command.permissions === null) {
        return refusal('INVALID_INPUT', "A service's token needs 'permissions'", 'permissions');
      }
      if (command.expiresAt !== null && command.expiresAt <= now)
        return refusal('INVALID_INPUT', "'expiresAt' lies in the past", 'expiresAt');
      const { kind: _, expiresAt, permissions, ...facts } = command;
      const data = { ...facts, permissions: permissions === null ? null : [...permissions], expiresAt: expiresAt?.toISOString() ?? null };
      return [{ type: 'AccessTokenIssued', data }];
    }
    case 'revoke':
      if (state.kind === 'absent') return refusal('NOT_FOUND', 'There is no such access token in your organization', 'id');
      return state.kind === 'revoked' ? [] : [{ type: 'AccessTokenRevoked', data: {} }];
  }
  return command satisfies never;
}

/** Applies one event. */
export function evolveToken(state: TokenState, event: TokenEvent): TokenState {
  switch (event.type) {
    case 'AccessTokenIssued': {
      const { tokenHash: _, ...facts } = event.data;
      return { kind: 'issued', ...facts };
    }
    case 'AccessTokenRevoked':
      if (state.kind === 'absent') throw new Error('The log is damaged: AccessTokenRevoked before AccessTokenIssued.');
      return { ...state, kind: 'revoked' };
  }
  return event satisfies never;
}
