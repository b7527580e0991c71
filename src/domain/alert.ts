import type { AlertKind, AlertSeverity } from './alert-schemas.ts';
import type { AlertEvent } from './event.ts';
import { refusal, type Refusal } from './refusals.ts';

/** What an evaluation found: an alert, unless its series has one for the present window already. */
export type AlertFinding = {
  readonly organizationId: string;
  readonly ruleId: string;
  readonly kind: AlertKind;
  readonly keyId: string | null;
  readonly severity: AlertSeverity;
  readonly message: string;
  /** The numbers behind the message; counts as texts, since they may exceed 2^53. */
  readonly details: Readonly<Record<string, string | number | null>>;
  /** Names the rule, what it watched and the threshold. */
  readonly series: string;
  /** The length of the window: so long after an alert the series has no other one. Null: never. Milliseconds. */
  readonly windowMs: number | null;
};

export type RaisedAlert = Omit<AlertFinding, 'organizationId' | 'windowMs'> & { readonly alertId: string; readonly ordinal: number };
export type AlertState =
  | { readonly kind: 'absent' }
  | { readonly kind: 'raised'; readonly alert: RaisedAlert }
  | { readonly kind: 'acknowledged'; readonly alert: RaisedAlert };

export const ABSENT_ALERT: AlertState = { kind: 'absent' };

/** Acknowledges an alert; nothing happens where that was done. */
export function acknowledgeAlert(state: AlertState): readonly AlertEvent[] | Refusal {
  switch (state.kind) {
    case 'absent':
      return refusal('NOT_FOUND', 'There is no such alert in your organization', 'id');
    case 'raised':
      return [{ type: 'AlertAcknowledged', data: {} }];
    case 'acknowledged':
      return [];
  }
  return state satisfies never;
}

/** Applies one event. */
export function evolveAlert(state: AlertState, event: AlertEvent): AlertState {
  switch (event.type) {
    case 'AlertRaised':
      return { kind: 'raised', alert: event.data };
    case 'AlertAcknowledged':
      if (state.kind === 'absent') throw new Error('The log is damaged: AlertAcknowledged before AlertRaised.');
      return { ...state, kind: 'acknowledged' };
  }
  return event satisfies never;
}
