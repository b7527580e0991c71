import type { AlertCondition } from './alert-schemas.ts';
import type { AlertDefaults } from './organization-settings.ts';

/** From this balance down keys are suspended (see FundsAdded); told by every LOW_BALANCE rule besides its own amount. */
export const SUSPENDING_BALANCE_MICROS = 50_000;

/**
 * The rules that every organization has without setting anything, one of a kind. Three follow the organization's settings until they are changed
 * themselves. SPENDING is not among them: it needs an amount. docs/alerts.md shows the same table.
 */
export function defaultConditions(settings: AlertDefaults): readonly { readonly condition: AlertCondition; readonly enabled: boolean }[] {
  const { quotaThresholds, expiringWithinDays, unusedForDays } = settings;
  return [
    { condition: { kind: 'RATE_LIMIT_APPROACHED', percentages: [80] }, enabled: true },
    { condition: { kind: 'QUOTA_THRESHOLD', percentages: [...quotaThresholds] }, enabled: quotaThresholds.length > 0 },
    { condition: { kind: 'ERROR_RATE', percentages: [20], minRequests: 50 }, enabled: true },
    { condition: { kind: 'UNUSED_KEY', days: unusedForDays === null ? [] : [unusedForDays] }, enabled: unusedForDays !== null },
    { condition: { kind: 'LOW_BALANCE', amountMicros: 1_000_000 }, enabled: true },
    {
      condition: { kind: 'EXPIRING_SOON', days: expiringWithinDays === null ? [] : [expiringWithinDays] },
      enabled: expiringWithinDays !== null,
    },
    { condition: { kind: 'ROTATION_DUE', everyDays: null }, enabled: true },
    { condition: { kind: 'UNUSUAL_ACTIVITY' }, enabled: true },
  ];
}
