import { z } from 'zod';

/** Which keys may be deleted: any, or only those that were never let through nor reported as used. */
export const DELETION_POLICIES = ['ANY_KEY', 'UNUSED_KEYS'] as const;
export type DeletionPolicy = (typeof DELETION_POLICIES)[number];

/** What an organization decides for itself. */
export const organizationSettingsSchema = z.object({
  deletionPolicy: z.enum(DELETION_POLICIES),
  quotaStatus: z.literal([429, 401]).describe('what an end client is answered whose key has used up a quota'),
  publicKeyPermissions: z.array(z.string()).nullable().describe('what PUBLIC keys may carry; null: anything'),
  keyOperationsPerHour: z
    .int()
    .nonnegative()
    .nullable()
    .describe('keys created and regenerated per actor in any hour; 0 for no limit, null: as the server is configured'),
  alertDefaults: z.object({
    quotaThresholds: z.array(z.int()).describe('percent of a quota'),
    expiringWithinDays: z.int().positive().nullable().describe('null: no alert'),
    unusedForDays: z.int().positive().nullable().describe('null: no alert'),
  }),
});
export type OrganizationSettings = Readonly<z.infer<typeof organizationSettingsSchema>>;
export type AlertDefaults = OrganizationSettings['alertDefaults'];

/** Before anybody has changed anything. The columns of `organizations` have the same defaults. */
export const DEFAULT_SETTINGS: OrganizationSettings = {
  deletionPolicy: 'ANY_KEY',
  quotaStatus: 429,
  publicKeyPermissions: null,
  keyOperationsPerHour: null,
  alertDefaults: { quotaThresholds: [50, 80, 95, 100], expiringWithinDays: 14, unusedForDays: 90 },
};

/** Settings to change; what is left out stays, of the alerts' too. */
export type SettingsChanges = Partial<Omit<OrganizationSettings, 'alertDefaults'>> & { readonly alertDefaults?: Partial<AlertDefaults> };

/** Those of the changes that make a difference, each with its whole new value. */
export function changedSettings(settings: OrganizationSettings, changes: SettingsChanges): Partial<OrganizationSettings> {
  const wanted = {
    ...settings,
    ...changes,
    alertDefaults: { ...settings.alertDefaults, ...changes.alertDefaults },
  };
  return Object.fromEntries(
    Object.entries(wanted).filter(
      ([name, value]) => JSON.stringify(value) !== JSON.stringify(settings[name as keyof OrganizationSettings]),
    ),
  );
}
