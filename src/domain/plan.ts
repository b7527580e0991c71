/** What an organization may ask in all, over all its keys; null for no cap. Both windows roll. */
export type PlanCaps = { readonly requestsPerSecond: number | null; readonly requestsPerMinute: number | null };

export const PLAN_NAMES = ['FREE', 'BASIC', 'PRO', 'ENTERPRISE'] as const;
export type PlanName = (typeof PLAN_NAMES)[number];

/** The plans as data. An ENTERPRISE organization has the caps that were agreed with it, none unless some were. */
export const PLANS: Readonly<Record<PlanName, PlanCaps>> = {
  FREE: { requestsPerSecond: null, requestsPerMinute: 100 },
  BASIC: { requestsPerSecond: null, requestsPerMinute: 1_000 },
  PRO: { requestsPerSecond: null, requestsPerMinute: 10_000 },
  ENTERPRISE: { requestsPerSecond: null, requestsPerMinute: null },
};
