-- Webhooks: who wants which events (folded from the log), what they are signed with, what is to be delivered, and what became of each attempt.

-- The fold of the streams `webhook:<id>`.
CREATE TABLE webhook_endpoints (
  id              uuid    PRIMARY KEY,
  organization_id uuid    NOT NULL REFERENCES organizations,
  url             text    NOT NULL,
  description     text    NOT NULL,
  event_types     text[]  NOT NULL,
  state           text    NOT NULL CHECK (state IN ('active', 'inactive', 'deleted')),
  inactive_reason text    CHECK (inactive_reason IN ('REQUESTED', 'GONE', 'FAILING')),
  active_since    timestamptz NOT NULL,  -- of what happened before, nothing is delivered
  created_at      timestamptz NOT NULL,
  created_by      text    NOT NULL,
  secret_created_at timestamptz NOT NULL,
  version         integer NOT NULL,
  CHECK ((state = 'inactive') = (inactive_reason IS NOT NULL))
);
CREATE INDEX webhook_endpoints_by_organization ON webhook_endpoints (organization_id, id) WHERE state <> 'deleted';

-- The signing secrets, sealed under a key from the server's pepper, so that a copy of the database signs nothing. Erased with the endpoint.
CREATE TABLE webhook_secrets (
  endpoint_id uuid  NOT NULL REFERENCES webhook_endpoints,
  fingerprint text  NOT NULL,            -- SHA-256 of the secret in hex, as it stands in the log
  pepper_id   text  NOT NULL COLLATE "C",
  sealed      bytea NOT NULL,
  expires_at  timestamptz,               -- a replaced secret's last moment
  created_at  timestamptz NOT NULL,
  PRIMARY KEY (endpoint_id, fingerprint)
);
CREATE UNIQUE INDEX webhook_secrets_current ON webhook_secrets (endpoint_id) WHERE expires_at IS NULL;
CREATE INDEX webhook_secrets_by_pepper ON webhook_secrets (pepper_id);

-- How an endpoint has been doing. Not derived from the log, and worth nothing when lost.
CREATE TABLE webhook_health (
  endpoint_id   uuid PRIMARY KEY REFERENCES webhook_endpoints,
  failing_since timestamptz,             -- the first failure since the last success
  troubled      boolean NOT NULL DEFAULT false,  -- the last attempt failed or was slow: one attempt at a time, and apart from the others
  rests_until   timestamptz              -- it asked to be left alone (Retry-After)
) WITH (fillfactor = 70);

-- One row an endpoint and event. A claim is `next_attempt_at` set to when it lapses: whoever dies in between leaves the row to be found again.
CREATE TABLE webhook_deliveries (
  id              uuid    PRIMARY KEY DEFAULT uuidv7(),
  endpoint_id     uuid    NOT NULL REFERENCES webhook_endpoints,
  organization_id uuid    NOT NULL,
  event_position  bigint  NOT NULL REFERENCES events,
  state           text    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
  next_attempt_at timestamptz,
  failures        integer NOT NULL DEFAULT 0,  -- in a row, since it was made or asked for again
  claims          integer NOT NULL DEFAULT 0,  -- counts claims, so that who comes back late finds that another took over
  created_at      timestamptz NOT NULL,
  finished_at     timestamptz,
  UNIQUE (endpoint_id, event_position),
  CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (endpoint_id, next_attempt_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_finished ON webhook_deliveries (finished_at) WHERE finished_at IS NOT NULL;

-- The delivery log: one row an attempt.
CREATE TABLE webhook_attempts (
  id            uuid        PRIMARY KEY DEFAULT uuidv7(),
  delivery_id   uuid        NOT NULL REFERENCES webhook_deliveries ON DELETE CASCADE,
  at            timestamptz NOT NULL,
  duration_ms   integer     NOT NULL,
  status        smallint,                -- NULL where no answer came
  error         text,                    -- why it was no success
  response_head text                     -- the first bytes of the answer's body
);
CREATE INDEX webhook_attempts_by_delivery ON webhook_attempts (delivery_id, id);

-- Deliveries are made by a projector. It begins here: before this migration nobody asked for any.
INSERT INTO projections (name, slot, state, position) VALUES ('webhooks', 0, 'live', head_position());

GRANT SELECT, INSERT, UPDATE ON webhook_endpoints TO keyledger_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_secrets, webhook_health, webhook_deliveries, webhook_attempts TO keyledger_server;
