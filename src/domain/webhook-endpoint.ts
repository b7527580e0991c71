import type { EventType, WebhookEvent } from './event.ts';
import { refusal, type Refusal } from './refusals.ts';

/** Who switched it off: its organization, the receiver by 410 Gone, or the product after days without one success. */
export const INACTIVE_REASONS = ['REQUESTED', 'GONE', 'FAILING'] as const;
export type InactiveReason = (typeof INACTIVE_REASONS)[number];

export type WebhookSettings = { readonly url: string; readonly description: string; readonly eventTypes: readonly EventType[] };

/** Where an organization wants to be told of events. */
export type WebhookState =
  | { readonly kind: 'absent' }
  | ({
      readonly kind: 'endpoint' | 'deleted';
      readonly endpointId: string;
      /** Null while it is active. */
      readonly inactiveReason: InactiveReason | null;
    } & WebhookSettings);

export type WebhookCommand =
  | ({ readonly kind: 'create'; readonly endpointId: string; readonly secretFingerprint: string } & WebhookSettings)
  | { readonly kind: 'update'; readonly changes: Partial<WebhookSettings>; readonly active: boolean | undefined }
  | { readonly kind: 'disable'; readonly reason: Exclude<InactiveReason, 'REQUESTED'> }
  | { readonly kind: 'rotate'; readonly secretFingerprint: string; readonly overlapUntil: Date | null }
  | { readonly kind: 'test' }
  | { readonly kind: 'redeliver'; readonly position: bigint }
  | { readonly kind: 'delete' };

export const ABSENT_WEBHOOK: WebhookState = { kind: 'absent' };
const OVERLAP_DAYS = 30;
const DAY_MS = 24 * 60 * 60 * 1000;

/** Decides a command: the events that follow, none where it already is as asked, or a refusal. */
export function decideWebhook(state: WebhookState, command: WebhookCommand, now: Date): readonly WebhookEvent[] | Refusal {
  if (command.kind === 'create') {
    if (state.kind !== 'absent')
      throw new Error(`Webhook endpoint ${command.endpointId} exists already: ids of new endpoints must be new.`);
    const { kind: _, eventTypes, ...facts } = command;
    return [{ type: 'WebhookEndpointCreated', data: { ...facts, eventTypes: [...eventTypes] } }];
  }
  if (state.kind !== 'endpoint') return refusal('NOT_FOUND', 'There is no such webhook endpoint in your organization', 'id');
  const active = state.inactiveReason === null;
  switch (command.kind) {
    case 'update':
      return decideUpdate(state, command.changes, command.active);
    case 'disable':
      return active ? [{ type: 'WebhookEndpointDisabled', data: { reason: command.reason } }] : [];
    case 'rotate': {
      const { overlapUntil, secretFingerprint } = command;
      if (overlapUntil !== null && overlapUntil <= now)
        return refusal('INVALID_INPUT', "'overlapUntil' lies in the past; leave it out for 24 hours", 'overlapUntil');
      if (overlapUntil !== null && overlapUntil.getTime() > now.getTime() + OVERLAP_DAYS * DAY_MS)
        return refusal('INVALID_INPUT', `'overlapUntil' can lie ${OVERLAP_DAYS} days ahead at most`, 'overlapUntil');
      return [{ type: 'WebhookEndpointSecretRotated', data: { secretFingerprint, overlapUntil: overlapUntil?.toISOString() ?? null } }];
    }
    case 'test':
      return active ? [{ type: 'WebhookTestRequested', data: {} }] : refusal('WEBHOOK_INACTIVE', undefined, 'id');
    case 'redeliver':
      return active
        ? [{ type: 'WebhookRedeliveryRequested', data: { position: String(command.position) } }]
        : refusal('WEBHOOK_INACTIVE', undefined, 'id');
    case 'delete':
      return [{ type: 'WebhookEndpointDeleted', data: {} }];
  }
  return command satisfies never;
}

function decideUpdate(
  state: Extract<WebhookState, { readonly kind: 'endpoint' | 'deleted' }>,
  changes: Partial<WebhookSettings>,
  active: boolean | undefined,
): readonly WebhookEvent[] {
  const { url, description, eventTypes } = changes;
  const data = {
    ...(url === undefined || url === state.url ? {} : { url }),
    ...(description === undefined || description === state.description ? {} : { description }),
    ...(eventTypes === undefined || sameList(eventTypes, state.eventTypes) ? {} : { eventTypes: [...eventTypes] }),
    ...(active === undefined || active === (state.inactiveReason === null) ? {} : { active }),
  };
  return Object.keys(data).length === 0 ? [] : [{ type: 'WebhookEndpointUpdated', data }];
}

function sameList(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((item, index) => item === other[index]);
}

/** Applies one event. */
export function evolveWebhook(state: WebhookState, event: WebhookEvent): WebhookState {
  if (event.type === 'WebhookEndpointCreated') {
    const { secretFingerprint: _, eventTypes, ...facts } = event.data;
    // An older or newer version may have known other types; they are kept, and nothing of that type is ever delivered here.
    return { kind: 'endpoint', ...facts, eventTypes: eventTypes as EventType[], inactiveReason: null };
  }
  if (state.kind === 'absent') throw new Error(`The log is damaged: ${event.type} before WebhookEndpointCreated.`);
  switch (event.type) {
    case 'WebhookEndpointUpdated': {
      const { active, url = state.url, description = state.description, eventTypes = state.eventTypes } = event.data;
      const inactiveReason = active === undefined ? state.inactiveReason : active ? null : 'REQUESTED';
      return { ...state, url, description, eventTypes: eventTypes as EventType[], inactiveReason };
    }
    case 'WebhookEndpointDisabled':
      return { ...state, inactiveReason: event.data.reason };
    case 'WebhookEndpointSecretRotated':
    case 'WebhookTestRequested':
    case 'WebhookRedeliveryRequested':
      return state;
    case 'WebhookEndpointDeleted':
      return { ...state, kind: 'deleted', inactiveReason: null };
  }
  return event satisfies never;
}
