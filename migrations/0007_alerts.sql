-- Alerts: the rules of organizations, what they raised, and how far the log was evaluated for them.

-- Rules that an organization has set. A default rule that nobody has changed has no row: it stands in src/domain/alert-defaults.ts.
CREATE TABLE alert_rules (
  id              uuid    PRIMARY KEY,
  organization_id uuid    NOT NULL REFERENCES organizations,
  kind            text    NOT NULL,
  condition       json    NOT NULL,
  enabled         boolean NOT NULL,
  category        text,             -- keys of this category alone
  key_id          uuid,             -- this key alone
  deleted         boolean NOT NULL DEFAULT false,
  created_at      timestamptz NOT NULL,
  version         integer NOT NULL
);
CREATE INDEX alert_rules_by_organization ON alert_rules (organization_id, id) WHERE NOT deleted;

-- What was raised. `series` names a rule, what it watched and the threshold that was crossed; each further window in which that happens again has the
-- next ordinal. So the one unique index is what makes an alert be raised once per rule, key and window, whoever evaluates at the same time.
CREATE TABLE alerts (
  id              uuid     PRIMARY KEY,
  organization_id uuid     NOT NULL REFERENCES organizations,
  rule_id         uuid     NOT NULL,
  kind            text     NOT NULL,
  key_id          uuid,
  severity        text     NOT NULL CHECK (severity IN ('INFO', 'WARNING', 'CRITICAL')),
  message         text     NOT NULL,
  details         json     NOT NULL,
  series          text     NOT NULL COLLATE "C",
  ordinal         integer  NOT NULL CHECK (ordinal > 0),
  position        bigint   NOT NULL,
  raised_at       timestamptz NOT NULL,
  acknowledged_at timestamptz,
  acknowledged_by text,
  version         integer  NOT NULL
);
CREATE UNIQUE INDEX alerts_once ON alerts (series, ordinal);
CREATE INDEX alerts_by_organization ON alerts (organization_id, position);
CREATE INDEX alerts_by_key ON alerts (key_id, position);

-- Up to which position each evaluation has seen the log. Seeing an event twice is harmless, leaving one out is
-- not: it moves when what was found is committed.
CREATE TABLE alert_progress (
  name     text   PRIMARY KEY COLLATE "C",
  position bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
-- 'activity' counts hours since 1970 instead: the last one that was judged.
INSERT INTO alert_progress (name) VALUES ('windows'), ('statistics'), ('activity');

GRANT SELECT, INSERT, UPDATE ON alert_rules, alerts TO keyledger_server;
GRANT SELECT, UPDATE ON alert_progress TO keyledger_server;
