import { ALERT_KINDS } from '../domain/alert-schemas.ts';
import type { ActorRef } from './actor.ts';
import { listAlerts, type AlertFilter, type AlertRow, type AlertRuleNode } from './alert-reading.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { idOf } from './global-id.ts';
import { pageOf, pageSizeOf, type Page } from './paging.ts';
import type { TypeRefs } from './type-refs.ts';

/** The list of alerts that organizations and keys have: its connection, its filter, and how it is read. */
export type AlertRefs = ReturnType<typeof addAlert>;

type ListArgs = {
  readonly filter?: (Omit<AlertFilter, 'keyId'> & { readonly apiKeyId?: string | null | undefined }) | null | undefined;
  readonly first?: number | null | undefined;
  readonly after?: bigint | null | undefined;
};

export function addAlert(builder: Builder, enums: Enums, types: TypeRefs, actor: ActorRef) {
  types.alert.implement({
    description: 'Raised once for each rule, key and window; it is kept.',
    fields: (t) => ({
      kind: t.field({ type: enums.alertKind, resolve: (alert) => alert.kind }),
      severity: t.field({ type: enums.alertSeverity, resolve: (alert) => alert.severity }),
      message: t.exposeString('message', { description: 'For people.' }),
      details: t.field({ type: 'JSON', description: 'The numbers behind the message.', resolve: (alert) => alert.details }),
      position: t.field({ type: 'Position', description: 'Of the event that raised it.', resolve: (alert) => alert.position }),
      raisedAt: t.field({ type: 'DateTime', resolve: (alert) => alert.raised_at }),
      acknowledgedAt: t.field({ type: 'DateTime', nullable: true, resolve: (alert) => alert.acknowledged_at }),
      acknowledgedBy: t.field({
        type: actor,
        nullable: true,
        resolve: ({ acknowledged_by: actorId, organization_id: organizationId }) => (actorId === null ? null : { actorId, organizationId }),
      }),
      apiKey: t.field({
        type: types.apiKey,
        nullable: true,
        description: 'Null for an alert about the organization.',
        authScopes: { permission: 'keys:read' },
        resolve: (alert) => alert.key_id,
      }),
      rule: t.field({ type: types.alertRule, nullable: true, description: 'Null once it is deleted.', resolve: (alert) => alert.rule_id }),
    }),
  });
  addAlertRule(enums, types);

  const connection = builder.connectionObject({ type: types.alert, name: 'AlertConnection' });
  const filter = builder.inputType('AlertFilter', {
    fields: (t) => ({
      kinds: t.field({ type: [enums.alertKind] }),
      severities: t.field({ type: [enums.alertSeverity] }),
      acknowledged: t.boolean({ description: 'Left out: both.' }),
      apiKeyId: t.id({ description: 'About this key alone.' }),
    }),
  });
  return { connection, filter, read: readAlerts };
}

async function readAlerts(context: GraphqlContext, { filter, first, after }: ListArgs, ofKey?: string): Promise<Page<AlertRow>> {
  const size = pageSizeOf(first);
  const named = filter?.apiKeyId == null ? null : idOf('ApiKey', filter.apiKeyId);
  if (filter?.apiKeyId != null && named === null) throw badUserInput("'apiKeyId' is no id of a key.");
  if (ofKey !== undefined && named !== null && named !== ofKey) return pageOf<AlertRow>([], size, () => '', after != null);
  const keyId = ofKey ?? named;
  const rows = await listAlerts(context.deps.database.kysely, actorOf(context), {
    filter: { ...filter, keyId },
    before: after ?? null,
    limit: size + 1,
  });
  return pageOf(rows, size, (alert) => alert.position.toString(), after != null);
}

function addAlertRule(enums: Enums, types: TypeRefs): void {
  const condition = (rule: AlertRuleNode): Readonly<Record<string, unknown>> => rule.condition;
  const numbers = (value: unknown): number[] | null => (Array.isArray(value) ? (value as number[]) : null);
  const number = (value: unknown): number | null => (typeof value === 'number' ? value : null);
  types.alertRule.implement({
    description: 'What is watched for. Settings that do not belong to its kind are null.',
    fields: (t) => ({
      kind: t.field({ type: enums.alertKind, resolve: (rule) => rule.condition.kind }),
      meaning: t.string({ description: 'What an alert of it says.', resolve: (rule) => ALERT_KINDS[rule.condition.kind] }),
      enabled: t.exposeBoolean('enabled'),
      isDefault: t.exposeBoolean('isDefault', {
        description: 'One of those that every organization has; it can be changed and disabled, not deleted.',
      }),
      category: t.exposeString('category', { nullable: true, description: 'Watches keys of this category alone.' }),
      apiKey: t.field({
        type: types.apiKey,
        nullable: true,
        description: 'Watches this key alone.',
        authScopes: { permission: 'keys:read' },
        resolve: (rule) => rule.keyId,
      }),
      percentages: t.intList({
        nullable: true,
        description: 'Each raises an alert of its own.',
        resolve: (rule) => numbers(condition(rule)['percentages']),
      }),
      days: t.intList({
        nullable: true,
        description: 'Each raises an alert of its own.',
        resolve: (rule) => numbers(condition(rule)['days']),
      }),
      everyDays: t.int({
        nullable: true,
        description: 'ROTATION_DUE: for keys without a schedule of their own; null leaves those alone.',
        resolve: (rule) => number(condition(rule)['everyDays']),
      }),
      minRequests: t.int({ nullable: true, resolve: (rule) => number(condition(rule)['minRequests']) }),
      amountMicros: t.float({
        nullable: true,
        description: 'Millionths of the currency, a whole number.',
        resolve: (rule) => number(condition(rule)['amountMicros']),
      }),
      subject: t.field({
        type: enums.spendingSubject,
        nullable: true,
        resolve: ({ condition: set }) => (set.kind === 'SPENDING' ? set.subject : null),
      }),
      period: t.field({
        type: enums.spendingPeriod,
        nullable: true,
        resolve: ({ condition: set }) => (set.kind === 'SPENDING' ? set.period : null),
      }),
    }),
  });
}
