import { SUSPENDING_BALANCE_MICROS } from './alert-defaults.ts';
import { watchesOrganization, type AlertRule } from './alert-rule.ts';
import type { AlertFinding } from './alert.ts';
import { formatMicros } from './format-micros.ts';

export type BalanceFacts = {
  readonly organizationId: string;
  readonly micros: bigint;
  /** Position of the event that last added funds, or switched the balance off, after which every amount can be fallen to again; 0 where none did. */
  readonly fundedAt: bigint;
};

/** What a prepaid balance raises: once for each amount after funds were added. */
export function balanceFindings({ organizationId, micros, fundedAt }: BalanceFacts, rules: readonly AlertRule[]): readonly AlertFinding[] {
  return rules.filter(watchesOrganization).flatMap(({ ruleId, condition }) => {
    if (condition.kind !== 'LOW_BALANCE') return [];
    const amounts = new Set([condition.amountMicros, SUSPENDING_BALANCE_MICROS]);
    return [...amounts]
      .filter((amount) => micros <= BigInt(amount))
      .map((amountMicros): AlertFinding => {
        const suspended = amountMicros <= SUSPENDING_BALANCE_MICROS;
        return {
          organizationId,
          ruleId,
          kind: 'LOW_BALANCE',
          keyId: null,
          severity: suspended ? 'CRITICAL' : 'WARNING',
          message: suspended
            ? `The balance is ${formatMicros(micros)}: your organization's keys are suspended until funds are added.`
            : `The balance has fallen to ${formatMicros(micros)}, which is ${formatMicros(BigInt(amountMicros))} or less.`,
          details: { balanceMicros: micros.toString(), amountMicros },
          series: `${ruleId}/balance/${fundedAt}/${amountMicros}`,
          windowMs: null,
        };
      });
  });
}
