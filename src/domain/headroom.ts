import { watches, watchesOrganization, type AlertRule } from './alert-rule.ts';
import { SUSPENDING_BALANCE_MICROS } from './alert-defaults.ts';
import type { KeyWindowFacts, OrganizationWindowFacts, Use } from './window-alerts.ts';

/**
 * How much more may be used before the nearest threshold that is not reached yet can be, in the units of the windows; Infinity where there is none. Time only
 * lowers what windows hold, so that it holds until that much is used, or a cap or a rule changes.
 */
export type Headroom = { readonly credits: number; readonly tokens: number; readonly costMicros: number };

export const BOUNDLESS: Headroom = { credits: Infinity, tokens: Infinity, costMicros: Infinity };

/** Of a key, by the rules that watch it. */
export function keyHeadroom(facts: KeyWindowFacts, rules: readonly AlertRule[]): Headroom {
  const watching = rules.filter((rule) => watches(rule, facts));
  const quotaPercentages = percentagesOf(watching, 'QUOTA_THRESHOLD');
  const limitPercentages = percentagesOf(watching, 'RATE_LIMIT_APPROACHED');
  const limits = (unit: 'REQUESTS' | 'TOKENS') =>
    facts.limits.filter((limit) => limit.unit === unit).map((limit) => untilNext(limit, limitPercentages));
  return {
    credits: Math.min(...facts.quotas.map((quota) => untilNext(quota, quotaPercentages)), ...limits('REQUESTS')),
    tokens: Math.min(...limits('TOKENS')),
    costMicros: Infinity,
  };
}

/** Of an organization: its requests of a minute, where its plan has a limit, and its prepaid balance, where it has one. */
export function organizationHeadroom(
  minute: OrganizationWindowFacts | null,
  balanceMicros: bigint | null,
  rules: readonly AlertRule[],
): Headroom {
  const watching = rules.filter(watchesOrganization);
  const amounts = watching.flatMap(({ condition }) =>
    condition.kind === 'LOW_BALANCE' ? [BigInt(condition.amountMicros), BigInt(SUSPENDING_BALANCE_MICROS)] : [],
  );
  return {
    credits: minute === null ? Infinity : untilNext(minute, percentagesOf(watching, 'RATE_LIMIT_APPROACHED')),
    tokens: Infinity,
    costMicros:
      balanceMicros === null
        ? Infinity
        : Math.min(...amounts.filter((amount) => amount < balanceMicros).map((amount) => Number(balanceMicros - amount))),
  };
}

function percentagesOf(rules: readonly AlertRule[], kind: 'QUOTA_THRESHOLD' | 'RATE_LIMIT_APPROACHED'): readonly number[] {
  return rules.flatMap(({ condition }) => (condition.kind === kind ? condition.percentages : []));
}

function untilNext({ used, limit }: Use, percentages: readonly number[]): number {
  const open = percentages.map((percent) => limit * BigInt(percent) - used * 100n).filter((missing) => missing > 0n);
  // Rounded up: a threshold is reached by whole units.
  return Math.min(...open.map((missing) => Number((missing + 99n) / 100n)));
}
