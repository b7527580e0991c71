import { z } from 'zod';

// The facts of alerts and their rules as the log has them; src/domain/event.ts takes them into the one registry.

/** What a rule can watch for, each with what it says to its reader. */
export const ALERT_KINDS = {
  RATE_LIMIT_APPROACHED: "a key's or the organization's requests or tokens of a minute have come near their limit",
  QUOTA_THRESHOLD: 'a key has used a part of one of its quotas',
  ERROR_RATE: "too large a share of a key's requests of the last hour has failed",
  UNUSED_KEY: 'a key has not been used for days',
  SPENDING: 'a key or the organization has cost more than an amount in a day or a month (UTC)',
  LOW_BALANCE: 'the prepaid balance has fallen to an amount',
  EXPIRING_SOON: 'a key expires within days',
  ROTATION_DUE: 'the secret of a key is older than its rotation schedule allows',
  UNUSUAL_ACTIVITY: "a key's requests of the last hour are far from what they usually are",
} as const;
export type AlertKind = keyof typeof ALERT_KINDS;
export const ALERT_KIND_NAMES = Object.keys(ALERT_KINDS) as [AlertKind, ...AlertKind[]];

export const ALERT_SEVERITIES = ['INFO', 'WARNING', 'CRITICAL'] as const;
export type AlertSeverity = (typeof ALERT_SEVERITIES)[number];

const percentages = z.array(z.int()).describe('each of them raises an alert of its own');
const days = z.array(z.int()).describe('each of them raises an alert of its own');
const micros = z.int().describe('millionths of the currency');

/** What a rule of each kind is set to. */
export const alertConditionSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('RATE_LIMIT_APPROACHED'), percentages }),
  z.object({ kind: z.literal('QUOTA_THRESHOLD'), percentages }),
  z.object({
    kind: z.literal('ERROR_RATE'),
    percentages,
    minRequests: z.int().describe('with fewer requests in the hour it says nothing'),
  }),
  z.object({ kind: z.literal('UNUSED_KEY'), days }),
  z.object({
    kind: z.literal('SPENDING'),
    amountMicros: micros,
    subject: z.enum(['KEY', 'ORGANIZATION']),
    period: z.enum(['DAY', 'MONTH']),
  }),
  z.object({ kind: z.literal('LOW_BALANCE'), amountMicros: micros }),
  z.object({ kind: z.literal('EXPIRING_SOON'), days }),
  z.object({
    kind: z.literal('ROTATION_DUE'),
    everyDays: z.int().nullable().describe('for keys that have no schedule of their own; null: those are left alone'),
  }),
  z.object({ kind: z.literal('UNUSUAL_ACTIVITY') }),
]);
export type AlertCondition = Readonly<z.infer<typeof alertConditionSchema>>;

/** Ids of default rules are hashes, which are not UUIDs of any version; so ids of rules are only shaped like one. */
const ruleId = z.guid();
const scope = {
  category: z.string().nullable().describe('keys of this category alone; null: of any'),
  keyId: z.uuid().nullable().describe('this key alone; null: every key'),
};

export const alertRuleEvents = {
  AlertRuleSet: z
    .object({ ruleId, condition: alertConditionSchema, enabled: z.boolean(), ...scope })
    .describe('a new rule, or the whole of what a rule is from now on'),
  AlertRuleDeleted: z.object({}),
};

export const alertEvents = {
  AlertRaised: z.object({
    alertId: z.uuid(),
    ruleId,
    kind: z.enum(ALERT_KIND_NAMES),
    keyId: z.uuid().nullable().describe('null: it is about the organization'),
    severity: z.enum(ALERT_SEVERITIES),
    message: z.string().describe('for people'),
    details: z.record(z.string(), z.union([z.string(), z.number(), z.null()])).describe('the numbers behind the message'),
    series: z.string().describe('the rule, what it watched and the threshold: raised once in each window'),
    ordinal: z.int().positive().describe('its number in the series, from 1'),
  }),
  AlertAcknowledged: z.object({}),
};
