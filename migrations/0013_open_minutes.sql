-- Statistics of the minute that is not over yet stand apart, in one row a key: a fold under load changes that row alone, and hours and days are written
-- when a minute closes.

-- Sums without the numeric that sum(bigint) makes of each; beyond a bigint it fails as an addition does.
CREATE AGGREGATE add_up(bigint) (SFUNC = int8pl, STYPE = bigint);

-- What usage_counters does not have yet. Each request is counted in one of the two.
CREATE TABLE usage_open_minutes (
  slot         smallint    NOT NULL,
  key          integer     NOT NULL,
  organization integer     NOT NULL,
  at           timestamptz NOT NULL,
  requests     bigint      NOT NULL,
  succeeded    bigint      NOT NULL,
  failed       bigint      NOT NULL,
  refused      bigint      NOT NULL,
  credits      bigint      NOT NULL,
  cost_micros  bigint      NOT NULL,
  tokens_in    bigint      NOT NULL,
  tokens_out   bigint      NOT NULL,
  duration_ms  bigint      NOT NULL,
  timed        bigint      NOT NULL,
  PRIMARY KEY (slot, key, organization, at)
) PARTITION BY LIST (slot);
-- Each fold finds room for its new versions on the same page, and no index is written.
CREATE TABLE usage_open_minutes_0 PARTITION OF usage_open_minutes FOR VALUES IN (0) WITH (fillfactor = 45);
CREATE TABLE usage_open_minutes_1 PARTITION OF usage_open_minutes FOR VALUES IN (1) WITH (fillfactor = 45);
-- Finds what is to be closed.
CREATE INDEX usage_open_minutes_at ON usage_open_minutes (at);
ALTER TABLE key_last_used_0 SET (fillfactor = 45);
ALTER TABLE key_last_used_1 SET (fillfactor = 45);

-- What readers read: counters as of the checkpoint. A bucket may have several rows, which add up.
CREATE VIEW usage_sums AS
  SELECT slot, grain, organization, key, at, requests, succeeded, failed, refused, credits, cost_micros, tokens_in, tokens_out, duration_ms, timed
  FROM usage_counters
UNION ALL
  SELECT o.slot, g.grain, o.organization, o.key, date_bin(g.step, o.at, '2000-01-01T00:00:00Z'), o.requests, o.succeeded, o.failed, o.refused, o.credits, o.cost_micros,
         o.tokens_in, o.tokens_out, o.duration_ms, o.timed
  FROM usage_open_minutes o
  CROSS JOIN (VALUES (1::smallint, interval '1 minute'), (2::smallint, interval '1 hour'), (3::smallint, interval '1 day')) AS g (grain, step);

-- Which keys changed their category since the oldest request of a page.
CREATE INDEX events_recategorized_at ON events (position) WHERE type = 'Updated' AND data ->> 'category' IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON usage_open_minutes, usage_open_minutes_0, usage_open_minutes_1 TO keyledger_server;
GRANT SELECT ON usage_sums TO keyledger_server;
REVOKE ALL ON FUNCTION add_up(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION add_up(bigint) TO keyledger_server;
