-- What the projectors keep: counters of usage, when a key was last used, and where each projector stands in the log.
-- Everything here can be thrown away and folded anew: each table has two slots, one that is read and one in which a rebuild fills the next version.

-- One row a projection and slot. Its lock is the leader lock: whoever holds the row folds the next page, and commits the checkpoint with what it wrote.
CREATE TABLE projections (
  name       text        NOT NULL COLLATE "C",
  slot       smallint    NOT NULL CHECK (slot IN (0, 1)),
  state      text        NOT NULL CHECK (state IN ('live', 'building', 'retired')),
  position   bigint      NOT NULL DEFAULT 0,  -- everything up to here is folded
  started_at timestamptz,                     -- of the rebuild that is filling, or has filled, the slot
  PRIMARY KEY (name, slot)
) WITH (fillfactor = 20);  -- two rows that change all the time: each new version finds room on its page
CREATE UNIQUE INDEX projections_live ON projections (name) WHERE state = 'live';
CREATE UNIQUE INDEX projections_building ON projections (name) WHERE state = 'building';
INSERT INTO projections (name, slot, state) VALUES ('usage', 0, 'live'), ('usage', 1, 'retired');

-- Events that a projection of statistics could not apply. It goes on without them; whoever reads this decides, and a rebuild tries them again.
CREATE TABLE parked_events (
  projection text        NOT NULL COLLATE "C",
  slot       smallint    NOT NULL,
  position   bigint      NOT NULL,
  reason     text        NOT NULL,
  parked_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (projection, slot, position)
);

-- Categories by number, so that one takes the place of a key in the counters. Only a dictionary: both slots share it, and a rebuild keeps it.
CREATE TABLE usage_categories (
  organization integer NOT NULL,
  category     text    NOT NULL,
  number       integer GENERATED ALWAYS AS IDENTITY UNIQUE,
  PRIMARY KEY (organization, category)
);

-- A request counts to the category that its key had when it was recorded. Few keys ever change theirs; this finds whether one did.
CREATE INDEX events_recategorized ON events (stream) WHERE type = 'Updated' AND data ->> 'category' IS NOT NULL;

-- Counters a key and minute, hour and day (UTC), and beside them the whole organization's, as key 0, and each category's, as minus its number, so that
-- their year reads as few rows as a key's.
CREATE TABLE usage_counters (
  slot         smallint    NOT NULL,
  grain        smallint    NOT NULL,  -- 1 minute, 2 hour, 3 day
  organization integer     NOT NULL,
  key          integer     NOT NULL,
  at           timestamptz NOT NULL,  -- where the bucket begins
  requests     bigint      NOT NULL,
  succeeded    bigint      NOT NULL,
  failed       bigint      NOT NULL,
  refused      bigint      NOT NULL,
  credits      bigint      NOT NULL,
  cost_micros  bigint      NOT NULL,
  tokens_in    bigint      NOT NULL,
  tokens_out   bigint      NOT NULL,
  duration_ms  bigint      NOT NULL,  -- sum over the requests whose duration is known,
  timed        bigint      NOT NULL,  -- which are so many
  PRIMARY KEY (slot, grain, organization, key, at)
) PARTITION BY LIST (slot);

-- The same buckets by refusal code and by model.
CREATE TABLE usage_breakdown (
  slot         smallint    NOT NULL,
  grain        smallint    NOT NULL,
  organization integer     NOT NULL,
  key          integer     NOT NULL,
  at           timestamptz NOT NULL,
  dimension    smallint    NOT NULL,  -- 1 refusal code (its number), 2 model
  value        text        NOT NULL COLLATE "C",
  events       bigint      NOT NULL,
  PRIMARY KEY (slot, grain, organization, key, at, dimension, value)
) PARTITION BY LIST (slot);

-- The newest moment at which a key, or by minus its number a category, was let through, or its use reported.
CREATE TABLE key_last_used (
  slot             smallint    NOT NULL,
  key              integer     NOT NULL,
  organization     integer     NOT NULL,
  last_used_at     timestamptz NOT NULL,
  -- What lists are sorted by first: an index on the moment itself would have to be written at each fold of each key in use, this one once a minute.
  last_used_minute timestamptz GENERATED ALWAYS AS (date_bin('1 minute', last_used_at, '2000-01-01T00:00:00Z')) STORED,
  PRIMARY KEY (slot, key)
) PARTITION BY LIST (slot);
CREATE INDEX key_last_used_recently ON key_last_used (organization, last_used_minute);

-- Lists of keys by expiry and by use; the rest of their orders is in migration 0002.
CREATE INDEX api_keys_by_expiry ON api_keys (organization_id, coalesce(expires_at, 'infinity'::timestamptz), id);
CREATE INDEX api_keys_by_id ON api_keys (organization_id, id) INCLUDE (number);

DO $$
DECLARE
  name text;
BEGIN
  FOR slot IN 0..1 LOOP
    EXECUTE format('CREATE TABLE key_last_used_%s PARTITION OF key_last_used FOR VALUES IN (%s) WITH (fillfactor = 70)', slot, slot);
    FOREACH name IN ARRAY ARRAY['usage_counters', 'usage_breakdown'] LOOP
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES IN (%s) PARTITION BY LIST (grain)', name || '_' || slot, name, slot);
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES IN (1) WITH (fillfactor = 80)', name || '_' || slot || '_minute', name || '_' || slot);
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES IN (2) WITH (fillfactor = 80)', name || '_' || slot || '_hour', name || '_' || slot);
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES IN (3) WITH (fillfactor = 80)', name || '_' || slot || '_day', name || '_' || slot);
      -- Minutes are erased after some days; they stand in the table about in the order of time, so this smallest of indexes finds the old ones.
      EXECUTE format('CREATE INDEX ON %I USING brin (at) WITH (pages_per_range = 16)', name || '_' || slot || '_minute');
      -- Finds which keys were used in an hour at all, for the rule of unusual activity.
      EXECUTE format('CREATE INDEX ON %I USING brin (at) WITH (pages_per_range = 16)', name || '_' || slot || '_hour');
    END LOOP;
  END LOOP;
END $$;

GRANT SELECT, UPDATE ON projections TO keyledger_server;
GRANT SELECT, INSERT, DELETE ON parked_events TO keyledger_server;
GRANT SELECT, INSERT, UPDATE ON usage_categories TO keyledger_server;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON usage_counters, usage_breakdown, key_last_used,
  usage_counters_0, usage_counters_1, usage_breakdown_0, usage_breakdown_1, key_last_used_0, key_last_used_1 TO keyledger_server;
GRANT SELECT, DELETE ON usage_counters_0_minute, usage_counters_1_minute, usage_breakdown_0_minute, usage_breakdown_1_minute TO keyledger_server;
