import { hash } from 'node:crypto';

import { canonicalJson } from '../lib/canonical-json.ts';
import { defaultConditions } from './alert-defaults.ts';
import { ALERT_KIND_NAMES, type AlertCondition, type AlertKind } from './alert-schemas.ts';
import type { AlertRuleEvent } from './event.ts';
import type { AlertDefaults } from './organization-settings.ts';
import { refusal, type Refusal } from './refusals.ts';

/** What is watched for, and where: every key, those of a category, or one. */
export type AlertRule = {
  readonly ruleId: string;
  readonly condition: AlertCondition;
  readonly enabled: boolean;
  readonly category: string | null;
  readonly keyId: string | null;
};
export type AlertRuleState =
  | { readonly kind: 'absent' }
  | { readonly kind: 'set'; readonly rule: AlertRule }
  | { readonly kind: 'deleted'; readonly rule: AlertRule };

export type AlertRuleCommand =
  | { readonly kind: 'create'; readonly rule: AlertRule }
  | { readonly kind: 'change'; readonly rule: AlertRule }
  | { readonly kind: 'delete'; readonly isDefault: boolean };

export const ABSENT_ALERT_RULE: AlertRuleState = { kind: 'absent' };

/**
 * The id of an organization's default rule of a kind: the first half of the SHA-256 of `<organization>/<kind>` in the shape of a UUID, so that SQL can
 * name the rule of every organization without a row for each.
 */
export function defaultRuleId(organizationId: string, kind: AlertKind): string {
  return hash('sha256', `${organizationId}/${kind}`).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, '$1-$2-$3-$4-$5');
}

/** Whether an id is that of one of an organization's default rules. */
export function isDefaultRule(organizationId: string, ruleId: string): boolean {
  return ALERT_KIND_NAMES.some((kind) => kind !== 'SPENDING' && defaultRuleId(organizationId, kind) === ruleId);
}

/** The rules that an organization has until it changes them. */
export function defaultRules(organizationId: string, settings: AlertDefaults): readonly AlertRule[] {
  return defaultConditions(settings).map(({ condition, enabled }) => ({
    ruleId: defaultRuleId(organizationId, condition.kind),
    condition,
    enabled,
    category: null,
    keyId: null,
  }));
}

/** Decides a command: the events that follow, none where the rule already is as asked, or a refusal. */
export function decideAlertRule(state: AlertRuleState, command: AlertRuleCommand): readonly AlertRuleEvent[] | Refusal {
  switch (command.kind) {
    case 'create':
      if (state.kind !== 'absent') throw new Error(`Alert rule ${command.rule.ruleId} exists already: ids of new rules must be new.`);
      return [{ type: 'AlertRuleSet', data: command.rule }];
    case 'change':
      if (state.kind === 'deleted') return notFound();
      return state.kind === 'set' && canonicalJson(state.rule) === canonicalJson(command.rule)
        ? []
        : [{ type: 'AlertRuleSet', data: command.rule }];
    case 'delete':
      if (command.isDefault)
        return refusal('INVALID_INPUT', "A default rule can't be deleted; disable it: updateAlertRule with 'enabled' false", 'id');
      return state.kind === 'set' ? [{ type: 'AlertRuleDeleted', data: {} }] : notFound();
  }
  return command satisfies never;
}

function notFound(): Refusal {
  return refusal('NOT_FOUND', 'There is no such alert rule in your organization', 'id');
}

/** Applies one event. */
export function evolveAlertRule(state: AlertRuleState, event: AlertRuleEvent): AlertRuleState {
  switch (event.type) {
    case 'AlertRuleSet': {
      const { ruleId, condition, enabled, category, keyId } = event.data;
      return { kind: 'set', rule: { ruleId, condition, enabled, category, keyId } };
    }
    case 'AlertRuleDeleted':
      if (state.kind === 'absent') throw new Error('The log is damaged: AlertRuleDeleted before AlertRuleSet.');
      return { ...state, kind: 'deleted' };
  }
  return event satisfies never;
}

/** Whether a rule watches a key. */
export function watches(rule: AlertRule, key: { readonly keyId: string; readonly category: string }): boolean {
  return rule.enabled && (rule.category === null || rule.category === key.category) && (rule.keyId === null || rule.keyId === key.keyId);
}

/** Whether a rule watches the organization as a whole: one that is restricted to some keys does not. */
export function watchesOrganization(rule: AlertRule): boolean {
  return rule.enabled && rule.category === null && rule.keyId === null;
}
