import { z } from 'zod';

import { ALERT_KIND_NAMES, type AlertCondition, type AlertKind } from '../domain/alert-schemas.ts';
import { refusal, type Refusal } from '../domain/refusals.ts';
import { category, idempotencyKeySchema } from './key-input.ts';

const whole = (least: number, most: number) =>
  z.int(`give a whole number from ${least} to ${most}`).min(least, `give ${least} to ${most}`).max(most, `give ${least} to ${most}`);
const listOf = (item: z.ZodType<number>) =>
  z
    .array(item)
    .min(1, 'give at least one')
    .max(10, 'give 10 at most')
    .transform((list) => [...new Set(list)]);

/** What a rule can be set to; which of these belong to a kind {@link conditionOf} says. */
const conditionFields = {
  percentages: listOf(whole(1, 100)),
  days: listOf(whole(1, 3650)),
  everyDays: whole(1, 3650).nullable(),
  minRequests: whole(1, 1_000_000_000),
  amountMicros: whole(1, 1_000_000_000_000_000),
  subject: z.enum(['KEY', 'ORGANIZATION']),
  period: z.enum(['DAY', 'MONTH']),
};
const optional = <Shape extends Readonly<Record<string, z.ZodType>>>(shape: Shape) => z.object(shape).partial().shape;
const changeable = optional({ enabled: z.boolean(), category: category.nullable(), apiKeyId: z.uuid().nullable(), ...conditionFields });

export const createAlertRuleSchema = z.strictObject({
  organizationId: z.uuid(),
  kind: z.enum(ALERT_KIND_NAMES),
  ...changeable,
  idempotencyKey: idempotencyKeySchema,
});
export const updateAlertRuleSchema = z.strictObject({ id: z.guid(), ...changeable, idempotencyKey: idempotencyKeySchema });
export const alertIdSchema = z.strictObject({ id: z.guid(), idempotencyKey: idempotencyKeySchema });

type ConditionFields = { readonly [Name in keyof typeof conditionFields]?: z.output<(typeof conditionFields)[Name]> | undefined };
const FIELD_NAMES = Object.keys(conditionFields) as readonly (keyof ConditionFields)[];

/** The fields of each kind. */
const FIELDS_OF: Readonly<Record<AlertKind, readonly (keyof ConditionFields)[]>> = {
  RATE_LIMIT_APPROACHED: ['percentages'],
  QUOTA_THRESHOLD: ['percentages'],
  ERROR_RATE: ['percentages', 'minRequests'],
  UNUSED_KEY: ['days'],
  SPENDING: ['amountMicros', 'subject', 'period'],
  LOW_BALANCE: ['amountMicros'],
  EXPIRING_SOON: ['days'],
  ROTATION_DUE: ['everyDays'],
  UNUSUAL_ACTIVITY: [],
};

/** What a rule of a kind is set to: as given, else as it was (`before`), else as new rules of the kind are. Refuses what does not belong to the kind. */
export function conditionOf(kind: AlertKind, given: ConditionFields, before: AlertCondition | null): AlertCondition | Refusal {
  const belongs = FIELDS_OF[kind];
  const stranger = FIELD_NAMES.find((name) => given[name] !== undefined && !belongs.includes(name));
  if (stranger !== undefined) {
    const takes = belongs.length === 0 ? 'it takes none of these settings' : `it takes ${belongs.map((name) => `'${name}'`).join(', ')}`;
    return refusal('INVALID_INPUT', `'${stranger}' does not belong to a rule of the kind ${kind}; ${takes}`, stranger);
  }
  const fields: ConditionFields = { ...before, ...withoutUndefined(given) };
  const { percentages, days, minRequests = 50, amountMicros, subject = 'ORGANIZATION', period = 'MONTH', everyDays = null } = fields;
  switch (kind) {
    case 'RATE_LIMIT_APPROACHED':
    case 'QUOTA_THRESHOLD':
      return percentages === undefined || percentages.length === 0 ? missing('percentages', kind) : { kind, percentages };
    case 'ERROR_RATE':
      return percentages === undefined || percentages.length === 0 ? missing('percentages', kind) : { kind, percentages, minRequests };
    case 'UNUSED_KEY':
    case 'EXPIRING_SOON':
      return days === undefined || days.length === 0 ? missing('days', kind) : { kind, days };
    case 'SPENDING':
      return amountMicros === undefined ? missing('amountMicros', kind) : { kind, amountMicros, subject, period };
    case 'LOW_BALANCE':
      return amountMicros === undefined ? missing('amountMicros', kind) : { kind, amountMicros };
    case 'ROTATION_DUE':
      return { kind, everyDays };
    case 'UNUSUAL_ACTIVITY':
      return { kind };
  }
  return kind satisfies never;
}

/** What is only about the organization can't be restricted to some of its keys, and one key needs no category. */
export function scopeFault(
  condition: AlertCondition,
  scope: { readonly category: string | null; readonly keyId: string | null },
): Refusal | null {
  if (scope.category !== null && scope.keyId !== null)
    return refusal('INVALID_INPUT', "Restrict a rule to a category or to a key; leave 'category' or 'apiKeyId' out", 'category');
  const ofOrganization = condition.kind === 'LOW_BALANCE' || (condition.kind === 'SPENDING' && condition.subject === 'ORGANIZATION');
  if (!ofOrganization || (scope.category === null && scope.keyId === null)) return null;
  const field = scope.category === null ? 'apiKeyId' : 'category';
  return refusal('INVALID_INPUT', `This rule watches the organization as a whole; leave '${field}' out, or watch KEY spending`, field);
}

function missing(field: keyof ConditionFields, kind: AlertKind): Refusal {
  return refusal('INVALID_INPUT', `'${field}': a rule of the kind ${kind} needs it`, field);
}

function withoutUndefined(fields: ConditionFields): ConditionFields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
