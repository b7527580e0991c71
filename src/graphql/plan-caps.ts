import type { PlanCaps } from '../domain/plan.ts';
import type { Builder } from './builder.ts';

export type PlanCapsRef = ReturnType<typeof addPlanCaps>;

/** The type `PlanCaps`, of an organization now and in the past. */
export function addPlanCaps(builder: Builder) {
  return builder.objectRef<PlanCaps>('PlanCaps').implement({
    description: 'What all keys of an organization may ask together, in any second and in any minute; null is no cap.',
    fields: (t) => ({
      requestsPerSecond: t.exposeFloat('requestsPerSecond', { nullable: true }),
      requestsPerMinute: t.exposeFloat('requestsPerMinute', { nullable: true }),
    }),
  });
}
