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

-- Profiles: named settings that a gateway is handed with the verification of the keys that have them. The fold of the streams profile:<id>; deleting one
-- removes its row, and the foreign key of the keys lets that happen only where no key has it, whatever is changed at the same moment.
CREATE TABLE profiles (
  id              uuid    PRIMARY KEY,
  organization_id uuid    NOT NULL REFERENCES organizations,
  name            text    NOT NULL,
  name_folded     text    NOT NULL COLLATE "C",
  settings        json    NOT NULL,
  created_at      timestamptz NOT NULL,
  created_by      text    NOT NULL,
  version         integer NOT NULL,
  UNIQUE (organization_id, id)
);
CREATE UNIQUE INDEX profiles_name ON profiles (organization_id, name_folded);

-- With the organization in it, no key can have another one's profile. A deleted key has none.
ALTER TABLE api_keys ADD CONSTRAINT api_keys_profile FOREIGN KEY (organization_id, profile_id) REFERENCES profiles (organization_id, id);
CREATE INDEX api_keys_by_profile ON api_keys (profile_id) WHERE profile_id IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON profiles TO keyledger_server;
