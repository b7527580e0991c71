-- Admission: exact rolling windows, and the functions that decide a batch of verifications and record a batch of usage.

-- A key's windows. A window of length W is split in sub-buckets of width w = W/n; a sub-bucket counts until all of it has left the window, so n closed
-- ones and the current one are live. Then no interval of length W ever holds more than the cap, and room returns at most w late.
--   minute   60 s of  1 s      day      24 h of 30 min      week    7 d of 6 h      month   30 d of 6 h
-- This row is the hot one and stays small: per width the current sub-bucket's number (epoch / w) and count, and the sum of the closed ones. The closed
-- ones themselves stand in key_window_buckets and are touched only when a sub-bucket closes. Both are a projection of usage_events.
CREATE TABLE key_windows (
  key             integer PRIMARY KEY,
  total           bigint  NOT NULL DEFAULT 0,
  second_bucket   bigint  NOT NULL,
  second_count    bigint  NOT NULL DEFAULT 0,
  minute_closed   bigint  NOT NULL DEFAULT 0,
  token_count     bigint  NOT NULL DEFAULT 0,  -- tokens, by the same seconds
  token_closed    bigint  NOT NULL DEFAULT 0,
  half_hour_bucket integer NOT NULL,
  half_hour_count bigint  NOT NULL DEFAULT 0,
  day_closed      bigint  NOT NULL DEFAULT 0,
  quarter_bucket  integer NOT NULL,            -- of a day
  quarter_count   bigint  NOT NULL DEFAULT 0,
  week_closed     bigint  NOT NULL DEFAULT 0,
  month_closed    bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- A batch looks each of its keys up in three tables: a hash index answers with a third of the instructions that the primary key's tree takes.
CREATE INDEX key_windows_by_key ON key_windows USING hash (key);
CREATE INDEX key_verifiers_by_lookup_id ON key_verifiers USING hash (lookup_id);
CREATE INDEX api_keys_by_number ON api_keys USING hash (number);

-- Counts of closed sub-buckets, the newest first; position i is the sub-bucket i before the current one.
CREATE TABLE key_window_buckets (
  key        integer PRIMARY KEY,
  seconds    bigint[] NOT NULL DEFAULT '{}',
  tokens     bigint[] NOT NULL DEFAULT '{}',
  half_hours bigint[] NOT NULL DEFAULT '{}',
  quarters   bigint[] NOT NULL DEFAULT '{}'
-- Whole rows stay below 4 kB: to compress them or to put them elsewhere each second would cost more than to write them.
) WITH (fillfactor = 50, toast_tuple_target = 8160);

-- An organization's windows of requests over all its keys, for those whose plan has a cap: the second by 50 ms, the minute by 1 s. Made anew, by the log,
-- after a change of plan.
CREATE TABLE organization_windows (
  organization   integer PRIMARY KEY,
  tick_bucket    bigint NOT NULL DEFAULT 0,  -- epoch / 50 ms
  tick_count     bigint NOT NULL DEFAULT 0,
  second_closed  bigint NOT NULL DEFAULT 0,
  ticks          bigint[] NOT NULL DEFAULT '{}',
  second_bucket  bigint NOT NULL DEFAULT 0,
  second_count   bigint NOT NULL DEFAULT 0,
  minute_closed  bigint NOT NULL DEFAULT 0,
  seconds        bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- Distinct bad secrets from an address, as one organization's gateways saw them: what one tenant reports blocks nobody for another. Unlogged: a crash
-- forgives. Addresses are hosts for IPv4 and /64 networks for IPv6. Bounded: see housekeeping.
CREATE UNLOGGED TABLE address_failures (
  organization  integer NOT NULL,
  address       inet    NOT NULL,
  first_at      timestamptz NOT NULL,
  secrets       integer[] NOT NULL,          -- hashes, so that one bad secret in a loop counts once
  blocked_until timestamptz,
  PRIMARY KEY (organization, address)
);
CREATE INDEX address_failures_by_age ON address_failures (first_at);
-- Nearly always nobody is blocked, and one look here tells a whole batch so.
CREATE INDEX address_failures_blocked ON address_failures (blocked_until) WHERE blocked_until IS NOT NULL;

-- Request ids that callers chose, with the answer that was given: a second request with the id gets it again.
CREATE TABLE usage_requests (
  organization integer NOT NULL,
  request_id   text    NOT NULL COLLATE "C",
  position     bigint  NOT NULL,
  recorded_at  timestamptz NOT NULL,
  answer       json,
  PRIMARY KEY (organization, request_id)
);
CREATE INDEX usage_requests_by_age ON usage_requests USING brin (recorded_at);

-- Which UsageSettled completes which UsageRecorded: at most one each.
CREATE TABLE settlements (
  request  bigint PRIMARY KEY,
  settled_by bigint NOT NULL
);

-- Closed sub-buckets after `steps` more have closed: the current count first, zeros for those in which nothing happened, the oldest beyond `length` gone.
-- Where nothing was ever counted they stay empty.
CREATE FUNCTION close_buckets(closed bigint[], current_count bigint, steps bigint, length integer) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN steps <= 0 OR (current_count = 0 AND closed = '{}') THEN closed
    WHEN steps > length THEN '{}'::bigint[]
    WHEN steps = 1 THEN (current_count || closed)[1:length]
    ELSE (array_fill(0::bigint, ARRAY[steps::integer - 1]) || current_count || closed)[1:length]
  END
$$;

CREATE FUNCTION sum_of(counts bigint[]) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(sum(c), 0)::bigint FROM unnest(counts) AS c
$$;

-- By how much the sum of the first `length` closed sub-buckets changes when `steps` more close: the current count comes, the oldest ones go.
-- Nearly always one does, and then nothing has to be added up.
CREATE FUNCTION closing(closed bigint[], current_count bigint, closed_sum bigint, steps bigint, length integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN steps <= 0 THEN 0
    WHEN steps > length THEN -closed_sum
    WHEN steps = 1 THEN current_count - coalesce(closed[length], 0)
    WHEN closed_sum = 0 THEN current_count
    ELSE current_count - sum_of(closed[length + 1 - steps::integer : length])
  END
$$;

-- Brings the windows of keys to a moment. The caller holds the rows of key_windows locked.
CREATE FUNCTION advance_windows(p_keys integer[], p_now timestamptz) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  now_second bigint := floor(extract(epoch FROM p_now));
  now_half_hour integer := floor(extract(epoch FROM p_now) / 1800);
  now_quarter integer := floor(extract(epoch FROM p_now) / 21600);
BEGIN
  -- Once in half an hour for each key, and so apart from what is done each second.
  IF EXISTS (SELECT FROM key_windows w WHERE w.key = ANY (p_keys) AND w.half_hour_bucket < now_half_hour) THEN
    WITH changes AS (
      UPDATE key_window_buckets b SET
        half_hours = close_buckets(b.half_hours, w.half_hour_count, now_half_hour - w.half_hour_bucket, 48),
        quarters = close_buckets(b.quarters, w.quarter_count, now_quarter - w.quarter_bucket, 120)
      FROM key_windows w
      WHERE b.key = ANY (p_keys) AND w.key = b.key AND w.half_hour_bucket < now_half_hour
      RETURNING b.key,
        closing(old.half_hours, w.half_hour_count, w.day_closed, now_half_hour - w.half_hour_bucket, 48) AS day,
        closing(old.quarters, w.quarter_count, w.week_closed, now_quarter - w.quarter_bucket, 28) AS week,
        closing(old.quarters, w.quarter_count, w.month_closed, now_quarter - w.quarter_bucket, 120) AS month
    )
    UPDATE key_windows w SET
      half_hour_bucket = now_half_hour, half_hour_count = 0, day_closed = w.day_closed + c.day,
      quarter_bucket = now_quarter, quarter_count = CASE WHEN now_quarter > w.quarter_bucket THEN 0 ELSE w.quarter_count END,
      week_closed = w.week_closed + c.week, month_closed = w.month_closed + c.month
    FROM changes c
    WHERE w.key = c.key;
  END IF;

  WITH changes AS (
    UPDATE key_window_buckets b SET
      seconds = close_buckets(b.seconds, w.second_count, now_second - w.second_bucket, 60),
      tokens = close_buckets(b.tokens, w.token_count, now_second - w.second_bucket, 60)
    FROM key_windows w
    WHERE b.key = ANY (p_keys) AND w.key = b.key AND w.second_bucket < now_second
    RETURNING b.key,
      closing(old.seconds, w.second_count, w.minute_closed, now_second - w.second_bucket, 60) AS minute,
      closing(old.tokens, w.token_count, w.token_closed, now_second - w.second_bucket, 60) AS token
  )
  UPDATE key_windows w SET second_bucket = now_second, second_count = 0, minute_closed = w.minute_closed + c.minute, token_count = 0, token_closed = w.token_closed + c.token
  FROM changes c
  WHERE w.key = c.key;
END $$;

-- Locks the windows of keys in the one order of all callers, brings them to the present, and answers what time that is.
-- The clock is read after the locks are won, so that along one key's history it never runs backwards.
CREATE FUNCTION lock_windows(p_keys integer[]) RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  present timestamptz;
  behind integer[];
BEGIN
  PERFORM 1 FROM key_windows WHERE key = ANY (p_keys) ORDER BY key FOR NO KEY UPDATE;
  present := ledger_now();
  behind := ARRAY(SELECT w.key FROM key_windows w WHERE w.key = ANY (p_keys) AND w.second_bucket < floor(extract(epoch FROM present)));
  IF cardinality(behind) > 0 THEN
    PERFORM advance_windows(behind, present);
  END IF;
  RETURN present;
END $$;

-- Sequential, all or none for each request: which of several costs fit, in their order, into what is left of each rule.
-- Answers for each the rule (1 …) that refuses it, 0 where it is granted. `room` NULL: no such rule. A cost of 0 asks whether 1 would fit.
CREATE FUNCTION refusing_rules(costs bigint[], room bigint[]) RETURNS smallint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  answers smallint[] := '{}';
  spent bigint := 0;
  cost bigint;
  answer smallint;
BEGIN
  FOREACH cost IN ARRAY costs LOOP
    answer := 0;
    FOR rule IN 1 .. cardinality(room) LOOP
      IF spent + greatest(cost, 1) > room[rule] THEN
        answer := rule;
        EXIT;
      END IF;
    END LOOP;
    IF answer = 0 THEN
      spent := spent + cost;
    END IF;
    answers := answers || answer;
  END LOOP;
  RETURN answers;
END $$;

-- The sum of those costs that fit.
CREATE FUNCTION granted_cost(costs bigint[], room bigint[]) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(sum(g.cost), 0)::bigint FROM unnest(costs, refusing_rules(costs, room)) AS g (cost, rule) WHERE g.rule = 0
$$;

-- When `need` units will have left a window: the current sub-bucket and the closed ones before it, each when all of it is out.
-- NULL where that many never will.
CREATE FUNCTION room_at(closed bigint[], current_count bigint, current_bucket bigint, length integer, width_seconds numeric, need bigint)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT to_timestamp((current_bucket - (b.i - 1) + 1 + length) * width_seconds)
  FROM (
    SELECT i, sum(count) OVER (ORDER BY i DESC) AS freed
    FROM unnest(current_count || closed[1:length]) WITH ORDINALITY AS c (count, i)
  ) b
  WHERE b.freed >= need
  ORDER BY b.i DESC LIMIT 1
$$;

-- The same for a key and a rule of `admit`. Volatile, so that it sees what the statement that calls it has consumed.
CREATE FUNCTION retry_at(p_key integer, p_organization integer, p_rule integer, p_cost bigint, p_cap bigint) RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
  SELECT CASE p_rule
    WHEN 1 THEN room_at(b.seconds, w.second_count, w.second_bucket, 60, 1, p_cost + w.minute_closed + w.second_count - p_cap)
    WHEN 2 THEN room_at(b.tokens, w.token_count, w.second_bucket, 60, 1, 1 + w.token_closed + w.token_count - p_cap)
    WHEN 4 THEN room_at(b.half_hours, w.half_hour_count, w.half_hour_bucket, 48, 1800, p_cost + w.day_closed + w.half_hour_count - p_cap)
    WHEN 5 THEN room_at(b.quarters, w.quarter_count, w.quarter_bucket, 28, 21600, p_cost + w.week_closed + w.quarter_count - p_cap)
    WHEN 6 THEN room_at(b.quarters, w.quarter_count, w.quarter_bucket, 120, 21600, p_cost + w.month_closed + w.quarter_count - p_cap)
    WHEN 7 THEN room_at(o.ticks, o.tick_count, o.tick_bucket, 20, 0.05, p_cost + o.second_closed + o.tick_count - p_cap)
    WHEN 8 THEN room_at(o.seconds, o.second_count, o.second_bucket, 60, 1, p_cost + o.minute_closed + o.second_count - p_cap)
  END
  FROM key_windows w JOIN key_window_buckets b ON b.key = w.key LEFT JOIN organization_windows o ON o.organization = p_organization
  WHERE w.key = p_key
$$;

-- Makes the windows of an organization that has a cap for the first time, or again, with what its last minute used: read from the log's end backwards.
CREATE FUNCTION begin_organization_windows(p_organization integer) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  epoch numeric := extract(epoch FROM ledger_now());
  second_counts bigint[] := array_fill(0::bigint, ARRAY[61]);
  tick_counts bigint[] := array_fill(0::bigint, ARRAY[21]);
  used record;
  seconds_ago integer;
  ticks_ago integer;
BEGIN
  FOR used IN SELECT u.organization, u.kind, u.credits, extract(epoch FROM u.recorded_at) AS epoch FROM usage_events u ORDER BY u.position DESC LOOP
    -- Along the log time may step back by as much as a batch takes, never by seconds.
    EXIT WHEN used.epoch < epoch - 70;
    CONTINUE WHEN used.organization <> p_organization OR used.kind <> 1;
    seconds_ago := greatest(0, floor(epoch) - floor(used.epoch));
    ticks_ago := greatest(0, floor(epoch * 20) - floor(used.epoch * 20));
    IF seconds_ago <= 60 THEN
      second_counts[seconds_ago + 1] := second_counts[seconds_ago + 1] + used.credits;
    END IF;
    IF ticks_ago <= 20 THEN
      tick_counts[ticks_ago + 1] := tick_counts[ticks_ago + 1] + used.credits;
    END IF;
  END LOOP;
  INSERT INTO organization_windows (organization, tick_bucket, tick_count, second_closed, ticks, second_bucket, second_count, minute_closed, seconds)
  VALUES (p_organization, floor(epoch * 20), tick_counts[1], sum_of(tick_counts[2:]), tick_counts[2:],
    floor(epoch), second_counts[1], sum_of(second_counts[2:]), second_counts[2:])
  ON CONFLICT DO NOTHING;
END $$;

-- Locks the windows of those organizations among these that have caps, and then those of the keys asked for, and brings the former to the present. Answers
-- what time that is, NULL where there are none. One moment read under all these locks serves for both and for the log: were it read before a lock is won or
-- once more after, the organization's windows and `recorded_at` would not agree about the sub-bucket.
CREATE FUNCTION lock_organization_windows(p_organizations integer[], p_lookup_ids text[]) RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  capped integer[] := ARRAY(
    SELECT o.number FROM organizations o
    WHERE o.number = ANY (p_organizations) AND (o.requests_per_second IS NOT NULL OR o.requests_per_minute IS NOT NULL));
  present timestamptz;
  now_tick bigint;
  now_second bigint;
BEGIN
  IF cardinality(capped) = 0 THEN
    RETURN NULL;
  END IF;
  PERFORM begin_organization_windows(c) FROM unnest(capped) AS c WHERE NOT EXISTS (SELECT FROM organization_windows w WHERE w.organization = c);
  PERFORM 1 FROM organization_windows WHERE organization = ANY (capped) ORDER BY organization FOR NO KEY UPDATE;
  PERFORM 1 FROM key_windows WHERE key = ANY (ARRAY(SELECT v.key FROM key_verifiers v WHERE v.lookup_id = ANY (p_lookup_ids))) ORDER BY key FOR NO KEY UPDATE;
  present := ledger_now();
  now_tick := floor(extract(epoch FROM present) * 20);
  now_second := floor(extract(epoch FROM present));
  UPDATE organization_windows w SET
    ticks = close_buckets(w.ticks, w.tick_count, now_tick - w.tick_bucket, 20),
    second_closed = sum_of(close_buckets(w.ticks, w.tick_count, now_tick - w.tick_bucket, 20)),
    tick_count = 0, tick_bucket = now_tick,
    seconds = close_buckets(w.seconds, CASE WHEN now_second > w.second_bucket THEN w.second_count END, now_second - w.second_bucket, 60),
    minute_closed = CASE WHEN now_second > w.second_bucket THEN sum_of(close_buckets(w.seconds, w.second_count, now_second - w.second_bucket, 60)) ELSE w.minute_closed END,
    second_count = CASE WHEN now_second > w.second_bucket THEN 0 ELSE w.second_count END,
    second_bucket = greatest(w.second_bucket, now_second)
  WHERE w.organization = ANY (capped) AND w.tick_bucket < now_tick;
  RETURN present;
END $$;

-- By this a presented secret is recognised without its being kept: it outlives the key, so it may not be what the key is verified by.
CREATE FUNCTION trace_of(mac bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT encode(substr(sha256(mac), 1, 12), 'hex')
$$;

-- The part of the network that one party is likely to hold: the address itself, or the /64 of an IPv6 address.
CREATE FUNCTION party_of(address inet) RETURNS inet LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE family(address) WHEN 6 THEN network(set_masklen(address, 64))::inet ELSE address END
$$;

-- What each of a key's own rules has left, by the rule's number; NULL for a rule that the key has not. Tokens are charged when usage is settled: here there only
-- has to be any room at all, whatever a request costs.
CREATE FUNCTION room_left(k api_keys, w key_windows) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ARRAY[k.requests_per_minute - w.minute_closed - w.second_count, CASE WHEN k.tokens_per_minute <= w.token_closed + w.token_count THEN -1 END,
    k.quota_total - w.total, k.quota_daily - w.day_closed - w.half_hour_count, k.quota_weekly - w.week_closed - w.quarter_count,
    k.quota_monthly - w.month_closed - w.quarter_count]
$$;

-- An array that holds something, or NULL: what holds nothing is neither written nor read at the other end.
CREATE FUNCTION unless_empty(numbers bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN array_remove(numbers, NULL) <> '{}' THEN numbers END
$$;

-- Which rule refuses each of a key's requests in a batch, 0 for none.
CREATE TYPE key_refusals AS (ordinals bigint[], rules smallint[]);

-- Decides a batch of verifications, consumes their limits and records them, in one transaction. Arrays run parallel, one element a request; one that would hold
-- nothing but NULLs may be NULL itself. So it is with the answer's `codes` to `special`; those from `consumed_keys` on run parallel too, one element a key, and where
-- a key stands there twice its last element counts.
-- p_callers_*: the distinct callers, by token or, where the edge has authenticated them, by organization; p_caller points into them. p_macs: 32 bytes a request.
-- p_wake: tells the followers of the log at once; a caller that has just told them does so again a little later.
-- Codes are those of src/domain/usage.ts; besides 100 caller unauthenticated, 101 caller forbidden, 102 the fast verifier was made with another pepper,
-- 103 the request id belongs to reported usage, or to another key's request, 104 the request id was answered before (`special` has the answer).
-- Order of checks: caller; address blocked; key and secret; organization; its balance; state; expiry; environment; address and origin; permissions; the organization's second
-- and minute; the key's minute and tokens; its quotas total, daily, weekly, monthly. Rules are numbered 1 key_minute, 2 key_tokens, 3 total, 4 daily, 5 weekly,
-- 6 monthly, 7 organization_second, 8 organization_minute. Requests that are `recorded` have the positions from first_position on, in their order.
--
-- Why it is right under concurrency: the windows of a key are one row, and one UPDATE both reads what is left and takes it. Where another batch changed
-- the row first, Postgres runs the expressions again on its new version. A row whose second has passed is brought forward before, under its lock and in a
-- statement of its own, so that the UPDATE sees that. A row may only be ahead of this batch's clock, and then its own second counts, in `recorded_at` too:
-- the log and the windows always agree about the sub-bucket. Rows are taken in the order of keys; what deadlocks nevertheless is run again.
-- An organization with a cap has its windows locked before anything else, so that its requests are counted off in their order; of those that fit there, the
-- ones that their keys refuse are not charged. Such a one can take the place of a later one in the same batch, at the cap's edge, for that batch alone.
--
-- Why it is several statements: what nearly no batch needs (caps of organizations, chosen request ids, refusals, bad secrets) would cost every batch its
-- part of a larger plan's start, and that is most of what a batch of a few dozen costs.
CREATE FUNCTION admit(
  p_caller_tokens bytea[], p_caller_organizations uuid[], p_verifying_roles text[], p_pepper_id text,
  p_caller integer[], p_lookup_id text[], p_macs bytea, p_cost integer[], p_permissions text[], p_environment text[], p_ip inet[], p_origin text[],
  p_endpoint text[], p_request_id text[], p_failures_to_block integer, p_failure_window interval, p_block_for interval, p_wake boolean,
  OUT at timestamptz, OUT first_position bigint, OUT codes smallint[], OUT rules smallint[], OUT recorded boolean[], OUT keys integer[], OUT versions integer[],
  OUT profile_versions integer[], OUT outdated boolean[], OUT special json[],
  OUT consumed_keys integer[], OUT minute_left bigint[], OUT total_left bigint[], OUT day_left bigint[], OUT week_left bigint[], OUT month_left bigint[]
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  present timestamptz := ledger_now();
  present_second bigint;
  caller_code smallint[];
  caller_organization integer[];
  caller_organization_id uuid[];
  caller_suspended boolean[];
  capped boolean;
  behind integer[];
  seconds bigint[];
  short integer[];
  refusals key_refusals[];
  recorded_at timestamptz[];
  positions bigint[];
  details text[];
  nth record;
BEGIN
  SELECT array_agg(c.code ORDER BY c.ordinal), array_agg(c.organization ORDER BY c.ordinal), array_agg(c.organization_id ORDER BY c.ordinal),
    array_agg(c.suspended ORDER BY c.ordinal), bool_or(c.capped)
  INTO caller_code, caller_organization, caller_organization_id, caller_suspended, capped
  FROM (
    SELECT c.ordinal, o.id AS organization_id, o.number AS organization, b.suspended, o.requests_per_second IS NOT NULL OR o.requests_per_minute IS NOT NULL AS capped,
      (CASE
        WHEN c.token IS NOT NULL AND (t.id IS NULL OR t.revoked_at IS NOT NULL OR t.expires_at <= present OR (t.member_id IS NOT NULL AND m.role IS NULL)) THEN 100
        WHEN c.token IS NOT NULL AND NOT (
          (t.permissions IS NULL OR 'keys:verify' = ANY (t.permissions)) AND (t.member_id IS NULL OR m.role = ANY (p_verifying_roles))) THEN 101
        ELSE 0
      END)::smallint AS code
    FROM unnest(p_caller_tokens, p_caller_organizations) WITH ORDINALITY AS c (token, organization_id, ordinal)
    LEFT JOIN access_tokens t ON t.token_hash = c.token
    LEFT JOIN members m ON m.organization_id = t.organization_id AND m.id = t.member_id AND m.removed_at IS NULL
    LEFT JOIN organizations o ON o.id = coalesce(t.organization_id, c.organization_id)
    LEFT JOIN balances b ON b.organization = o.number
  ) AS c;
  IF capped THEN
    present := coalesce(lock_organization_windows(caller_organization, p_lookup_id), present);
  END IF;
  present_second := floor(extract(epoch FROM present));
  at := present;

  -- What each request asks for, and all that speaks against it but limits.
  SELECT array_agg(c.code), array_agg(c.key), array_agg(c.version), CASE WHEN count(c.profile_version) > 0 THEN array_agg(c.profile_version) END,
    CASE WHEN bool_or(c.outdated) THEN array_agg(c.outdated) END,
    array_agg(c.key IS NOT NULL AND c.cost > 0 AND c.code NOT IN (1, 100, 101, 102)), array_agg(c.key) FILTER (WHERE c.code = 0 AND c.second_bucket < present_second)
  INTO codes, keys, versions, profile_versions, outdated, recorded, behind
  FROM (
    SELECT r.cost,
      -- Whoever lacks the secret, or asks for another organization, gets no trace into a key and learns nothing of it, a blocked address included.
      CASE WHEN v.mac = r.mac AND v.pepper_id = p_pepper_id AND k.organization_id = r.organization_id THEN k.number END AS key,
      k.version, NOT v.current AS outdated, w.second_bucket,
      -- A subquery, so that a key without a profile costs nothing, and one with it a look into an index, whatever the planner believes.
      CASE WHEN k.profile_id IS NOT NULL THEN (SELECT p.version FROM profiles p WHERE p.id = k.profile_id) END AS profile_version,
      (CASE
        WHEN r.caller_code <> 0 THEN r.caller_code
        WHEN v.lookup_id IS NULL OR k.organization_id <> r.organization_id OR v.expires_at <= present THEN 1
        WHEN v.pepper_id <> p_pepper_id THEN 102
        -- Both sides are keyed MACs: what the time of this comparison tells about one says nothing about a secret.
        WHEN v.mac <> r.mac THEN 1
        WHEN caller_suspended[r.caller] THEN 9
        WHEN k.state <> 'active' OR k.archived THEN 2
        WHEN k.expires_at <= present THEN 3
        WHEN (r.environment = 'test') <> (k.type = 'TEST') THEN 5
        WHEN cardinality(k.ip_allowlist) > 0 AND (r.ip IS NULL OR NOT r.ip <<= ANY (k.ip_allowlist::inet[])) THEN 6
        WHEN cardinality(k.allowed_origins) > 0 AND (r.origin IS NULL OR NOT r.origin = ANY (k.allowed_origins)) THEN 7
        WHEN NOT string_to_array(r.permissions, ' ') <@ k.permissions THEN 4
        ELSE 0
      END)::smallint AS code
    FROM (
      SELECT r.*, caller_code[r.caller] AS caller_code, caller_organization_id[r.caller] AS organization_id, substr(p_macs, 32 * r.ordinal::integer - 31, 32) AS mac
      FROM unnest(p_caller, p_lookup_id, p_cost, p_permissions, p_environment, p_ip, p_origin)
        WITH ORDINALITY AS r (caller, lookup_id, cost, permissions, environment, ip, origin, ordinal)
    ) AS r
    LEFT JOIN key_verifiers v ON v.lookup_id = r.lookup_id
    LEFT JOIN api_keys k ON k.number = v.key
    LEFT JOIN key_windows w ON w.key = k.number
    ORDER BY r.ordinal
  ) AS c;

  IF p_ip IS NOT NULL AND EXISTS (SELECT FROM address_failures f WHERE f.blocked_until > present) THEN
    FOR nth IN
      SELECT r.ordinal FROM unnest(p_caller, p_ip) WITH ORDINALITY AS r (caller, ip, ordinal)
      JOIN address_failures f ON f.organization = caller_organization[r.caller] AND f.address = party_of(r.ip)
      WHERE f.blocked_until > present AND caller_code[r.caller] = 0
    LOOP
      codes[nth.ordinal] := 8;
    END LOOP;
  END IF;

  IF p_request_id IS NOT NULL THEN
    FOR nth IN
      -- Gateways pass on ids that end clients choose: an answer is repeated only to whoever presents the secret that it was given to.
      SELECT r.ordinal, q.position, q.answer, coalesce(q.answer ->> 'asked' = trace_of(substr(p_macs, 32 * r.ordinal::integer - 31, 32)), false) AS same
      FROM unnest(p_caller, p_request_id) WITH ORDINALITY AS r (caller, request_id, ordinal)
      JOIN usage_requests q ON q.organization = caller_organization[r.caller] AND q.request_id = r.request_id
      WHERE caller_code[r.caller] = 0
    LOOP
      -- Nothing is recorded under another request's id.
      recorded[nth.ordinal] := false;
      IF nth.same THEN
        codes[nth.ordinal] := 104;
        special := coalesce(special, array_fill(NULL::json, ARRAY[cardinality(codes)]));
        special[nth.ordinal] := json_build_object('position', nth.position::text, 'answer', nth.answer);
      ELSIF codes[nth.ordinal] NOT IN (1, 8, 102) THEN
        codes[nth.ordinal] := 103;
      END IF;
    END LOOP;
  END IF;

  IF capped THEN
    FOR nth IN
      SELECT j.ordinal, j.rule + 6 AS rule
      FROM (
        SELECT o.number, o.requests_per_second, o.requests_per_minute, array_agg(r.ordinal ORDER BY r.ordinal) AS ordinals, array_agg(r.cost::bigint ORDER BY r.ordinal) AS costs
        FROM unnest(p_caller, p_cost, codes) WITH ORDINALITY AS r (caller, cost, code, ordinal)
        JOIN organizations o ON o.number = caller_organization[r.caller]
        WHERE r.code = 0
        GROUP BY o.id
      ) AS a
      JOIN organization_windows w ON w.organization = a.number
      CROSS JOIN LATERAL unnest(a.ordinals, refusing_rules(a.costs, ARRAY[
        a.requests_per_second - w.second_closed - w.tick_count, a.requests_per_minute - w.minute_closed - w.second_count])) AS j (ordinal, rule)
      WHERE j.rule > 0
    LOOP
      codes[nth.ordinal] := 11;
      rules := coalesce(rules, array_fill(0::smallint, ARRAY[cardinality(codes)]));
      rules[nth.ordinal] := nth.rule;
    END LOOP;
  END IF;

  IF behind IS NOT NULL THEN
    -- All rows of the batch, not only those that are behind: the UPDATE takes the others afterwards, and another batch could hold one of them and wait for one of these.
    PERFORM 1 FROM key_windows WHERE key = ANY (keys) ORDER BY key FOR NO KEY UPDATE;
    PERFORM advance_windows(behind, present);
  END IF;

  -- Nearly always everything fits. What a key has no rule for is NULL, and so is the cost where one of its requests only asks (a cost of 0).
  WITH consumed AS (
    UPDATE key_windows w SET (total, second_count, half_hour_count, quarter_count) = (
      SELECT w.total + g.cost, w.second_count + g.cost, w.half_hour_count + g.cost, w.quarter_count + g.cost
      FROM (
        SELECT CASE WHEN a.cost <= least(k.requests_per_minute - w.minute_closed - w.second_count, k.quota_total - w.total, k.quota_daily - w.day_closed - w.half_hour_count,
          k.quota_weekly - w.week_closed - w.quarter_count, k.quota_monthly - w.month_closed - w.quarter_count, 9223372036854775807)
          AND (k.tokens_per_minute <= w.token_closed + w.token_count) IS NOT TRUE THEN a.cost ELSE 0 END AS cost
      ) AS g
    )
    FROM (
      SELECT r.key, CASE WHEN min(r.cost) > 0 THEN sum(r.cost) END AS cost
      FROM unnest(keys, p_cost, codes) AS r (key, cost, code)
      WHERE r.code = 0
      GROUP BY r.key
      ORDER BY r.key
    ) AS a JOIN api_keys k ON k.number = a.key
    WHERE w.key = a.key
    RETURNING w.key, new.total = old.total AS short, new.second_bucket, k.requests_per_minute - new.minute_closed - new.second_count AS minute_left,
      k.quota_total - new.total AS total_left, k.quota_daily - new.day_closed - new.half_hour_count AS day_left,
      k.quota_weekly - new.week_closed - new.quarter_count AS week_left, k.quota_monthly - new.month_closed - new.quarter_count AS month_left
  )
  SELECT array_agg(c.key), array_agg(c.second_bucket), unless_empty(array_agg(c.minute_left)), unless_empty(array_agg(c.total_left)),
    unless_empty(array_agg(c.day_left)), unless_empty(array_agg(c.week_left)), unless_empty(array_agg(c.month_left)), array_agg(c.key) FILTER (WHERE c.short)
  INTO consumed_keys, seconds, minute_left, total_left, day_left, week_left, month_left, short
  FROM consumed c;

  IF present_second < ANY (seconds) THEN
    recorded_at := ARRAY(
      SELECT greatest(present, to_timestamp(s.second)) FROM unnest(keys) WITH ORDINALITY AS r (key, ordinal)
      LEFT JOIN unnest(consumed_keys, seconds) AS s (key, second) ON s.key = r.key ORDER BY r.ordinal);
  END IF;

  IF short IS NOT NULL THEN
    -- Not everything that these keys are asked for fits, or one of their requests only asks: request by request. Their rows were locked above.
    WITH asking AS (
      SELECT r.key, array_agg(r.ordinal ORDER BY r.ordinal) AS ordinals, array_agg(r.cost::bigint ORDER BY r.ordinal) AS costs
      FROM unnest(keys, p_cost, codes) WITH ORDINALITY AS r (key, cost, code, ordinal)
      WHERE r.code = 0 AND r.key = ANY (short)
      GROUP BY r.key
    ),
    consumed AS (
      UPDATE key_windows w SET (total, second_count, half_hour_count, quarter_count) = (
        SELECT w.total + g.cost, w.second_count + g.cost, w.half_hour_count + g.cost, w.quarter_count + g.cost
        FROM (SELECT granted_cost(a.costs, room_left(k, w)) AS cost) AS g
      )
      FROM asking a JOIN api_keys k ON k.number = a.key
      WHERE w.key = a.key
      RETURNING w.key, a.ordinals, refusing_rules(a.costs, room_left(k, old)) AS rules, room_left(k, new) AS room
    )
    SELECT consumed_keys || array_agg(c.key),
      CASE WHEN minute_left IS NOT NULL THEN minute_left || array_agg(c.room[1]) END, CASE WHEN total_left IS NOT NULL THEN total_left || array_agg(c.room[3]) END,
      CASE WHEN day_left IS NOT NULL THEN day_left || array_agg(c.room[4]) END, CASE WHEN week_left IS NOT NULL THEN week_left || array_agg(c.room[5]) END,
      CASE WHEN month_left IS NOT NULL THEN month_left || array_agg(c.room[6]) END, array_agg(ROW(c.ordinals, c.rules)::key_refusals)
    INTO consumed_keys, minute_left, total_left, day_left, week_left, month_left, refusals
    FROM consumed c;
    FOR nth IN SELECT j.ordinal, j.rule FROM unnest(refusals) AS k CROSS JOIN LATERAL unnest(k.ordinals, k.rules) AS j (ordinal, rule) WHERE j.rule > 0 LOOP
      codes[nth.ordinal] := CASE WHEN nth.rule > 2 THEN 10 ELSE 11 END;
      rules := coalesce(rules, array_fill(0::smallint, ARRAY[cardinality(codes)]));
      rules[nth.ordinal] := nth.rule;
    END LOOP;
  END IF;

  IF capped THEN
    UPDATE organization_windows w SET tick_count = w.tick_count + s.cost, second_count = w.second_count + s.cost
    FROM (
      SELECT caller_organization[r.caller] AS organization, sum(r.cost) AS cost
      FROM unnest(p_caller, p_cost, codes) AS r (caller, cost, code) WHERE r.code = 0 GROUP BY 1
    ) AS s
    WHERE w.organization = s.organization;
  END IF;

  IF rules IS NOT NULL THEN
    special := coalesce(special, array_fill(NULL::json, ARRAY[cardinality(codes)]));
    details := array_fill(NULL::text, ARRAY[cardinality(codes)]);
    FOR nth IN
      SELECT r.ordinal, (ARRAY['key_minute', 'key_tokens', 'total', 'daily', 'weekly', 'monthly', 'organization_second', 'organization_minute'])[r.rule] AS name, l.cap,
        greatest(0, l.cap - l.used) AS room, o.quota_status, retry_at(r.key, o.number, r.rule, greatest(r.cost, 1), l.cap) AS retry_at
      FROM unnest(keys, p_caller, p_cost, rules) WITH ORDINALITY AS r (key, caller, cost, rule, ordinal)
      JOIN api_keys k ON k.number = r.key
      JOIN key_windows w ON w.key = r.key
      JOIN organizations o ON o.number = caller_organization[r.caller]
      LEFT JOIN organization_windows x ON x.organization = o.number
      CROSS JOIN LATERAL (SELECT
        (ARRAY[k.requests_per_minute, k.tokens_per_minute, k.quota_total, k.quota_daily, k.quota_weekly, k.quota_monthly, o.requests_per_second, o.requests_per_minute])[r.rule] AS cap,
        (ARRAY[w.minute_closed + w.second_count, w.token_closed + w.token_count, w.total, w.day_closed + w.half_hour_count, w.week_closed + w.quarter_count,
          w.month_closed + w.quarter_count, x.second_closed + x.tick_count, x.minute_closed + x.second_count])[r.rule] AS used) AS l
      WHERE r.rule > 0
    LOOP
      special[nth.ordinal] := json_build_object('retryAt', nth.retry_at, 'quotaStatus', nth.quota_status);
      details[nth.ordinal] := format('%s: %s left of %s', nth.name, nth.room, nth.cap);
    END LOOP;
  END IF;

  IF true = ANY (outdated) THEN
    details := coalesce(details, array_fill(NULL::text, ARRAY[cardinality(codes)]));
    FOR nth IN
      SELECT r.ordinal, r.lookup_id FROM unnest(outdated, codes, p_lookup_id) WITH ORDINALITY AS r (outdated, code, lookup_id, ordinal)
      WHERE r.outdated AND r.code = 0
    LOOP
      details[nth.ordinal] := 'outdated secret ' || nth.lookup_id;
    END LOOP;
  END IF;

  IF 102 = ANY (codes) THEN
    special := coalesce(special, array_fill(NULL::json, ARRAY[cardinality(codes)]));
    FOR nth IN
      SELECT r.ordinal, v.pepper_id, v.argon2 FROM unnest(codes, p_lookup_id) WITH ORDINALITY AS r (code, lookup_id, ordinal)
      JOIN key_verifiers v ON v.lookup_id = r.lookup_id
      WHERE r.code = 102
    LOOP
      special[nth.ordinal] := json_build_object('pepperId', nth.pepper_id, 'argon2', nth.argon2);
    END LOOP;
  END IF;

  IF 1 = ANY (codes) THEN
    INSERT INTO address_failures AS f (organization, address, first_at, secrets, blocked_until)
    SELECT g.organization, g.address, present, g.secrets, CASE WHEN cardinality(g.secrets) >= p_failures_to_block THEN present + p_block_for END
    FROM (
      SELECT caller_organization[r.caller] AS organization, party_of(r.ip) AS address,
        -- What tells distinct bad secrets apart: of a keyed MAC, so that nobody can make up a thousand that look like one.
        array_agg(DISTINCT ('x' || encode(substr(p_macs, 32 * r.ordinal::integer - 31, 4), 'hex'))::bit(32)::integer) AS secrets
      FROM unnest(p_caller, p_ip, codes) WITH ORDINALITY AS r (caller, ip, code, ordinal)
      WHERE r.code = 1 AND r.ip IS NOT NULL
      GROUP BY 1, 2 ORDER BY 1, 2
    ) AS g
    ON CONFLICT (organization, address) DO UPDATE SET (first_at, secrets, blocked_until) = (
      SELECT CASE WHEN m.fresh THEN f.first_at ELSE excluded.first_at END, CASE WHEN m.fresh THEN m.secrets ELSE excluded.secrets END,
        CASE WHEN cardinality(CASE WHEN m.fresh THEN m.secrets ELSE excluded.secrets END) >= p_failures_to_block THEN present + p_block_for END
      FROM (
        SELECT f.first_at > present - p_failure_window AND coalesce(f.blocked_until > present, true) AS fresh,
          ARRAY(SELECT DISTINCT s FROM unnest(f.secrets || excluded.secrets) AS s LIMIT p_failures_to_block) AS secrets
      ) AS m);
  END IF;

  IF NOT true = ANY (recorded) THEN
    RETURN;
  END IF;
  -- After the windows are consumed: the log's lock is the last to be taken, and held for the shortest time.
  first_position := (SELECT r.first_position FROM reserve_positions() AS r);
  IF false = ANY (recorded) THEN
    positions := ARRAY(
      SELECT CASE WHEN r.recorded THEN first_position - 1 + count(*) FILTER (WHERE r.recorded) OVER (ORDER BY r.ordinal) END
      FROM unnest(recorded) WITH ORDINALITY AS r (recorded, ordinal) ORDER BY r.ordinal);
  END IF;
  INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, ip, endpoint, request_id, detail)
  SELECT coalesce(positions[r.ordinal], first_position - 1 + r.ordinal), coalesce(recorded_at[r.ordinal], present), caller_organization[r.caller], r.key,
    CASE r.code WHEN 0 THEN r.cost ELSE 0 END, 1, r.code, r.ip, r.endpoint, r.request_id, r.detail
  FROM unnest(recorded, p_caller, keys, codes, p_cost, p_ip, p_endpoint, p_request_id, details)
    WITH ORDINALITY AS r (recorded, caller, key, code, cost, ip, endpoint, request_id, detail, ordinal)
  WHERE r.recorded;
  IF p_wake THEN
    PERFORM pg_notify('keyledger_log', '');
  END IF;

  IF p_request_id IS NOT NULL THEN
    INSERT INTO usage_requests (organization, request_id, position, recorded_at, answer)
    SELECT u.organization, u.request_id, u.position, u.recorded_at, json_build_object(
      'asked', trace_of(substr(p_macs, 32 * r.ordinal::integer - 31, 32)), 'at', u.recorded_at, 'code', u.code, 'rule', coalesce(rules[r.ordinal], 0), 'outdated', coalesce(outdated[r.ordinal], false),
      'minuteLeft', l.minute_left, 'totalLeft', l.total_left, 'dayLeft', l.day_left, 'weekLeft', l.week_left, 'monthLeft', l.month_left,
      'retryAt', special[r.ordinal] -> 'retryAt', 'quotaStatus', special[r.ordinal] -> 'quotaStatus', 'key', to_json(k),
      'profile', (SELECT to_json(p) FROM profiles p WHERE p.id = k.profile_id))
    FROM (
      SELECT r.ordinal, coalesce(positions[r.ordinal], first_position - 1 + r.ordinal) AS position
      FROM unnest(recorded) WITH ORDINALITY AS r (recorded, ordinal) WHERE r.recorded
    ) AS r
    JOIN usage_events u ON u.position = r.position
    JOIN api_keys k ON k.number = u.key
    LEFT JOIN LATERAL (
      SELECT * FROM unnest(consumed_keys, minute_left, total_left, day_left, week_left, month_left)
        WITH ORDINALITY AS l (key, minute_left, total_left, day_left, week_left, month_left, ordinal)
      WHERE l.key = u.key ORDER BY l.ordinal DESC LIMIT 1
    ) AS l ON true
    WHERE u.request_id IS NOT NULL;
  END IF;
END $$;

-- Adds counts to closed sub-buckets, each to the one of its offset; what lies outside 1 … length is left out.
CREATE FUNCTION add_to_buckets(closed bigint[], offsets bigint[], counts bigint[], length integer) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  FOR i IN 1 .. cardinality(offsets) LOOP
    IF counts[i] <> 0 AND offsets[i] BETWEEN 1 AND length THEN
      IF cardinality(closed) < offsets[i] THEN
        closed := closed || array_fill(0::bigint, ARRAY[offsets[i]::integer - cardinality(closed)]);
      END IF;
      closed[offsets[i]] := closed[offsets[i]] + counts[i];
    END IF;
  END LOOP;
  RETURN closed;
END $$;

-- Charges reported requests and settled tokens to the windows of their keys, each in the sub-bucket of its moment. The caller holds the rows locked
-- and advanced. Arrays run parallel; a moment in the future counts as now, and so does all where p_at is NULL. Closed sub-buckets are touched only for what
-- happened in one.
CREATE FUNCTION charge_windows(p_key integer[], p_at timestamptz[], p_requests bigint[], p_tokens bigint[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF p_at IS NULL THEN
    UPDATE key_windows w SET total = w.total + c.requests, second_count = w.second_count + c.requests, token_count = w.token_count + c.tokens,
      half_hour_count = w.half_hour_count + c.requests, quarter_count = w.quarter_count + c.requests
    FROM (SELECT i.key, sum(i.requests)::bigint AS requests, sum(i.tokens)::bigint AS tokens FROM unnest(p_key, p_requests, p_tokens) AS i (key, requests, tokens) GROUP BY i.key) AS c
    WHERE w.key = c.key;
    RETURN;
  END IF;
  WITH charge AS MATERIALIZED (
    SELECT c.key, sum(c.requests) AS requests,
      sum(c.requests) FILTER (WHERE c.second <= 0) AS second_count, sum(c.requests) FILTER (WHERE c.second BETWEEN 1 AND 60) AS minute_closed,
      sum(c.tokens) FILTER (WHERE c.second <= 0) AS token_count, sum(c.tokens) FILTER (WHERE c.second BETWEEN 1 AND 60) AS token_closed,
      sum(c.requests) FILTER (WHERE c.half_hour <= 0) AS half_hour_count, sum(c.requests) FILTER (WHERE c.half_hour BETWEEN 1 AND 48) AS day_closed,
      sum(c.requests) FILTER (WHERE c.quarter <= 0) AS quarter_count, sum(c.requests) FILTER (WHERE c.quarter BETWEEN 1 AND 28) AS week_closed,
      sum(c.requests) FILTER (WHERE c.quarter BETWEEN 1 AND 120) AS month_closed,
      array_agg(c.second) FILTER (WHERE c.second > 0) AS seconds, array_agg(c.half_hour) FILTER (WHERE c.second > 0) AS half_hours,
      array_agg(c.quarter) FILTER (WHERE c.second > 0) AS quarters, array_agg(c.requests) FILTER (WHERE c.second > 0) AS late_requests,
      array_agg(c.tokens) FILTER (WHERE c.second > 0) AS late_tokens
    FROM (
      SELECT i.key, i.requests, i.tokens,
        w.second_bucket - floor(extract(epoch FROM i.at))::bigint AS second,
        w.half_hour_bucket - floor(extract(epoch FROM i.at) / 1800)::bigint AS half_hour,
        w.quarter_bucket - floor(extract(epoch FROM i.at) / 21600)::bigint AS quarter
      FROM unnest(p_key, p_at, p_requests, p_tokens) AS i (key, at, requests, tokens)
      JOIN key_windows w ON w.key = i.key
    ) AS c
    GROUP BY c.key
  ),
  closed AS (
    UPDATE key_window_buckets b SET
      seconds = add_to_buckets(b.seconds, c.seconds, c.late_requests, 60), tokens = add_to_buckets(b.tokens, c.seconds, c.late_tokens, 60),
      half_hours = add_to_buckets(b.half_hours, c.half_hours, c.late_requests, 48), quarters = add_to_buckets(b.quarters, c.quarters, c.late_requests, 120)
    FROM charge c
    WHERE b.key = c.key AND c.seconds IS NOT NULL
    RETURNING b.key
  )
  UPDATE key_windows w SET
    total = w.total + c.requests,
    second_count = w.second_count + coalesce(c.second_count, 0), minute_closed = w.minute_closed + coalesce(c.minute_closed, 0),
    token_count = w.token_count + coalesce(c.token_count, 0), token_closed = w.token_closed + coalesce(c.token_closed, 0),
    half_hour_count = w.half_hour_count + coalesce(c.half_hour_count, 0), day_closed = w.day_closed + coalesce(c.day_closed, 0),
    quarter_count = w.quarter_count + coalesce(c.quarter_count, 0),
    week_closed = w.week_closed + coalesce(c.week_closed, 0), month_closed = w.month_closed + coalesce(c.month_closed, 0)
  FROM charge c
  WHERE w.key = c.key;
END $$;

-- Records a batch of reported usage of one organization, all or nothing, and settles requests that were verified. An item with the id of a verified
-- request settles it; one with another id or none is a request of its own; an id that was reported before is a duplicate and has no effect.
-- p_request holds the positions of generated request ids, p_request_id the ids that callers chose. Nothing is recorded where bad_item is not NULL.
CREATE FUNCTION record_usage(
  p_organization uuid, p_request bigint[], p_request_id text[], p_key_id uuid[], p_at timestamptz[], p_endpoint text[], p_status smallint[], p_duration_ms integer[],
  p_ip inet[], p_credits integer[], p_cost_micros bigint[], p_tokens_in bigint[], p_tokens_out bigint[], p_model text[],
  OUT accepted integer, OUT duplicates integer, OUT last_position bigint, OUT bad_item integer, OUT bad_reason text
) LANGUAGE plpgsql VOLATILE
-- Each item is looked up by indexes. The planner, which believes that a report has ten items and that the newest partition is as small as it was when it was
-- last analyzed, would read whole tables; and it would plan anew for each report.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  organization_number integer := (SELECT o.number FROM organizations o WHERE o.id = p_organization);
  present timestamptz;
  dated boolean;
  v_key integer[];
  v_target bigint[];
  v_verdict text[];
  v_first bigint;
BEGIN
  -- What each item is: 'settle' its request, 'record' it, 'again', or what is wrong with it.
  SELECT array_agg(i.key ORDER BY i.ordinal), array_agg(i.target ORDER BY i.ordinal), array_agg(i.verdict ORDER BY i.ordinal)
  INTO v_key, v_target, v_verdict
  FROM (
    SELECT r.ordinal, coalesce(u.key, k.number) AS key, u.position AS target,
      CASE
        WHEN u.position IS NOT NULL AND u.kind = 1 AND s.request IS NULL AND r.nth = 1 THEN 'settle'
        WHEN u.position IS NOT NULL THEN 'again'
        WHEN r.request IS NOT NULL THEN 'unknown request'
        WHEN r.key_id IS NULL THEN 'no key'
        WHEN k.number IS NULL THEN 'unknown key'
        WHEN r.request_id IS NOT NULL AND r.nth > 1 THEN 'again'
        ELSE 'record'
      END AS verdict
    FROM (
      SELECT g.*, coalesce(q.position, g.request) AS wanted, row_number() OVER (PARTITION BY coalesce('p' || coalesce(q.position, g.request), 'r' || g.request_id, 'i' || g.ordinal) ORDER BY g.ordinal) AS nth
      FROM unnest(p_request, p_request_id, p_key_id) WITH ORDINALITY AS g (request, request_id, key_id, ordinal)
      LEFT JOIN usage_requests q ON q.organization = organization_number AND q.request_id = g.request_id
    ) AS r
    LEFT JOIN usage_events u ON u.position = r.wanted AND u.organization = organization_number AND u.kind IN (1, 2)
    LEFT JOIN settlements s ON s.request = u.position
    LEFT JOIN api_keys k ON k.id = r.key_id AND k.organization_id = p_organization
  ) AS i;

  SELECT i.ordinal - 1, i.verdict INTO bad_item, bad_reason
  FROM unnest(v_verdict) WITH ORDINALITY AS i (verdict, ordinal)
  WHERE i.verdict NOT IN ('settle', 'record', 'again') ORDER BY i.ordinal LIMIT 1;
  IF bad_item IS NOT NULL THEN
    RETURN;
  END IF;

  accepted := (SELECT count(*) FROM unnest(v_verdict) AS v WHERE v <> 'again');
  duplicates := cardinality(v_verdict) - accepted;
  IF accepted = 0 THEN
    last_position := head_position();
    RETURN;
  END IF;

  present := lock_windows(ARRAY(SELECT DISTINCT i.key FROM unnest(v_key, v_verdict) AS i (key, verdict) WHERE i.verdict <> 'again'));
  -- Nearly always a report is of the present, and no window is ahead of it: one is where the clock has stepped back.
  dated := EXISTS (SELECT FROM unnest(p_at) AS a WHERE a IS NOT NULL)
    OR EXISTS (SELECT FROM key_windows w WHERE w.key = ANY (v_key) AND w.second_bucket > floor(extract(epoch FROM present)));
  PERFORM charge_windows(array_agg(i.key), CASE WHEN dated THEN array_agg(coalesce(i.at, present)) END, array_agg(CASE i.verdict WHEN 'record' THEN coalesce(i.credits, 1)::bigint ELSE 0 END),
    array_agg(coalesce(i.tokens_in, 0) + coalesce(i.tokens_out, 0)))
  FROM unnest(v_key, v_verdict, p_at, p_credits, p_tokens_in, p_tokens_out) AS i (key, verdict, at, credits, tokens_in, tokens_out)
  WHERE i.verdict <> 'again';

  -- Two servers may settle one request at once: the second waits here, and then its statement fails on the key and is run again.
  v_first := (SELECT r.first_position FROM reserve_positions() AS r);
  WITH numbered AS MATERIALIZED (
    SELECT i.*, v_first + row_number() OVER (ORDER BY i.ordinal) - 1 AS position
    FROM unnest(v_key, v_verdict, v_target, p_at, p_credits, p_status, p_duration_ms, p_cost_micros, p_tokens_in, p_tokens_out, p_ip, p_endpoint, p_model, p_request_id)
      WITH ORDINALITY AS i (key, verdict, target, at, credits, status, duration_ms, cost_micros, tokens_in, tokens_out, ip, endpoint, model, request_id, ordinal)
    WHERE i.verdict <> 'again'
  ),
  rows AS (
    INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, status, duration_ms, occurred_at, settles, cost_micros, tokens_in, tokens_out,
      ip, endpoint, model, request_id)
    SELECT n.position, present, organization_number, n.key, CASE n.verdict WHEN 'record' THEN coalesce(n.credits, 1) ELSE 0 END, CASE n.verdict WHEN 'record' THEN 2 ELSE 3 END, 0,
      n.status, n.duration_ms, n.at, n.target, n.cost_micros, n.tokens_in, n.tokens_out, n.ip, n.endpoint, n.model, CASE n.verdict WHEN 'record' THEN n.request_id END
    FROM numbered n
  ),
  settled AS (
    INSERT INTO settlements (request, settled_by) SELECT n.target, n.position FROM numbered n WHERE n.verdict = 'settle'
  ),
  named AS (
    INSERT INTO usage_requests (organization, request_id, position, recorded_at)
    SELECT organization_number, n.request_id, n.position, present FROM numbered n WHERE n.verdict = 'record' AND n.request_id IS NOT NULL
  )
  SELECT max(n.position) INTO last_position FROM numbered n;
  -- One update a report, under the log's lock as funds are added under it: so a balance is what the events up to each commit say, and its row is never waited
  -- for in another order.
  UPDATE balances b SET micros = b.micros - c.micros
  FROM (SELECT sum(i.cost_micros) AS micros FROM unnest(v_verdict, p_cost_micros) AS i (verdict, cost_micros) WHERE i.verdict <> 'again') AS c
  WHERE b.organization = organization_number AND c.micros > 0;
  PERFORM pg_notify('keyledger_log', '');
END $$;

-- What a key's windows should be at a moment, by its usage events: each array holds the current sub-bucket and then the closed ones, the newest first.
CREATE FUNCTION logged_windows(p_key integer, p_now timestamptz, OUT total bigint, OUT seconds bigint[], OUT tokens bigint[], OUT half_hours bigint[], OUT quarters bigint[])
LANGUAGE sql STABLE AS $$
  WITH used AS (
    -- A report of something that has yet to happen counts as having happened when it was recorded.
    SELECT extract(epoch FROM least(u.occurred_at, u.recorded_at)) AS epoch, u.credits::bigint AS credits, coalesce(u.tokens_in, 0) + coalesce(u.tokens_out, 0) AS tokens
    FROM usage_events u WHERE u.key = p_key
  ),
  grouped AS MATERIALIZED (
    SELECT floor(epoch / 21600)::bigint AS quarter, floor(epoch / 1800)::bigint AS half_hour,
      CASE WHEN epoch > extract(epoch FROM p_now) - 62 THEN floor(epoch)::bigint END AS second, sum(credits)::bigint AS credits, sum(tokens)::bigint AS tokens
    FROM used GROUP BY 1, 2, 3
  )
  SELECT (SELECT coalesce(sum(credits), 0)::bigint FROM grouped),
    ARRAY(SELECT coalesce(sum(g.credits), 0)::bigint FROM generate_series(0, 60) AS i LEFT JOIN grouped g ON g.second = floor(extract(epoch FROM p_now))::bigint - i GROUP BY i ORDER BY i),
    ARRAY(SELECT coalesce(sum(g.tokens), 0)::bigint FROM generate_series(0, 60) AS i LEFT JOIN grouped g ON g.second = floor(extract(epoch FROM p_now))::bigint - i GROUP BY i ORDER BY i),
    ARRAY(SELECT coalesce(sum(g.credits), 0)::bigint FROM generate_series(0, 48) AS i LEFT JOIN grouped g ON g.half_hour = floor(extract(epoch FROM p_now) / 1800)::bigint - i GROUP BY i ORDER BY i),
    ARRAY(SELECT coalesce(sum(g.credits), 0)::bigint FROM generate_series(0, 120) AS i LEFT JOIN grouped g ON g.quarter = floor(extract(epoch FROM p_now) / 21600)::bigint - i GROUP BY i ORDER BY i)
$$;

CREATE FUNCTION padded(counts bigint[], length integer) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT counts[1:length] || array_fill(0::bigint, ARRAY[greatest(0, length - cardinality(counts))])
$$;

-- Where a key's windows differ from its usage events. Takes no lock: what a transaction charges and what it records become visible together, so one snapshot
-- holds windows and log that agree, as of the moment to which the windows were last brought forward.
CREATE FUNCTION window_differences(p_key integer) RETURNS TABLE (kept text, expected text, found text) LANGUAGE sql STABLE AS $$
  SELECT c.kept, c.expected::text, c.found::text
  FROM key_windows w
  JOIN key_window_buckets b ON b.key = w.key
  CROSS JOIN LATERAL logged_windows(p_key, to_timestamp(w.second_bucket)) AS l
  CROSS JOIN LATERAL (VALUES
    ('total', ARRAY[l.total], ARRAY[w.total]),
    ('seconds', l.seconds, padded(w.second_count || b.seconds, 61)),
    ('tokens', l.tokens, padded(w.token_count || b.tokens, 61)),
    ('half_hours', l.half_hours, padded(w.half_hour_count || b.half_hours, 49)),
    ('quarters', l.quarters, padded(w.quarter_count || b.quarters, 121)),
    ('minute_closed', ARRAY[sum_of(l.seconds[2:])], ARRAY[w.minute_closed]),
    ('token_closed', ARRAY[sum_of(l.tokens[2:])], ARRAY[w.token_closed]),
    ('day_closed', ARRAY[sum_of(l.half_hours[2:])], ARRAY[w.day_closed]),
    ('week_closed', ARRAY[sum_of(l.quarters[2:29])], ARRAY[w.week_closed]),
    ('month_closed', ARRAY[sum_of(l.quarters[2:])], ARRAY[w.month_closed])
  ) AS c (kept, expected, found)
  WHERE w.key = p_key AND c.expected <> c.found
$$;

-- Makes a key's windows equal to its usage events, and answers whether they were not. The key is locked meanwhile; its traffic waits, that of others goes on.
CREATE FUNCTION repair_windows(p_key integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  epoch numeric := extract(epoch FROM ledger_now());
  logged record;
  made boolean;
BEGIN
  INSERT INTO key_windows (key, second_bucket, half_hour_bucket, quarter_bucket)
  VALUES (p_key, floor(epoch), floor(epoch / 1800), floor(epoch / 21600)) ON CONFLICT DO NOTHING;
  made := FOUND;
  INSERT INTO key_window_buckets (key) VALUES (p_key) ON CONFLICT DO NOTHING;
  PERFORM lock_windows(ARRAY[p_key]);
  IF NOT EXISTS (SELECT FROM window_differences(p_key)) THEN
    RETURN made;
  END IF;
  SELECT l.* INTO logged FROM key_windows w CROSS JOIN LATERAL logged_windows(p_key, to_timestamp(w.second_bucket)) AS l WHERE w.key = p_key;
  UPDATE key_windows SET total = logged.total,
    second_count = logged.seconds[1], minute_closed = sum_of(logged.seconds[2:]), token_count = logged.tokens[1], token_closed = sum_of(logged.tokens[2:]),
    half_hour_count = logged.half_hours[1], day_closed = sum_of(logged.half_hours[2:]), quarter_count = logged.quarters[1],
    week_closed = sum_of(logged.quarters[2:29]), month_closed = sum_of(logged.quarters[2:])
  WHERE key = p_key;
  UPDATE key_window_buckets SET seconds = logged.seconds[2:], tokens = logged.tokens[2:], half_hours = logged.half_hours[2:], quarters = logged.quarters[2:]
  WHERE key = p_key;
  RETURN true;
END $$;

GRANT SELECT, INSERT, UPDATE ON key_windows, key_window_buckets TO keyledger_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON organization_windows TO keyledger_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON address_failures TO keyledger_server;
GRANT SELECT, INSERT, DELETE ON usage_requests TO keyledger_server;
GRANT SELECT, INSERT ON settlements TO keyledger_server;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA keyledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION close_buckets, sum_of, closing, advance_windows, lock_windows, begin_organization_windows, lock_organization_windows, trace_of, party_of, refusing_rules, granted_cost, room_left, unless_empty, room_at, retry_at, admit, add_to_buckets, charge_windows, record_usage, logged_windows, padded, window_differences, repair_windows TO keyledger_server;
