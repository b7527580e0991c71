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

-- Counts of closed sub-buckets, the newest first; position i is the sub-bucket i before the current one.
CREATE TABLE key_window_buckets (
  key        integer PRIMARY KEY,
  seconds    bigint[] NOT NULL DEFAULT '{}',
  tokens     bigint[] NOT NULL DEFAULT '{}',
  half_hours bigint[] NOT NULL DEFAULT '{}',
  quarters   bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

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
CREATE FUNCTION close_buckets(closed bigint[], current_count bigint, steps bigint, length integer) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN steps <= 0 THEN closed
    WHEN steps > length THEN '{}'::bigint[]
    ELSE (array_fill(0::bigint, ARRAY[steps::integer - 1]) || current_count || closed)[1:length]
  END
$$;

CREATE FUNCTION sum_of(counts bigint[]) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(sum(c), 0)::bigint FROM unnest(counts) AS c
$$;

-- Brings the windows of keys to a moment. The caller holds the rows of key_windows locked.
CREATE FUNCTION advance_windows(p_keys integer[], p_now timestamptz) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  now_second bigint := floor(extract(epoch FROM p_now));
  now_half_hour integer := floor(extract(epoch FROM p_now) / 1800);
  now_quarter integer := floor(extract(epoch FROM p_now) / 21600);
BEGIN
  WITH closed AS (
    UPDATE key_window_buckets b SET
      seconds = close_buckets(b.seconds, w.second_count, now_second - w.second_bucket, 60),
      tokens = close_buckets(b.tokens, w.token_count, now_second - w.second_bucket, 60),
      half_hours = CASE WHEN now_half_hour > w.half_hour_bucket
        THEN close_buckets(b.half_hours, w.half_hour_count, now_half_hour - w.half_hour_bucket, 48) ELSE b.half_hours END,
      quarters = CASE WHEN now_quarter > w.quarter_bucket
        THEN close_buckets(b.quarters, w.quarter_count, now_quarter - w.quarter_bucket, 120) ELSE b.quarters END
    FROM key_windows w
    WHERE b.key = ANY (p_keys) AND w.key = b.key
    RETURNING b.*
  )
  UPDATE key_windows w SET
    second_bucket = greatest(w.second_bucket, now_second),
    second_count = CASE WHEN now_second > w.second_bucket THEN 0 ELSE w.second_count END,
    minute_closed = CASE WHEN now_second > w.second_bucket THEN sum_of(c.seconds) ELSE w.minute_closed END,
    token_count = CASE WHEN now_second > w.second_bucket THEN 0 ELSE w.token_count END,
    token_closed = CASE WHEN now_second > w.second_bucket THEN sum_of(c.tokens) ELSE w.token_closed END,
    half_hour_bucket = greatest(w.half_hour_bucket, now_half_hour),
    half_hour_count = CASE WHEN now_half_hour > w.half_hour_bucket THEN 0 ELSE w.half_hour_count END,
    day_closed = CASE WHEN now_half_hour > w.half_hour_bucket THEN sum_of(c.half_hours) ELSE w.day_closed END,
    quarter_bucket = greatest(w.quarter_bucket, now_quarter),
    quarter_count = CASE WHEN now_quarter > w.quarter_bucket THEN 0 ELSE w.quarter_count END,
    week_closed = CASE WHEN now_quarter > w.quarter_bucket THEN sum_of(c.quarters[1:28]) ELSE w.week_closed END,
    month_closed = CASE WHEN now_quarter > w.quarter_bucket THEN sum_of(c.quarters) ELSE w.month_closed END
  FROM closed c
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

-- When `need` units will have left a window: closed[i] leaves at (current - i + 1 + length) * width. NULL where that many never will.
CREATE FUNCTION room_at(closed bigint[], current_count bigint, current_bucket bigint, length integer, width_seconds integer, need bigint)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT to_timestamp((current_bucket - (b.i - 1) + 1 + length) * width_seconds)
  FROM (
    SELECT i, sum(count) OVER (ORDER BY i DESC) AS freed
    FROM unnest(current_count || closed[1:length]) WITH ORDINALITY AS c (count, i)
  ) b
  WHERE b.freed >= need
  ORDER BY b.i DESC LIMIT 1
$$;

-- Decides a batch of verifications, consumes their limits and records them, in one transaction. Arrays run parallel, one element a request.
-- p_callers_*: the distinct callers, by token or, where the edge has authenticated them, by organization; p_caller points into them.
-- Codes are those of src/domain/usage.ts; besides 100 caller unauthenticated, 101 caller forbidden, 102 the fast verifier was made with another pepper,
-- 103 the request id belongs to reported usage.
-- Order of checks: caller, key and secret, state, expiry, environment, address, origin, permissions, minute, tokens, total, daily, weekly, monthly.
CREATE FUNCTION admit(
  p_caller_tokens bytea[], p_caller_organizations uuid[], p_verifying_roles text[], p_pepper_id text,
  p_caller integer[], p_lookup_id text[], p_mac bytea[], p_cost integer[], p_permissions text[], p_environment text[], p_ip inet[], p_origin text[],
  p_endpoint text[], p_request_id text[]
) RETURNS TABLE (
  ordinal integer, code smallint, rule smallint, "position" bigint, answered json,
  key_id uuid, organization_id uuid, name text, type text, category text, permissions text[], metadata text, expires_at timestamptz, owner_id uuid,
  outdated boolean, quota_total bigint, quota_daily bigint, quota_weekly bigint, quota_monthly bigint, requests_per_minute bigint, tokens_per_minute bigint,
  minute_left bigint, token_left bigint, total_left bigint, day_left bigint, week_left bigint, month_left bigint, at timestamptz, retry_at timestamptz,
  key_number integer, pepper_id text, argon2 text
) LANGUAGE plpgsql VOLATILE ROWS 64 AS $$
#variable_conflict use_column
DECLARE
  present timestamptz;
BEGIN
  present := lock_windows(ARRAY(
    SELECT k.number FROM key_verifiers v JOIN api_keys k ON k.id = v.key_id WHERE v.lookup_id = ANY (p_lookup_id)));

  RETURN QUERY
  WITH caller AS MATERIALIZED (
    SELECT c.ordinal, o.id AS organization_id, o.number AS organization,
      CASE
        WHEN c.token IS NOT NULL AND (t.id IS NULL OR t.revoked_at IS NOT NULL OR t.expires_at <= present OR (t.member_id IS NOT NULL AND m.role IS NULL)) THEN 100
        WHEN c.token IS NOT NULL AND NOT (
          (t.permissions IS NULL OR 'keys:verify' = ANY (t.permissions)) AND (t.member_id IS NULL OR m.role = ANY (p_verifying_roles))) THEN 101
        ELSE 0
      END AS code
    FROM unnest(p_caller_tokens, p_caller_organizations) WITH ORDINALITY AS c (token, organization_id, ordinal)
    LEFT JOIN access_tokens t ON t.token_hash = c.token
    LEFT JOIN members m ON m.organization_id = t.organization_id AND m.id = t.member_id AND m.removed_at IS NULL
    LEFT JOIN organizations o ON o.id = coalesce(t.organization_id, c.organization_id)
  ),
  checked AS MATERIALIZED (
    SELECT r.ordinal, r.cost, r.ip, r.endpoint, r.request_id, c.organization, q.position AS answered_position, q.answer AS answered,
      k.id AS key_id, k.number AS key, k.organization_id, k.name, k.type, k.category, k.permissions, k.metadata, k.expires_at, k.owner_id, NOT v.current AS outdated,
      k.quota_total, k.quota_daily, k.quota_weekly, k.quota_monthly, k.requests_per_minute, k.tokens_per_minute, v.pepper_id, v.argon2,
      CASE
        WHEN c.code <> 0 THEN c.code
        WHEN q.position IS NOT NULL THEN CASE WHEN q.answer IS NULL THEN 103 ELSE 0 END
        WHEN v.lookup_id IS NULL OR k.organization_id <> c.organization_id OR v.expires_at <= present THEN 1
        WHEN v.pepper_id <> p_pepper_id THEN 102
        -- Both sides are keyed MACs: what the time of this comparison tells about one says nothing about a secret.
        WHEN v.mac <> r.mac THEN 1
        WHEN k.state <> 'active' OR k.archived THEN 2
        WHEN k.expires_at <= present THEN 3
        WHEN (r.environment = 'test') <> (k.type = 'TEST') THEN 5
        WHEN cardinality(k.ip_allowlist) > 0 AND (r.ip IS NULL OR NOT r.ip <<= ANY (k.ip_allowlist::inet[])) THEN 6
        WHEN cardinality(k.allowed_origins) > 0 AND (r.origin IS NULL OR NOT r.origin = ANY (k.allowed_origins)) THEN 7
        WHEN NOT string_to_array(r.permissions, ' ') <@ k.permissions THEN 4
        ELSE 0
      END AS code
    FROM unnest(p_caller, p_lookup_id, p_mac, p_cost, p_permissions, p_environment, p_ip, p_origin, p_endpoint, p_request_id)
      WITH ORDINALITY AS r (caller, lookup_id, mac, cost, permissions, environment, ip, origin, endpoint, request_id, ordinal)
    JOIN caller c ON c.ordinal = r.caller
    LEFT JOIN usage_requests q ON r.request_id IS NOT NULL AND q.organization = c.organization AND q.request_id = r.request_id
    LEFT JOIN key_verifiers v ON v.lookup_id = r.lookup_id
    LEFT JOIN api_keys k ON k.id = v.key_id
  ),
  asking AS MATERIALIZED (
    SELECT g.*, w,
      ARRAY[
        g.requests_per_minute - w.minute_closed - w.second_count,
        -- Tokens are charged when usage is settled: here there only has to be any room at all, whatever the request costs.
        CASE WHEN g.tokens_per_minute - w.token_closed - w.token_count <= 0 THEN -1 END,
        g.quota_total - w.total,
        g.quota_daily - w.day_closed - w.half_hour_count,
        g.quota_weekly - w.week_closed - w.quarter_count,
        g.quota_monthly - w.month_closed - w.quarter_count
      ] AS room
    FROM (
      SELECT c.key, array_agg(c.ordinal ORDER BY c.ordinal) AS ordinals, array_agg(c.cost::bigint ORDER BY c.ordinal) AS costs,
        sum(c.cost) + (min(c.cost) = 0)::integer AS cost, min(c.requests_per_minute) AS requests_per_minute, min(c.tokens_per_minute) AS tokens_per_minute,
        min(c.quota_total) AS quota_total, min(c.quota_daily) AS quota_daily, min(c.quota_weekly) AS quota_weekly, min(c.quota_monthly) AS quota_monthly
      FROM checked c
      WHERE c.code = 0 AND c.answered_position IS NULL
      GROUP BY c.key
    ) AS g
    JOIN key_windows w ON w.key = g.key
  ),
  judged AS MATERIALIZED (
    SELECT a.key, a.room, a.w, j.ordinal, j.cost, j.rule, sum(CASE j.rule WHEN 0 THEN j.cost ELSE 0 END) OVER (PARTITION BY a.key ORDER BY j.ordinal) AS spent
    FROM asking a
    CROSS JOIN LATERAL unnest(
      a.ordinals, a.costs,
      -- Nearly always everything fits.
      CASE WHEN a.cost > least(a.room[1], a.room[2], a.room[3], a.room[4], a.room[5], a.room[6])
        THEN refusing_rules(a.costs, a.room) ELSE array_fill(0::smallint, ARRAY[cardinality(a.costs)]) END
    ) AS j (ordinal, cost, rule)
  ),
  spending AS (
    SELECT j.key, sum(j.cost) AS cost FROM judged j WHERE j.rule = 0 AND j.cost > 0 GROUP BY j.key
  ),
  consumed AS (
    UPDATE key_windows u SET
      total = u.total + s.cost, second_count = u.second_count + s.cost, half_hour_count = u.half_hour_count + s.cost, quarter_count = u.quarter_count + s.cost
    FROM spending s WHERE u.key = s.key
    RETURNING u.key
  ),
  answers AS MATERIALIZED (
    SELECT c.*, j.rule, j.room, j.spent, j.w, (CASE WHEN j.rule IN (1, 2) THEN 11 WHEN j.rule > 2 THEN 10 ELSE c.code END)::smallint AS final,
      row_number() OVER (PARTITION BY c.key IS NOT NULL AND c.code NOT IN (1, 100, 101, 102, 103) AND c.answered_position IS NULL AND c.cost > 0 ORDER BY c.ordinal) AS nth,
      c.key IS NOT NULL AND c.code NOT IN (1, 100, 101, 102, 103) AND c.answered_position IS NULL AND c.cost > 0 AS recording
    FROM checked c LEFT JOIN judged j ON j.ordinal = c.ordinal
  ),
  -- Evaluated after the windows are consumed: the log's lock is the last to be taken, and held for the shortest time.
  reserved AS MATERIALIZED (
    SELECT (reserve_positions()).first_position
    FROM (SELECT count(*) AS n FROM answers a WHERE a.recording) AS r, (SELECT count(*) AS n FROM consumed) AS c
    WHERE r.n > 0 AND c.n >= 0
  ),
  recorded AS (
    INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, ip, endpoint, request_id, detail)
    SELECT b.first_position + a.nth - 1, present, a.organization, a.key, CASE a.final WHEN 0 THEN a.cost ELSE 0 END, 1, a.final, a.ip, a.endpoint, a.request_id,
      CASE WHEN a.rule > 0 THEN (ARRAY['key_minute', 'key_tokens', 'total', 'daily', 'weekly', 'monthly'])[a.rule] || ' ' || greatest(0, a.room[a.rule] - a.spent) || ' left of '
        || (ARRAY[a.requests_per_minute, a.tokens_per_minute, a.quota_total, a.quota_daily, a.quota_weekly, a.quota_monthly])[a.rule] END
    FROM answers a, reserved b
    WHERE a.recording
  ),
  final AS MATERIALIZED (
    SELECT a.ordinal::integer, a.final AS code, coalesce(a.rule, 0::smallint) AS rule, coalesce(b.first_position + a.nth - 1, a.answered_position) AS "position", a.answered,
      a.key_id, a.organization_id, a.name, a.type, a.category, a.permissions, a.metadata::text, a.expires_at, a.owner_id, a.outdated,
      a.quota_total, a.quota_daily, a.quota_weekly, a.quota_monthly, a.requests_per_minute, a.tokens_per_minute,
      greatest(0, a.room[1] - a.spent)::bigint AS minute_left, greatest(0, a.tokens_per_minute - (a.w).token_closed - (a.w).token_count)::bigint AS token_left,
      greatest(0, a.room[3] - a.spent)::bigint AS total_left, greatest(0, a.room[4] - a.spent)::bigint AS day_left,
      greatest(0, a.room[5] - a.spent)::bigint AS week_left, greatest(0, a.room[6] - a.spent)::bigint AS month_left, present AS at,
      CASE WHEN a.rule > 0 THEN (
        SELECT CASE a.rule
          WHEN 1 THEN room_at(x.seconds, (a.w).second_count + a.spent::bigint, (a.w).second_bucket, 60, 1, greatest(a.cost, 1) - a.room[1] + a.spent::bigint)
          WHEN 2 THEN room_at(x.tokens, (a.w).token_count, (a.w).second_bucket, 60, 1, 1 + (a.w).token_closed + (a.w).token_count - a.tokens_per_minute)
          WHEN 4 THEN room_at(x.half_hours, (a.w).half_hour_count + a.spent::bigint, (a.w).half_hour_bucket, 48, 1800, greatest(a.cost, 1) - a.room[4] + a.spent::bigint)
          WHEN 5 THEN room_at(x.quarters, (a.w).quarter_count + a.spent::bigint, (a.w).quarter_bucket, 28, 21600, greatest(a.cost, 1) - a.room[5] + a.spent::bigint)
          WHEN 6 THEN room_at(x.quarters, (a.w).quarter_count + a.spent::bigint, (a.w).quarter_bucket, 120, 21600, greatest(a.cost, 1) - a.room[6] + a.spent::bigint)
        END FROM key_window_buckets x WHERE x.key = a.key) END AS retry_at,
      a.key AS key_number, CASE a.code WHEN 102 THEN a.pepper_id END AS pepper_id, CASE a.code WHEN 102 THEN a.argon2 END AS argon2,
      a.request_id, a.recording, a.organization
    FROM answers a LEFT JOIN reserved b ON a.recording
  ),
  remembered AS (
    INSERT INTO usage_requests (organization, request_id, position, recorded_at, answer)
    SELECT f.organization, f.request_id, f."position", present, row_to_json(f)
    FROM final f WHERE f.recording AND f.request_id IS NOT NULL
  ),
  woken AS (
    -- At most one notification a commit and text: the payload is left empty so that a busy log wakes its readers, not the queue.
    SELECT pg_notify('keyledger_log', '') FROM reserved
  )
  SELECT f.ordinal, f.code, f.rule, f."position", f.answered, f.key_id, f.organization_id, f.name, f.type, f.category, f.permissions, f.metadata, f.expires_at, f.owner_id,
    f.outdated, f.quota_total, f.quota_daily, f.quota_weekly, f.quota_monthly, f.requests_per_minute, f.tokens_per_minute,
    f.minute_left, f.token_left, f.total_left, f.day_left, f.week_left, f.month_left, f.at, f.retry_at, f.key_number, f.pepper_id, f.argon2
  FROM final f LEFT JOIN woken ON true;
END $$;

-- Adds counts to closed sub-buckets: deltas[i] to closed[i], both newest first.
CREATE FUNCTION add_buckets(closed bigint[], deltas bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(array_agg(coalesce(c, 0) + coalesce(d, 0) ORDER BY i), '{}')
  FROM unnest(closed, deltas) WITH ORDINALITY AS both_arrays (c, d, i)
$$;

-- Spreads counts over sub-buckets: the i-th element is the sum of the counts whose offset is i; offsets outside 1 … length are left out.
CREATE FUNCTION spread(offsets bigint[], counts bigint[], length integer) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN EXISTS (SELECT FROM unnest(offsets) AS o WHERE o BETWEEN 1 AND length) THEN ARRAY(
    SELECT coalesce(sum(g.count), 0)::bigint
    FROM generate_series(1, length) AS i LEFT JOIN unnest(offsets, counts) AS g (bucket, count) ON g.bucket = i
    GROUP BY i ORDER BY i) END
$$;

-- Charges reported requests and settled tokens to the windows of their keys, each in the sub-bucket of its moment. The caller holds the rows locked
-- and advanced. Arrays run parallel; a moment in the future counts as now.
CREATE FUNCTION charge_windows(p_key integer[], p_at timestamptz[], p_requests bigint[], p_tokens bigint[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  WITH charge AS MATERIALIZED (
    SELECT c.key, sum(c.requests) AS requests,
      sum(c.requests) FILTER (WHERE c.second <= 0) AS second_count, sum(c.tokens) FILTER (WHERE c.second <= 0) AS token_count,
      sum(c.requests) FILTER (WHERE c.half_hour <= 0) AS half_hour_count, sum(c.requests) FILTER (WHERE c.quarter <= 0) AS quarter_count,
      spread(array_agg(c.second), array_agg(c.requests), 60) AS seconds, spread(array_agg(c.second), array_agg(c.tokens), 60) AS tokens,
      spread(array_agg(c.half_hour), array_agg(c.requests), 48) AS half_hours, spread(array_agg(c.quarter), array_agg(c.requests), 120) AS quarters
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
      seconds = add_buckets(b.seconds, c.seconds), tokens = add_buckets(b.tokens, c.tokens),
      half_hours = add_buckets(b.half_hours, c.half_hours), quarters = add_buckets(b.quarters, c.quarters)
    FROM charge c
    WHERE b.key = c.key AND (c.seconds IS NOT NULL OR c.tokens IS NOT NULL OR c.half_hours IS NOT NULL OR c.quarters IS NOT NULL)
    RETURNING b.key
  )
  UPDATE key_windows w SET
    total = w.total + c.requests,
    second_count = w.second_count + coalesce(c.second_count, 0), minute_closed = w.minute_closed + sum_of(c.seconds),
    token_count = w.token_count + coalesce(c.token_count, 0), token_closed = w.token_closed + sum_of(c.tokens),
    half_hour_count = w.half_hour_count + coalesce(c.half_hour_count, 0), day_closed = w.day_closed + sum_of(c.half_hours),
    quarter_count = w.quarter_count + coalesce(c.quarter_count, 0),
    week_closed = w.week_closed + sum_of(c.quarters[1:28]), month_closed = w.month_closed + sum_of(c.quarters)
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
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  organization_number integer := (SELECT o.number FROM organizations o WHERE o.id = p_organization);
  present timestamptz;
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
  PERFORM charge_windows(array_agg(i.key), array_agg(coalesce(i.at, present)), array_agg(CASE i.verdict WHEN 'record' THEN coalesce(i.credits, 1)::bigint ELSE 0 END),
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
  PERFORM pg_notify('keyledger_log', '');
END $$;

GRANT SELECT, INSERT, UPDATE ON key_windows, key_window_buckets TO keyledger_server;
GRANT SELECT, INSERT, DELETE ON usage_requests TO keyledger_server;
GRANT SELECT, INSERT ON settlements TO keyledger_server;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA keyledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION close_buckets, sum_of, advance_windows, lock_windows, refusing_rules, room_at, admit, add_buckets, spread, charge_windows, record_usage TO keyledger_server;
