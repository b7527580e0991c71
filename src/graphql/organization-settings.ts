import type { OrganizationResult } from '../commands/organization-commands.ts';
import { DELETION_POLICIES, type AlertDefaults, type OrganizationSettings } from '../domain/organization-settings.ts';
import type { Done } from '../ledger/run-command.ts';
import type { Builder } from './builder.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import { loadOwnOrganization, type OrganizationRow, type TypeRefs } from './type-refs.ts';

export type OrganizationSettingsRef = ReturnType<typeof addOrganizationSettings>;

/** The type `OrganizationSettings`, and the mutation that changes them. */
export function addOrganizationSettings(builder: Builder, types: TypeRefs, refusals: RefusalTypes) {
  const deletionPolicy = builder.enumType('DeletionPolicy', {
    values: DELETION_POLICIES,
    description: 'UNUSED_KEYS: a key that was ever let through, or reported as used, can only be deactivated.',
  });
  const alertDefaults = builder.objectRef<AlertDefaults>('AlertDefaults').implement({
    description: 'When the alerts are raised that nobody has set up otherwise.',
    fields: (t) => ({
      quotaThresholds: t.intList({ description: 'Percent of a quota.', resolve: ({ quotaThresholds }) => [...quotaThresholds] }),
      expiringWithinDays: t.exposeInt('expiringWithinDays', { nullable: true, description: 'Null: no alert.' }),
      unusedForDays: t.exposeInt('unusedForDays', { nullable: true, description: 'Null: no alert.' }),
    }),
  });
  const settings = builder.objectRef<OrganizationSettings>('OrganizationSettings').implement({
    description: 'What an organization decides for itself; a change holds at once on every server.',
    fields: (t) => ({
      deletionPolicy: t.field({ type: deletionPolicy, resolve: (decided) => decided.deletionPolicy }),
      quotaStatus: t.exposeInt('quotaStatus', { description: 'What an end client is answered whose key has used up a quota: 429 or 401.' }),
      publicKeyPermissions: t.stringList({
        nullable: true,
        description: 'What PUBLIC keys may carry; null: anything.',
        resolve: ({ publicKeyPermissions }) => (publicKeyPermissions === null ? null : [...publicKeyPermissions]),
      }),
      keyOperationsPerHour: t.exposeInt('keyOperationsPerHour', {
        nullable: true,
        description: 'Keys created and regenerated per actor in any hour; 0 for no limit, null: as the server is configured.',
      }),
      alertDefaults: t.field({ type: alertDefaults, resolve: (decided) => decided.alertDefaults }),
    }),
  });
  builder.objectField(types.organization, 'settings', (t) =>
    t.field({ type: settings, authScopes: { permission: 'organization:read' }, resolve: settingsOf }),
  );
  const alertDefaultsInput = builder.inputType('AlertDefaultsInput', {
    description: 'What is left out stays; null days: no such alert.',
    fields: (t) => ({
      quotaThresholds: t.intList({ description: '10 at most, each 1 to 100 percent.' }),
      expiringWithinDays: t.int(),
      unusedForDays: t.int(),
    }),
  });
  addMutation<Done<OrganizationResult>>(builder, refusals, {
    name: 'updateOrganizationSettings',
    description:
      'What is left out stays; null puts `publicKeyPermissions` back to anything and `keyOperationsPerHour` to what the server is configured for. PUBLIC keys that carry more than is allowed from now on keep it until their permissions are changed.',
    permissions: ['organization:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      deletionPolicy: t.field({ type: deletionPolicy }),
      quotaStatus: t.int({ description: '429 or 401.' }),
      publicKeyPermissions: t.stringList(),
      keyOperationsPerHour: t.int(),
      alertDefaults: t.field({ type: alertDefaultsInput }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      organization: t.field({ type: types.organization, resolve: (_done, _args, context) => loadOwnOrganization(context) }),
    }),
    run: (actor, input, { deps }) => deps.organizations.changeSettings(actor, input),
  });
  return settings;
}

function settingsOf(row: OrganizationRow): OrganizationSettings {
  return {
    deletionPolicy: row.deletion_policy,
    quotaStatus: row.quota_status,
    publicKeyPermissions: row.public_key_permissions,
    keyOperationsPerHour: row.key_operations_per_hour,
    alertDefaults: {
      quotaThresholds: row.alert_quota_thresholds,
      expiringWithinDays: row.alert_expiring_within_days,
      unusedForDays: row.alert_unused_for_days,
    },
  };
}
