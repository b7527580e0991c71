import { watches, watchesOrganization, type AlertRule } from './alert-rule.ts';
import { groupDigits } from '../lib/group-digits.ts';
import type { AlertFinding } from './alert.ts';
import type { AlertKind, AlertSeverity } from './alert-schemas.ts';

const HOUR_MS = 60 * 60 * 1000;
const DAY_MS = 24 * HOUR_MS;

/** How much of a cap is used. Counts are texts in `details`, since they may exceed 2^53. */
export type Use = { readonly used: bigint; readonly limit: bigint };
export type QuotaName = 'TOTAL' | 'DAILY' | 'WEEKLY' | 'MONTHLY';

/** A key with the caps that it has, as its windows stand. */
export type KeyWindowFacts = {
  readonly organizationId: string;
  readonly keyId: string;
  readonly name: string;
  readonly category: string;
  readonly quotas: readonly (Use & { readonly window: QuotaName })[];
  readonly limits: readonly (Use & { readonly unit: 'REQUESTS' | 'TOKENS' })[];
};
/** An organization's requests of a minute, over all its keys. */
export type OrganizationWindowFacts = Use & { readonly organizationId: string };

/** A quota's window, in words and as the time within which a threshold is told once. */
const QUOTAS: Readonly<Record<QuotaName, { readonly name: string; readonly span: string; readonly windowMs: number | null }>> = {
  TOTAL: { name: 'total', span: 'in all', windowMs: null },
  DAILY: { name: 'daily', span: 'in the last 24 hours', windowMs: DAY_MS },
  WEEKLY: { name: 'weekly', span: 'in the last 7 days', windowMs: 7 * DAY_MS },
  MONTHLY: { name: 'monthly', span: 'in the last 30 days', windowMs: 30 * DAY_MS },
};
/** A minute that comes near its limit each minute is one piece of news an hour. */
const RATE_LIMIT_WINDOW_MS = HOUR_MS;

/**
 * What a key's windows raise: each threshold that is reached, the lower ones too, so that it makes no difference how many were crossed between two looks.
 * The cap is part of the series: after a change of it the thresholds are new ones.
 */
export function keyWindowFindings(facts: KeyWindowFacts, rules: readonly AlertRule[]): readonly AlertFinding[] {
  return rules
    .filter((rule) => watches(rule, facts))
    .flatMap((rule): readonly AlertFinding[] => {
      const { condition } = rule;
      if (condition.kind === 'QUOTA_THRESHOLD') {
        return facts.quotas.flatMap(({ window, ...use }) =>
          reached(use, condition.percentages).map((percent) => quotaFinding(facts, rule, window, use, percent)),
        );
      }
      if (condition.kind === 'RATE_LIMIT_APPROACHED') {
        return facts.limits.flatMap(({ unit, ...use }) =>
          reached(use, condition.percentages).map((percent) => limitFinding(facts, rule, unit, use, percent)),
        );
      }
      return [];
    });
}

/** What an organization's minute raises. */
export function organizationWindowFindings(facts: OrganizationWindowFacts, rules: readonly AlertRule[]): readonly AlertFinding[] {
  return rules.filter(watchesOrganization).flatMap((rule) => {
    const { condition } = rule;
    if (condition.kind !== 'RATE_LIMIT_APPROACHED') return [];
    return reached(facts, condition.percentages).map((percent): AlertFinding => ({
      organizationId: facts.organizationId,
      ruleId: rule.ruleId,
      kind: condition.kind,
      keyId: null,
      severity: severityOf(condition.kind, percent),
      message: `Your organization has made ${counted(facts)} requests of its plan within a minute, which is ${percent} % or more of them.`,
      details: { window: 'ORGANIZATION_MINUTE', percent, ...texts(facts) },
      series: `${rule.ruleId}/organization/minute/${facts.limit}/${percent}`,
      windowMs: RATE_LIMIT_WINDOW_MS,
    }));
  });
}

function quotaFinding(facts: KeyWindowFacts, rule: AlertRule, window: QuotaName, use: Use, percent: number): AlertFinding {
  const { name, span, windowMs } = QUOTAS[window];
  const used = percent === 100 ? `all of its ${name} quota` : `${percent} % or more of its ${name} quota`;
  return {
    organizationId: facts.organizationId,
    ruleId: rule.ruleId,
    kind: 'QUOTA_THRESHOLD',
    keyId: facts.keyId,
    severity: severityOf('QUOTA_THRESHOLD', percent),
    message: `Key "${facts.name}" has used ${used}: ${counted(use)} requests ${span}.`,
    details: { window, percent, ...texts(use) },
    series: `${rule.ruleId}/${facts.keyId}/${window}/${use.limit}/${percent}`,
    windowMs,
  };
}

function limitFinding(facts: KeyWindowFacts, rule: AlertRule, unit: 'REQUESTS' | 'TOKENS', use: Use, percent: number): AlertFinding {
  return {
    organizationId: facts.organizationId,
    ruleId: rule.ruleId,
    kind: 'RATE_LIMIT_APPROACHED',
    keyId: facts.keyId,
    severity: severityOf('RATE_LIMIT_APPROACHED', percent),
    message: `Key "${facts.name}" has used ${percent} % or more of its rate limit: ${counted(use)} ${unit.toLowerCase()} within a minute.`,
    details: { window: unit === 'REQUESTS' ? 'KEY_MINUTE' : 'KEY_TOKENS', percent, ...texts(use) },
    series: `${rule.ruleId}/${facts.keyId}/${unit}/${use.limit}/${percent}`,
    windowMs: RATE_LIMIT_WINDOW_MS,
  };
}

function reached({ used, limit }: Use, percentages: readonly number[]): readonly number[] {
  return percentages.filter((percent) => used * 100n >= limit * BigInt(percent)).toSorted((a, b) => a - b);
}

function severityOf(kind: AlertKind, percent: number): AlertSeverity {
  if (kind === 'QUOTA_THRESHOLD' && percent >= 100) return 'CRITICAL';
  return percent < 80 ? 'INFO' : 'WARNING';
}

function counted({ used, limit }: Use): string {
  return `${groupDigits(used)} of ${groupDigits(limit)}`;
}

function texts({ used, limit }: Use) {
  return { used: used.toString(), limit: limit.toString() };
}
