-- The state that access is decided on, kept by the transaction that appends: organizations, members, tokens, keys and their verifiers.
-- Each table is the fold of the log's events, but for `people` (erasable), the verifiers' secrets material and `idempotency`.

CREATE TABLE organizations (
  id         uuid    PRIMARY KEY,
  number     integer NOT NULL UNIQUE,
  name       text    NOT NULL,
  plan       text    NOT NULL,
  team       boolean NOT NULL,         -- whose members' personal keys are archived while they belong to it
  requests_per_second bigint,  -- over all keys; NULL for no cap
  requests_per_minute bigint,
  created_at timestamptz NOT NULL,
  version    integer NOT NULL
);
CREATE SEQUENCE organization_numbers AS integer;

CREATE TABLE members (
  organization_id uuid NOT NULL REFERENCES organizations,
  id              uuid NOT NULL,
  role            text NOT NULL CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER', 'AUDITOR')),
  person_id       uuid,             -- who it is in the histories of persons; NULL: known by the member id itself
  joined_at       timestamptz NOT NULL,
  removed_at      timestamptz,
  PRIMARY KEY (organization_id, id)
);

-- Names and addresses of people stand here alone, so that they can be erased; the log holds ids.
CREATE TABLE people (
  organization_id uuid NOT NULL,
  member_id       uuid NOT NULL,
  name            text,
  email           text,
  oidc_subject    text,
  PRIMARY KEY (organization_id, member_id),
  UNIQUE (organization_id, oidc_subject)
);

CREATE TABLE access_tokens (
  token_hash      bytea PRIMARY KEY CHECK (length(token_hash) = 32),
  id              uuid  NOT NULL UNIQUE,
  organization_id uuid  NOT NULL REFERENCES organizations,
  name            text  NOT NULL,
  member_id       uuid,             -- a member's token acts as the member; a token without one is a service's
  permissions     text[],           -- NULL: the member's role decides
  issued_at       timestamptz NOT NULL,
  issued_by       text NOT NULL,
  expires_at      timestamptz,
  revoked_at      timestamptz,
  CHECK (member_id IS NOT NULL OR permissions IS NOT NULL)
);
CREATE INDEX access_tokens_by_organization ON access_tokens (organization_id, issued_at);

CREATE TABLE api_keys (
  id              uuid    PRIMARY KEY,
  number          integer NOT NULL UNIQUE,
  organization_id uuid    NOT NULL REFERENCES organizations,
  name            text    NOT NULL,
  name_folded     text    NOT NULL COLLATE "C",
  type            text    NOT NULL CHECK (type IN ('PUBLIC', 'SECRET', 'TEST')),
  category        text    NOT NULL,
  state           text    NOT NULL CHECK (state IN ('active', 'inactive', 'deleted')),
  permissions     text[]  NOT NULL,
  expires_at      timestamptz,
  expired_event   boolean NOT NULL DEFAULT false,  -- the Expired event for this expires_at stands in the log
  profile_id      uuid,
  metadata        json    NOT NULL,
  ip_allowlist    cidr[]  NOT NULL,
  allowed_origins text[]  NOT NULL,
  owner_id        uuid,             -- a personal key's member
  archived        boolean NOT NULL DEFAULT false,
  quota_total     bigint,
  quota_daily     bigint,
  quota_weekly    bigint,
  quota_monthly   bigint,
  requests_per_minute bigint,
  tokens_per_minute   bigint,
  rotate_every_days   integer,
  masked          text NOT NULL,
  created_at      timestamptz NOT NULL,
  created_by      text NOT NULL,
  secret_created_at timestamptz NOT NULL,
  version         integer NOT NULL
);
CREATE SEQUENCE api_key_numbers AS integer;
CREATE UNIQUE INDEX api_keys_name ON api_keys (organization_id, name_folded) WHERE state <> 'deleted';
CREATE INDEX api_keys_by_creation ON api_keys (organization_id, created_at, id);
CREATE INDEX api_keys_due_to_expire ON api_keys (expires_at) WHERE expires_at IS NOT NULL AND NOT expired_event AND state <> 'deleted';

-- Two verifiers a secret: the durable argon2id string and the fast keyed MAC (see docs/architecture.md). Erased with the key.
CREATE TABLE key_verifiers (
  lookup_id  text  PRIMARY KEY COLLATE "C",
  key_id     uuid  NOT NULL REFERENCES api_keys,
  key        integer NOT NULL,      -- its number, by which the windows and the usage of a key are found
  argon2     text  NOT NULL,
  pepper_id  text  NOT NULL COLLATE "C",
  mac        bytea NOT NULL CHECK (length(mac) = 32),
  current    boolean NOT NULL,
  expires_at timestamptz,           -- an outdated secret's last moment
  created_at timestamptz NOT NULL,
  CHECK (current OR expires_at IS NOT NULL)
);
CREATE UNIQUE INDEX key_verifiers_current ON key_verifiers (key_id) WHERE current;
CREATE INDEX key_verifiers_by_key ON key_verifiers (key_id);

-- What a mutation answered, by actor and the hash of the idempotency key; written by the transaction that appended.
-- `sealed_secret` can be opened only with the server's pepper and the idempotency key itself, for an hour.
CREATE TABLE idempotency (
  actor         text  NOT NULL COLLATE "C",
  key_hash      bytea NOT NULL CHECK (length(key_hash) = 32),
  input_hash    bytea NOT NULL CHECK (length(input_hash) = 32),
  operation     text  NOT NULL,
  result        json  NOT NULL,
  sealed_secret bytea,
  subject_id    uuid,
  position      bigint NOT NULL,
  recorded_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (actor, key_hash)
);
CREATE INDEX idempotency_by_age ON idempotency (recorded_at);
CREATE INDEX idempotency_sealed ON idempotency (subject_id) WHERE sealed_secret IS NOT NULL;

-- One log with one envelope over both kinds of row.
CREATE VIEW ledger_usage AS
  SELECT u.position, o.id AS organization_id, 'key:' || k.id AS stream, NULL::integer AS version,
         CASE u.kind WHEN 3 THEN 'UsageSettled' ELSE 'UsageRecorded' END AS type, 1::smallint AS schema_version, NULL::text AS actor, u.recorded_at,
         json_strip_nulls(json_build_object(
           'keyId', k.id, 'kind', u.kind, 'code', u.code, 'credits', u.credits, 'status', u.status, 'durationMs', u.duration_ms,
           'occurredAt', u.occurred_at, 'settles', u.settles::text, 'costMicros', u.cost_micros::text, 'tokensIn', u.tokens_in::text,
           'tokensOut', u.tokens_out::text, 'ip', host(u.ip), 'endpoint', u.endpoint, 'model', u.model, 'requestId', u.request_id, 'detail', u.detail))::text AS data
  FROM usage_events u
  JOIN api_keys k ON k.number = u.key
  JOIN organizations o ON o.number = u.organization;
CREATE VIEW ledger AS
  SELECT e.position, e.organization_id, e.stream, e.version, e.type, e.schema_version, e.actor, e.recorded_at, e.data::text AS data
  FROM events e
UNION ALL
  SELECT position, organization_id, stream, version, type, schema_version, actor, recorded_at, data FROM ledger_usage;

-- Least privilege: of the log, reading and appending; of the state, what its projection writes.
GRANT USAGE ON SCHEMA keyledger TO keyledger_server;
GRANT SELECT, INSERT ON events, usage_events TO keyledger_server;
GRANT SELECT ON usage_partitions, ledger, ledger_usage TO keyledger_server;
GRANT SELECT, INSERT, UPDATE ON organizations, members, access_tokens, api_keys TO keyledger_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON people, key_verifiers, idempotency TO keyledger_server;
GRANT USAGE ON SEQUENCE organization_numbers, api_key_numbers TO keyledger_server;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA keyledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_now(), reserve_positions(), head_position(), ensure_usage_partitions(integer), refuse_change(),
  append TO keyledger_server;
