import { ALERT_KINDS, ALERT_SEVERITIES, type AlertKind } from '../domain/alert-schemas.ts';
import { EVENT_TYPES, type EventType } from '../domain/event.ts';
import { ROLES } from '../domain/permissions.ts';
import { MUTATION_REFUSALS, VERIFICATION_REFUSALS, type MutationRefusalCode, type VerificationCode } from '../domain/refusals.ts';
import { screamingSnake } from '../lib/screaming-snake.ts';
import type { Builder } from './builder.ts';

/** Every enum of the schema. */
export type Enums = ReturnType<typeof addEnums>;

export function addEnums(builder: Builder) {
  return {
    role: builder.enumType('Role', { description: 'What a member may do; see docs/permissions.md.', values: ROLES }),
    keyType: builder.enumType('ApiKeyType', {
      description: 'PUBLIC keys are for browsers; TEST keys are refused in live environments and the others in test environments.',
      values: ['PUBLIC', 'SECRET', 'TEST'] as const,
    }),
    keyStatus: builder.enumType('ApiKeyStatus', {
      description: 'EXPIRED from `expiresAt` itself on. INACTIVE is also what is archived.',
      values: ['ACTIVE', 'INACTIVE', 'EXPIRED', 'DELETED'] as const,
    }),
    keyOrderField: builder.enumType('ApiKeyOrderField', {
      description: 'Never expiring sorts as the latest, never used as the earliest.',
      values: ['CREATED_AT', 'NAME', 'LAST_USED_AT', 'EXPIRES_AT'] as const,
    }),
    orderDirection: builder.enumType('OrderDirection', { values: ['ASC', 'DESC'] as const }),
    environment: builder.enumType('KeyEnvironment', { values: { LIVE: { value: 'live' }, TEST: { value: 'test' } } as const }),
    granularity: builder.enumType('UsageGranularity', { values: ['MINUTE', 'HOUR', 'DAY'] as const }),
    quotaWindow: builder.enumType('QuotaWindow', {
      description: 'All time, or rolling windows of 24 hours, 7 days and 30 days.',
      values: ['TOTAL', 'DAILY', 'WEEKLY', 'MONTHLY'] as const,
    }),
    limitUnit: builder.enumType('LimitUnit', { values: ['REQUESTS', 'TOKENS'] as const }),
    actorKind: builder.enumType('ActorKind', { values: ['MEMBER', 'SERVICE', 'SYSTEM'] as const }),
    verificationCode: builder.enumType('VerificationCode', {
      description: 'Why a request may pass, or not.',
      values: ['VALID', ...(Object.keys(VERIFICATION_REFUSALS) as Exclude<VerificationCode, 'VALID'>[])] as const,
    }),
    errorCode: builder.enumType('ErrorCode', {
      description: 'The expected failures of mutations.',
      values: Object.fromEntries(
        (Object.entries(MUTATION_REFUSALS) as [MutationRefusalCode, string][]).map(([code, description]) => [
          code,
          { value: code, description },
        ]),
      ) as Record<MutationRefusalCode, { value: MutationRefusalCode; description: string }>,
    }),
    alertKind: builder.enumType('AlertKind', {
      description: 'What a rule watches for.',
      values: Object.fromEntries(
        (Object.entries(ALERT_KINDS) as [AlertKind, string][]).map(([kind, description]) => [kind, { value: kind, description }]),
      ) as Record<AlertKind, { value: AlertKind; description: string }>,
    }),
    alertSeverity: builder.enumType('AlertSeverity', { values: ALERT_SEVERITIES }),
    spendingSubject: builder.enumType('SpendingSubject', { values: ['KEY', 'ORGANIZATION'] as const }),
    spendingPeriod: builder.enumType('SpendingPeriod', {
      description: 'A calendar day or month, in UTC.',
      values: ['DAY', 'MONTH'] as const,
    }),
    eventType: builder.enumType('LedgerEventType', {
      description: 'What an event of the log says.',
      values: Object.fromEntries(EVENT_TYPES.map((type) => [screamingSnake(type), { value: type }])) as Record<
        string,
        { value: EventType }
      >,
    }),
  } as const;
}
