import { z } from 'zod';

import { DELETION_POLICIES, type SettingsChanges } from '../domain/organization-settings.ts';
import { idempotencyKeySchema, permissions } from './key-input.ts';

const MAX_OPERATIONS_PER_HOUR = 1_000_000;
const MAX_DAYS = 3650;

const days = z
  .int('give a whole number of days')
  .min(1, `give 1 to ${MAX_DAYS} days, or null for no alert`)
  .max(MAX_DAYS, `give 1 to ${MAX_DAYS} days, or null for no alert`)
  .nullish();

const alertDefaults = z.strictObject({
  quotaThresholds: z
    .array(z.int('give whole percents').min(1, 'give 1 to 100 percent').max(100, 'give 1 to 100 percent'))
    .max(10, 'give 10 thresholds at most')
    .transform((list) => [...new Set(list)].toSorted((one, other) => one - other))
    .nullish(),
  expiringWithinDays: days,
  unusedForDays: days,
});

/** `updateOrganizationSettings`' input: what is left out stays; null puts back to "any" or "as configured", or says "no such alert". */
export const updateSettingsSchema = z.strictObject({
  organizationId: z.uuid(),
  deletionPolicy: z.enum(DELETION_POLICIES).nullish(),
  quotaStatus: z.literal([429, 401], 'give 429 or 401').nullish(),
  publicKeyPermissions: permissions.nullish(),
  keyOperationsPerHour: z
    .int('give a whole number')
    .min(0, 'give 0 for no limit, or more')
    .max(MAX_OPERATIONS_PER_HOUR, `give ${MAX_OPERATIONS_PER_HOUR} at most, or 0 for no limit`)
    .nullish(),
  alertDefaults: alertDefaults.nullish(),
  idempotencyKey: idempotencyKeySchema,
});

type Given = Omit<z.output<typeof updateSettingsSchema>, 'organizationId' | 'idempotencyKey'>;

/** What was given, without what was left out; null only where it means something. */
export function settingsChanges({ alertDefaults: alerts, ...given }: Given): SettingsChanges {
  const changes = known(given, ['publicKeyPermissions', 'keyOperationsPerHour']);
  return alerts == null ? changes : { ...changes, alertDefaults: known(alerts, ['expiringWithinDays', 'unusedForDays']) };
}

function known(given: Readonly<Record<string, unknown>>, nullable: readonly string[]): Readonly<Record<string, never>> {
  return Object.fromEntries(
    Object.entries(given).filter(([name, value]) => value !== undefined && (value !== null || nullable.includes(name))),
  ) as Readonly<Record<string, never>>; // each value is of its schema's type
}
