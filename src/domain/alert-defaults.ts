import type { AlertCondition } from './alert-schemas.ts';

/**
 * The rules that every organization has without setting anything, one of a kind. SPENDING and LOW_BALANCE are not among them: they need an amount.
 * docs/alerts.md shows the same table.
 */
export const DEFAULT_ALERT_CONDITIONS: readonly AlertCondition[] = [
  { kind: 'RATE_LIMIT_APPROACHED', percentages: [80] },
  { kind: 'QUOTA_THRESHOLD', percentages: [50, 80, 95, 100] },
  { kind: 'ERROR_RATE', percentages: [20], minRequests: 50 },
  { kind: 'UNUSED_KEY', days: [90] },
  { kind: 'EXPIRING_SOON', days: [7, 1] },
  { kind: 'ROTATION_DUE', everyDays: null },
  { kind: 'UNUSUAL_ACTIVITY' },
];
