import type { ObjectFieldsShape } from '@pothos/core';

import type { AlertResult, AlertRuleResult } from '../commands/alert-commands.ts';
import type { Done } from '../ledger/run-command.ts';
import { loadAlerts, type AlertRow } from './alert-reading.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import { actorOf } from './context.ts';
import type { Enums } from './enums.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';

type Types = PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>;
type RuleDone = Done<AlertRuleResult>;
type AlertDone = Done<AlertResult>;
type InputFields = PothosSchemaTypes.InputFieldBuilder<Types, 'InputObject'>;

export function addAlertMutations(builder: Builder, enums: Enums, types: TypeRefs, refusals: RefusalTypes): void {
  const settings = (t: InputFields) => ({
    enabled: t.boolean(),
    category: t.string({ description: 'Watch keys of this category alone.' }),
    apiKeyId: t.id({ description: 'Watch this key alone.' }),
    percentages: t.intList({ description: 'RATE_LIMIT_APPROACHED, QUOTA_THRESHOLD, ERROR_RATE: 1 to 100, each for an alert of its own.' }),
    days: t.intList({ description: 'UNUSED_KEY, EXPIRING_SOON: 1 to 3650, each for an alert of its own.' }),
    everyDays: t.int({ description: 'ROTATION_DUE: the schedule of keys that have none of their own.' }),
    minRequests: t.int({ description: 'ERROR_RATE: with fewer requests in the hour nothing is said. 50 unless told.' }),
    amountMicros: t.float({ description: 'SPENDING, LOW_BALANCE: millionths of the currency, a whole number.' }),
    subject: t.field({ type: enums.spendingSubject, description: 'SPENDING: ORGANIZATION unless told.' }),
    period: t.field({ type: enums.spendingPeriod, description: 'SPENDING: MONTH unless told.' }),
  });
  const rule: ObjectFieldsShape<Types, RuleDone> = (t) => ({
    alertRule: t.field({
      type: types.alertRule,
      nullable: true,
      authScopes: { permission: 'alerts:read' },
      resolve: ({ result }) => result.ruleId,
    }),
  });
  addMutation<RuleDone>(builder, refusals, {
    name: 'createAlertRule',
    description: 'A further rule, beside the defaults. Which settings belong to it is said by its kind; see docs/alerts.md.',
    permissions: ['alerts:write'],
    input: (t) => ({ organizationId: t.id({ required: true }), kind: t.field({ type: enums.alertKind, required: true }), ...settings(t) }),
    ids: { organizationId: 'Organization', apiKeyId: 'ApiKey' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: rule,
    run: (actor, input, { deps }) => deps.alerts.createRule(actor, input),
  });
  addMutation<RuleDone>(builder, refusals, {
    name: 'updateAlertRule',
    description:
      'Changes what is given and leaves the rest; null for `category` or `apiKeyId` lifts the restriction. Default rules are changed in the same way.',
    permissions: ['alerts:write'],
    input: (t) => ({ id: t.id({ required: true }), ...settings(t) }),
    ids: { id: 'AlertRule', apiKeyId: 'ApiKey' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: rule,
    run: (actor, input, { deps }) => deps.alerts.updateRule(actor, input),
  });
  addMutation<RuleDone>(builder, refusals, {
    name: 'deleteAlertRule',
    description: 'What it raised is kept. A default rule can only be disabled.',
    permissions: ['alerts:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'AlertRule' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      deletedId: t.id({ resolve: ({ result }) => encodeGlobalId('AlertRule', result.ruleId) }),
    }),
    run: (actor, input, { deps }) => deps.alerts.deleteRule(actor, input),
  });
  addMutation<AlertDone>(builder, refusals, {
    name: 'acknowledgeAlert',
    description:
      'Says that somebody has taken note. The first one stays. Needs `alerts:read` too, and to see the key that the alert is about.',
    permissions: ['alerts:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'Alert' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      alert: t.field({
        type: types.alert,
        nullable: true,
        authScopes: { permission: 'alerts:read' },
        resolve: async ({ result }, _args, context): Promise<AlertRow | null> =>
          (await loadAlerts(context.deps.database.kysely, actorOf(context), [result.alertId]))[0] ?? null,
      }),
    }),
    run: (actor, input, { deps }) => deps.alerts.acknowledge(actor, input),
  });
}
