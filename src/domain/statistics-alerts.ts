import { watches, watchesOrganization, type AlertRule } from './alert-rule.ts';
import type { AlertFinding } from './alert.ts';
import { formatMicros } from './format-micros.ts';

const HOUR_MS = 60 * 60 * 1000;

/** What statistics say of a key. */
export type KeyStatistics = {
  readonly organizationId: string;
  readonly keyId: string;
  readonly name: string;
  readonly category: string;
  /** Of the last hour. */
  readonly requests: bigint;
  readonly failed: bigint;
  readonly spent: Spent;
};
/** Costs in micros of the calendar day and month (UTC), which are named as in ISO 8601. */
export type Spent = { readonly day: string; readonly dayMicros: bigint; readonly month: string; readonly monthMicros: bigint };
export type OrganizationStatistics = { readonly organizationId: string; readonly spent: Spent };

/** What a key's statistics raise. */
export function keyStatisticsFindings(facts: KeyStatistics, rules: readonly AlertRule[]): readonly AlertFinding[] {
  return rules
    .filter((rule) => watches(rule, facts))
    .flatMap((rule) => {
      const { condition, ruleId } = rule;
      if (condition.kind === 'SPENDING' && condition.subject === 'KEY')
        return spendingFindings(rule, facts, `Key "${facts.name}"`, facts.keyId);
      if (condition.kind !== 'ERROR_RATE' || facts.requests < BigInt(condition.minRequests)) return [];
      return condition.percentages
        .filter((percent) => facts.failed * 100n >= facts.requests * BigInt(percent))
        .map((percent): AlertFinding => ({
          organizationId: facts.organizationId,
          ruleId,
          kind: 'ERROR_RATE',
          keyId: facts.keyId,
          severity: 'WARNING',
          message: `${percent} % or more of the requests with key "${facts.name}" have failed: ${facts.failed} of ${facts.requests} in the last hour.`,
          details: { percent, failed: facts.failed.toString(), requests: facts.requests.toString() },
          series: `${ruleId}/${facts.keyId}/errors/${percent}`,
          windowMs: HOUR_MS,
        }));
    });
}

/** What an organization's statistics raise. */
export function organizationStatisticsFindings(facts: OrganizationStatistics, rules: readonly AlertRule[]): readonly AlertFinding[] {
  return rules
    .filter((rule) => watchesOrganization(rule) && rule.condition.kind === 'SPENDING' && rule.condition.subject === 'ORGANIZATION')
    .flatMap((rule) => spendingFindings(rule, facts, 'Your organization', null));
}

/** Once a calendar day or month and amount. */
function spendingFindings(
  { ruleId, condition }: AlertRule,
  { organizationId, spent }: { readonly organizationId: string; readonly spent: Spent },
  who: string,
  keyId: string | null,
): readonly AlertFinding[] {
  if (condition.kind !== 'SPENDING') return [];
  const { amountMicros, period } = condition;
  const [at, micros] = period === 'DAY' ? [spent.day, spent.dayMicros] : [spent.month, spent.monthMicros];
  if (micros < BigInt(amountMicros)) return [];
  return [
    {
      organizationId,
      ruleId,
      kind: 'SPENDING',
      keyId,
      severity: 'WARNING',
      message: `${who} has cost ${formatMicros(micros)} in ${at} (UTC), which is ${formatMicros(BigInt(amountMicros))} or more.`,
      details: { period, at, spentMicros: micros.toString(), amountMicros },
      series: `${ruleId}/${keyId ?? 'organization'}/spending/${at}/${amountMicros}`,
      windowMs: null,
    },
  ];
}
