-- The log: life-cycle events, usage events, one numbering over both, and what keeps them immutable.
-- Runs as the owner in schema "keyledger"; the server works as the role keyledger_server.

-- Life-cycle events: few and rich. `data` is json, not jsonb: its text is the canonical form (RFC 8785), and what is hashed must be the exact bytes.
CREATE TABLE events (
  position        bigint      PRIMARY KEY,
  id              uuid        NOT NULL DEFAULT uuidv7() UNIQUE,
  organization_id uuid        NOT NULL,
  stream          text        NOT NULL COLLATE "C",
  version         integer     NOT NULL CHECK (version > 0),
  type            text        NOT NULL COLLATE "C",
  schema_version  smallint    NOT NULL DEFAULT 1,
  actor           text        NOT NULL COLLATE "C",
  recorded_at     timestamptz NOT NULL,
  data            json        NOT NULL,
  CONSTRAINT events_stream_version UNIQUE (stream, version)
);
CREATE INDEX events_by_organization ON events (organization_id, position);
-- Counts an actor's key operations of the last hour without reading anything else.
CREATE INDEX events_key_operations ON events (actor, recorded_at) WHERE type IN ('KeyCreated', 'KeyImported', 'Regenerated');

-- Usage events: many and lean. Column order is by alignment; NULLs cost nothing but a bit.
-- organization and key are the small numbers given at creation (they stand in OrganizationCreated and KeyCreated), not UUIDs.
CREATE TABLE usage_events (
  position      bigint      NOT NULL,
  recorded_at   timestamptz NOT NULL,
  organization  integer     NOT NULL,
  key           integer     NOT NULL,
  credits       integer     NOT NULL,
  kind          smallint    NOT NULL,  -- 1 UsageRecorded by a verification, 2 UsageRecorded by a report, 3 UsageSettled
  code          smallint    NOT NULL,  -- the verification's outcome, numbered in src/domain/usage.ts
  status        smallint,              -- HTTP status that the end client saw
  duration_ms   integer,               -- to the first byte
  occurred_at   timestamptz,           -- where a report says that it happened at another time than it was recorded
  settles       bigint,                -- UsageSettled: position of the UsageRecorded it completes
  cost_micros   bigint,
  tokens_in     bigint,
  tokens_out    bigint,
  ip            inet,
  endpoint      text COLLATE "C",
  model         text COLLATE "C",
  request_id    text COLLATE "C",      -- only where the caller chose one; otherwise the position is the request's id
  detail        text COLLATE "C",      -- a refusal's rule and numbers; with an outdated secret that passed, which
  PRIMARY KEY (position)
) PARTITION BY RANGE (position);
-- A key's request log, and by its keys an organization's: smaller than any table a projector could keep, and never behind.
CREATE INDEX usage_events_by_key ON usage_events (key, position);
-- When an outdated secret was last used. Empty but for those.
CREATE INDEX usage_events_of_outdated ON usage_events (key, detail, position) WHERE code = 0 AND detail IS NOT NULL;

CREATE TABLE usage_partitions (
  first_position bigint PRIMARY KEY,
  end_position   bigint NOT NULL CHECK (end_position > first_position),
  created_at     timestamptz NOT NULL DEFAULT now()
);

-- History can't be changed, by anybody who hasn't first disabled these triggers, which the owner alone could and an audit shows.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'insufficient_privilege', HINT = 'Append a new event instead.';
END $$;

CREATE TRIGGER events_immutable BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable;
ALTER TABLE events ENABLE ALWAYS TRIGGER events_no_truncate;
CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON usage_events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE usage_events ENABLE ALWAYS TRIGGER usage_events_no_truncate;

-- The one clock that decides anything.
CREATE FUNCTION ledger_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';

-- One advisory lock, held from here to the end of the transaction, makes the numbering dense and in commit order; so this is the last act of a
-- transaction, never followed by a client round trip. Volatile on purpose: each statement in it takes a fresh snapshot, so the last rows are read
-- after the lock was won. Time is the database's, and never runs backwards along the life-cycle events.
CREATE FUNCTION reserve_positions(OUT first_position bigint, OUT recorded_at timestamptz) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  event_position bigint;
  event_at timestamptz;
  usage_position bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(1801812339);
  SELECT e.position, e.recorded_at INTO event_position, event_at FROM events e ORDER BY e.position DESC LIMIT 1;
  SELECT u.position INTO usage_position FROM usage_events u ORDER BY u.position DESC LIMIT 1;
  first_position := greatest(event_position, usage_position, 0) + 1;
  recorded_at := greatest(ledger_now(), event_at);
END $$;

-- The position of the newest committed event, 0 where there is none.
CREATE FUNCTION head_position() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT greatest((SELECT max(position) FROM events), (SELECT max(position) FROM usage_events), 0)
$$;

-- Appends life-cycle events. The i-th event goes to stream[i] as version[i]; a version that is taken raises unique_violation on
-- events_stream_version: the caller decided on an old state and has to load and decide again. Wakes the readers of every server at commit.
-- An actor belongs to one organization, that of the first event: what follows from it in the histories of others is the system's, so that none learns who acts in another.
-- p_key_operations_per_hour, where given, caps the actor's keys created, imported and regenerated in any 60 minutes; counted under the lock, so exactly.
-- p_read_*: what else the decision was made on, which must not have changed since: streams at a version, and a key that was not used after a position. Looked
-- at under the lock, so that no event comes between: raises KL003, and the caller decides again.
CREATE FUNCTION append(
  p_actor text, p_organization uuid[], p_stream text[], p_version integer[], p_type text[], p_schema_version smallint[], p_data text[],
  p_key_operations_per_hour integer, p_read_stream text[] DEFAULT '{}', p_read_version integer[] DEFAULT '{}', p_unused_key integer DEFAULT NULL, p_unused_since bigint DEFAULT NULL,
  OUT first_position bigint, OUT last_position bigint, OUT recorded_at timestamptz
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  reserved record;
  earlier timestamptz[];
  operations integer := (SELECT count(*) FROM unnest(p_type) AS type WHERE type IN ('KeyCreated', 'KeyImported', 'Regenerated'));
BEGIN
  SELECT * INTO reserved FROM reserve_positions();
  IF p_key_operations_per_hour IS NOT NULL AND operations > 0 THEN
    earlier := ARRAY(
      SELECT e.recorded_at FROM events e
      WHERE e.actor = p_actor AND e.type IN ('KeyCreated', 'KeyImported', 'Regenerated') AND e.recorded_at > reserved.recorded_at - interval '1 hour'
      ORDER BY e.recorded_at);
    IF cardinality(earlier) + operations > p_key_operations_per_hour THEN
      RAISE EXCEPTION 'key operations of the last hour: %', cardinality(earlier)
        USING ERRCODE = 'KL001',
              DETAIL = ceil(extract(epoch FROM coalesce(earlier[greatest(1, cardinality(earlier) + operations - p_key_operations_per_hour)], reserved.recorded_at)
                            + interval '1 hour' - reserved.recorded_at))::text;
    END IF;
  END IF;
  IF EXISTS (SELECT FROM unnest(p_read_stream, p_read_version) AS r (stream, version) JOIN events e ON e.stream = r.stream AND e.version > r.version)
    OR EXISTS (SELECT FROM usage_events u WHERE u.key = p_unused_key AND u.position > p_unused_since AND u.code = 0) THEN
    RAISE EXCEPTION 'what was decided on has changed' USING ERRCODE = 'KL003';
  END IF;
  INSERT INTO events (position, organization_id, stream, version, type, schema_version, actor, recorded_at, data)
  SELECT reserved.first_position + e.ordinal - 1, e.organization_id, e.stream, e.version, e.type, e.schema_version,
    CASE e.organization_id WHEN p_organization[1] THEN p_actor ELSE 'system' END, reserved.recorded_at, e.data::json
  FROM unnest(p_organization, p_stream, p_version, p_type, p_schema_version, p_data)
    WITH ORDINALITY AS e (organization_id, stream, version, type, schema_version, data, ordinal);
  first_position := reserved.first_position;
  last_position := reserved.first_position + cardinality(p_stream) - 1;
  recorded_at := reserved.recorded_at;
  PERFORM pg_notify('keyledger_log', last_position::text);
END $$;

-- Partitions are made ahead of need: each holds 2^24 positions, and there are always p_ahead empty ones above the newest event.
-- Made beside the table and then attached, which locks out neither readers nor writers. Runs as the owner: the server may not create tables.
CREATE FUNCTION ensure_usage_partitions(p_ahead integer DEFAULT 2) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyledger, pg_temp AS $$
DECLARE
  size constant bigint := 16777216;
  wanted_end bigint := (head_position() / size + 1 + p_ahead) * size;
  next_first bigint;
  name text;
  made integer := 0;
BEGIN
  IF p_ahead NOT BETWEEN 0 AND 16 THEN
    RAISE EXCEPTION 'between 0 and 16 partitions can be made ahead, not %', p_ahead;
  END IF;
  -- Most calls find nothing to do: look before taking the lock.
  IF (SELECT coalesce(max(end_position), 0) FROM usage_partitions) >= wanted_end THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock(1801812340);
  LOOP
    SELECT coalesce(max(end_position), 0) INTO next_first FROM usage_partitions;
    EXIT WHEN next_first >= wanted_end;
    name := 'usage_events_' || lpad((next_first / size)::text, 6, '0');
    EXECUTE format('CREATE TABLE %I (LIKE usage_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format('ALTER TABLE %I ADD PRIMARY KEY (position)', name);
    EXECUTE format('CREATE INDEX ON %I (key, position)', name);
    EXECUTE format('CREATE INDEX ON %I (key, detail, position) WHERE code = 0 AND detail IS NOT NULL', name);
    EXECUTE format('CREATE TRIGGER usage_events_immutable BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', name);
    EXECUTE format('CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER usage_events_immutable', name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER usage_events_no_truncate', name);
    EXECUTE format('ALTER TABLE usage_events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', name, next_first, next_first + size);
    INSERT INTO usage_partitions (first_position, end_position) VALUES (next_first, next_first + size);
    made := made + 1;
  END LOOP;
  RETURN made;
END $$;

SELECT ensure_usage_partitions(2);
