-- What an organization decides for itself, kept by the transaction that appends: the fold of OrganizationSettingsChanged, of which src/domain/organization-settings.ts
-- has the meaning and the defaults.

ALTER TABLE organizations
  ADD COLUMN deletion_policy          text      NOT NULL DEFAULT 'ANY_KEY' CHECK (deletion_policy IN ('ANY_KEY', 'UNUSED_KEYS')),
  ADD COLUMN quota_status             smallint  NOT NULL DEFAULT 429 CHECK (quota_status IN (429, 401)),
  ADD COLUMN public_key_permissions   text[],   -- NULL: any
  ADD COLUMN key_operations_per_hour  integer,  -- NULL: KEY_OPERATIONS_PER_HOUR decides; 0 for no limit
  ADD COLUMN alert_quota_thresholds   integer[] NOT NULL DEFAULT '{50,80,95,100}',
  ADD COLUMN alert_expiring_within_days integer DEFAULT 14,  -- NULL: no such alert
  ADD COLUMN alert_unused_for_days    integer   DEFAULT 90;
