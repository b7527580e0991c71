-- Verifications decided on facts that servers keep in memory, and checked by the statement that consumes.

-- Counts the times that a row of the state was written without an event: mended by `keyledger rebuild`. Servers that keep facts of such rows compare it.
CREATE TABLE state_revision (
  revision bigint NOT NULL
) WITH (fillfactor = 20);
INSERT INTO state_revision VALUES (0);

-- As reserve_positions, for verifications, which need no moment of the log. p_newest is a position that is known to be taken: partitions below it are not looked at.
-- p_seen: the newest life-cycle event that all of them were decided with. Raises KL004 where a cap of one of these organizations has begun since, and then they are to be
-- decided again: what is consumed while there is no cap has to be in the log before a cap's windows are made from the log. p_counted: those whose windows are locked and count what
-- is consumed: they may be given other caps meanwhile, and have to wait for none of them. Those that have no cap now have no windows that anyone believes; but windows
-- that were made in this transaction, p_begun, are left to nobody.
CREATE FUNCTION reserve_position(p_newest bigint, p_seen bigint, p_organizations integer[], p_counted integer[], p_begun boolean) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  event_position bigint;
  usage_position bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(1801812339);
  SELECT (SELECT e.position FROM events e WHERE e.position >= p_seen ORDER BY e.position DESC LIMIT 1), (SELECT u.position FROM usage_events u WHERE u.position >= p_newest ORDER BY u.position DESC LIMIT 1)
  INTO event_position, usage_position;
  -- Two conditions: one that looks into a table costs a statement each time.
  IF event_position > p_seen THEN
    IF EXISTS (
      SELECT FROM events e JOIN organizations o ON o.id = e.organization_id
      WHERE e.position > p_seen AND e.type = 'PlanChanged' AND o.number = ANY (p_organizations) AND (o.number = ANY (p_counted)) IS NOT TRUE
        AND (p_begun OR o.requests_per_second IS NOT NULL OR o.requests_per_minute IS NOT NULL)
    ) THEN
      RAISE EXCEPTION 'a cap has begun meanwhile' USING ERRCODE = 'KL004';
    END IF;
  END IF;
  IF usage_position IS NULL THEN
    usage_position := (SELECT u.position FROM usage_events u ORDER BY u.position DESC LIMIT 1);
  END IF;
  RETURN greatest(event_position, usage_position, 0) + 1;
END $$;

DROP FUNCTION admit, lock_organization_windows, imported_lookup_ids, trace_of;

-- Locks the windows of those organizations that have caps, and then those of the keys asked for, and brings the former to the present. Answers what time that
-- is. One moment read under all these locks serves for both and for the log: were it read before a lock is won or once more after, the organization's windows
-- and `recorded_at` would not agree about the sub-bucket. `begun`: some were made here from the log, and nobody else sees those yet, a change of plan that would take them away
-- neither.
CREATE FUNCTION lock_organization_windows(p_capped integer[], p_keys integer[], OUT present timestamptz, OUT begun boolean) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  absent integer[];
  now_tick bigint;
  now_second bigint;
  locked bigint := 0;
BEGIN
  begun := false;
  -- Once more where a change of plan has taken windows away while they were waited for.
  WHILE locked < cardinality(p_capped) LOOP
    absent := ARRAY(SELECT c FROM unnest(p_capped) AS c WHERE NOT EXISTS (SELECT FROM organization_windows w WHERE w.organization = c));
    IF absent <> '{}' THEN
      begun := true;
      PERFORM begin_organization_windows(c) FROM unnest(absent) AS c;
    END IF;
    PERFORM 1 FROM organization_windows WHERE organization = ANY (p_capped) ORDER BY organization FOR NO KEY UPDATE;
    GET DIAGNOSTICS locked = ROW_COUNT;
  END LOOP;
  PERFORM 1 FROM key_windows WHERE key = ANY (p_keys) ORDER BY key FOR NO KEY UPDATE;
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
  WHERE w.organization = ANY (p_capped) AND w.tick_bucket < now_tick;
END $$;

-- As before, but what two or three steps take away is added up here: to call a function for it costs as much as all else that a key costs.
CREATE OR REPLACE FUNCTION closing(closed bigint[], current_count bigint, closed_sum bigint, steps bigint, length integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN steps <= 0 THEN 0
    WHEN steps > length THEN -closed_sum
    WHEN steps = 1 THEN current_count - coalesce(closed[length], 0)
    WHEN closed_sum = 0 THEN current_count
    WHEN steps = 2 THEN current_count - coalesce(closed[length], 0) - coalesce(closed[length - 1], 0)
    WHEN steps = 3 THEN current_count - coalesce(closed[length], 0) - coalesce(closed[length - 1], 0) - coalesce(closed[length - 2], 0)
    ELSE current_count - sum_of(closed[length + 1 - steps::integer : length])
  END
$$;

-- As before, but where no key has used tokens of late, which is nearly always, nothing is worked out for them.
CREATE OR REPLACE FUNCTION advance_windows(p_keys integer[], p_now timestamptz) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  now_second bigint := floor(date_part('epoch', p_now))::bigint;
  now_half_hour integer := now_second / 1800;
  now_quarter integer := now_second / 21600;
  oldest_half_hour integer;
  tokens_used boolean;
BEGIN
  SELECT min(w.half_hour_bucket), bool_or(w.token_count > 0 OR w.token_closed > 0) INTO oldest_half_hour, tokens_used FROM key_windows w WHERE w.key = ANY (p_keys);

  -- Once in half an hour for each key, and so apart from what is done each second.
  IF oldest_half_hour < now_half_hour THEN
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

  IF tokens_used THEN
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
  ELSE
    WITH changes AS (
      UPDATE key_window_buckets b SET seconds = close_buckets(b.seconds, w.second_count, now_second - w.second_bucket, 60)
      FROM key_windows w
      WHERE b.key = ANY (p_keys) AND w.key = b.key AND w.second_bucket < now_second
      RETURNING b.key, closing(old.seconds, w.second_count, w.minute_closed, now_second - w.second_bucket, 60) AS minute
    )
    UPDATE key_windows w SET second_bucket = now_second, second_count = 0, minute_closed = w.minute_closed + c.minute
    FROM changes c
    WHERE w.key = c.key;
  END IF;
END $$;

-- Decides a batch of verifications, consumes their limits and records them, in one transaction. What speaks for and against each request but limits, balances and
-- blocked addresses the server has decided already (`p_code`), on facts that it keeps; here they are found to be current, or nothing is done.
--
-- Facts: p_seen and p_seen_id tell the newest life-cycle event that they include, p_revision that of state_revision, p_facts_of whose they are, NULL where all were
-- read for these very requests, p_keys_named whether all keys among them stand in p_key; p_read the newest event that those include which were, NULL where none was. Where an event is newer that concerns them, or the present lies outside p_since to p_until, between
-- which no expiry lies that the codes rest on (NULL: open), the answer is `stale`. In any case it names as `changed`, up to `seen`, what newer events belong to, as
-- "<organization> <stream>"; NULL where that is too much to tell, and where this log is not the one that the facts are of: an older one that was restored. All that stands in `more`,
-- which is NULL where there is nothing newer and nothing else to tell: a column costs both sides something each time.
--
-- p_organization to p_bad_secret run parallel, one element a request; one that would hold nothing but NULLs may be NULL itself, as p_recorded where all are. So it is
-- with `codes`, `rules`, `recorded` and `special` in `more`, which are NULL where they are what was given, or empty. p_keys to p_tokens run parallel too, one element for each key that
-- may be let through, in ascending order: p_asked is the sum of the costs, NULL where one of them is 0; p_ceiling what its `total` may come to while nothing but tokens can
-- refuse it; p_tokens its limit of tokens. So are those of the answer from consumed_keys on, of which p_minute to p_month say which are wanted; where a key stands there twice, its
-- last element counts. Where one key alone was asked for and passed, lone_used stands in their place: its number, all that it ever used, and what in its minute, day, week and month. p_newest: a position that is known to be taken. p_behind: those whose windows the server takes to be of a second that has passed.
-- p_request_id with p_trace and p_told: the ids that callers chose, what recognises the secret that each was presented with, and what its answer tells of the key, as
-- `key` and `profile`. p_bad_secret: a hash of each secret that was not
-- right. p_capped, p_balanced: those organizations that have limits over all their keys, and that keep a balance. p_wake: tells the followers of the log at
-- once; a caller that has just told them does so again a little later.
-- Codes are those of src/domain/usage.ts; besides 100 caller unauthenticated, 101 caller forbidden, 102 the fast verifier was made with another pepper,
-- 103 the request id belongs to reported usage, or to another key's request, 104 the request id was answered before (`special` has the answer).
-- Order of checks: caller; address blocked; key and secret; organization; its balance; state; expiry; environment; address and origin; permissions; the organization's
-- second and minute; the key's minute and tokens; its quotas total, daily, weekly, monthly. Rules are numbered 1 key_minute, 2 key_tokens, 3 total, 4 daily, 5 weekly,
-- 6 monthly, 7 organization_second, 8 organization_minute. Requests that are `recorded` have the positions from first_position on, in their order.
--
-- Why it is right under concurrency: facts are looked at before anything is consumed, so what was acknowledged before a request came is known to its answer. The
-- windows of a key are one row, and one UPDATE both reads what is left and takes it; of a batch about one key alone it is locked, decided on and written. What one knew to be left of each window while `total` was T holds as long as `total` has not
-- grown by more: all that is consumed counts there too, and time only gives back. So one comparison stands for all of a key's limits, until it fails. Where another batch changed
-- the row first, Postgres runs the expressions again on its new version. A row whose second has passed is brought forward before, under its lock and in a
-- statement of its own, so that the UPDATE sees that; where the server did not know, the UPDATE only locks it, and it is asked after that. A row may only be ahead of this batch's clock, and then its own second counts, in `recorded_at` too:
-- the log and the windows always agree about the sub-bucket. Rows are taken in the order of keys; what deadlocks nevertheless is run again.
-- An organization with a cap has its windows locked before anything else, so that its requests are counted off in their order; of those that fit there, the
-- ones that their keys refuse are not charged. Such a one can take the place of a later one in the same batch, at the cap's edge, for that batch alone.
--
-- Why it is several statements: what nearly no batch needs (caps of organizations, chosen request ids, refusals, bad secrets) would cost every batch its
-- part of a larger plan's start, and that is most of what a batch of a few dozen costs.
-- A type of its own: what a function with so many OUT parameters answers would be worked out anew at each call.
CREATE TYPE admitted AS (
  at timestamptz, first_position bigint, more json,
  lone_used bigint[], consumed_keys integer[], total_used bigint[], minute_used bigint[], day_used bigint[], week_used bigint[], month_used bigint[]
);
CREATE FUNCTION admit(
  p_seen bigint, p_seen_id uuid, p_revision bigint, p_facts_of uuid[], p_keys_named boolean, p_read bigint, p_since timestamptz, p_until timestamptz,
  p_organization integer[], p_key integer[], p_code smallint[], p_recorded boolean[], p_cost integer[], p_ip inet[], p_endpoint text[], p_detail text[],
  p_request_id text[], p_trace text[], p_told text[], p_bad_secret integer[], p_capped integer[], p_balanced integer[],
  p_behind integer[], p_keys integer[], p_asked bigint[], p_ceiling bigint[], p_tokens bigint[], p_minute boolean, p_day boolean, p_week boolean, p_month boolean,
  p_failures_to_block integer, p_failure_window interval, p_block_for interval, p_wake boolean, p_newest bigint
) RETURNS admitted LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  -- Nothing is given a value here that is not needed each time: an assignment is an expression to start.
  present timestamptz := ledger_now();
  present_second bigint;
  stale boolean;
  seen bigint;
  seen_id uuid;
  revision bigint;
  changed text[];
  -- Whether there is anything to tell about the log; NULL where not.
  news boolean;
  -- Whether this log, and the rows that were mended without it, are those that the facts are of.
  known_log boolean;
  blocked boolean;
  suspended integer[];
  -- Whether the codes, and so what the keys are asked for, are others than those given; NULL where not.
  altered boolean;
  -- Of a lone key.
  held key_windows;
  steps bigint;
  came bigint[];
  gone bigint[];
  granted bigint := 0;
  lone_used bigint[];
  consumed_keys integer[];
  total_used bigint[];
  minute_used bigint[];
  day_used bigint[];
  week_used bigint[];
  month_used bigint[];
  seconds bigint[];
  short integer[];
  refusals key_refusals[];
  rules smallint[];
  special json[];
  more json;
  recorded_at timestamptz[];
  first_position bigint;
  positions bigint[];
  -- Whether windows of an organization were made here; NULL where not.
  begun boolean;
  nth record;
BEGIN
  -- With a lower bound the index is read from there on alone, and not all of its last page.
  SELECT e.position, e.id, (SELECT s.revision FROM state_revision s), EXISTS (SELECT FROM address_failures f WHERE f.blocked_until > present)
  INTO seen, seen_id, revision, blocked FROM events e WHERE e.position >= p_seen ORDER BY e.position DESC LIMIT 1;
  stale := coalesce(present < p_since OR present >= p_until, false);
  IF (seen = p_seen AND seen_id = p_seen_id AND revision = p_revision) IS NOT TRUE THEN
    news := true;
    IF seen IS NULL THEN
      SELECT coalesce(e.position, 0), e.id, s.revision INTO seen, seen_id, revision
      FROM state_revision s LEFT JOIN (SELECT position, id FROM events ORDER BY position DESC LIMIT 1) AS e ON true;
    END IF;
    known_log := revision = p_revision AND seen >= p_seen;
    IF known_log AND seen > p_seen THEN
      known_log := (SELECT e.id FROM events e WHERE e.position = p_seen) IS NOT DISTINCT FROM p_seen_id;
    ELSIF known_log THEN
      known_log := seen_id IS NOT DISTINCT FROM p_seen_id;
    END IF;
    IF NOT known_log THEN
      stale := stale OR p_facts_of IS NOT NULL;
    ELSIF seen > p_seen THEN
      SELECT CASE WHEN count(*) <= 10000 THEN coalesce(array_agg(DISTINCT e.organization_id || ' ' || e.stream) FILTER (WHERE e.version > 1), '{}') END,
        stale OR (p_facts_of IS NOT NULL AND (count(*) > 10000 OR coalesce(bool_or(
          CASE WHEN e.version = 1 OR e.organization_id <> ALL (p_facts_of) THEN false
            WHEN e.stream LIKE 'key:%' THEN NOT p_keys_named OR EXISTS (SELECT FROM api_keys k WHERE k.id = substr(e.stream, 5)::uuid AND k.number = ANY (p_key))
            ELSE e.stream LIKE 'token:%' OR e.stream LIKE 'organization:%' OR e.stream LIKE 'profile:%'
          END), false)))
      INTO changed, stale
      -- With the first event of a history something comes into being: no server keeps facts of that. What came after the look above is left for the next one.
      FROM (SELECT organization_id, stream, version FROM events WHERE position > p_seen AND position <= seen ORDER BY position LIMIT 10001) AS e;
    END IF;
  END IF;

  <<deciding>>
  BEGIN
    IF stale THEN
      EXIT deciding;
    END IF;

    IF p_capped IS NOT NULL OR p_balanced IS NOT NULL OR p_request_id IS NOT NULL OR (blocked AND p_ip IS NOT NULL) THEN
      IF p_capped IS NOT NULL THEN
        SELECT w.present, w.begun INTO present, begun FROM lock_organization_windows(p_capped, p_keys) AS w;
        -- It may have taken a while.
        IF present >= p_until THEN
          stale := true;
          EXIT deciding;
        END IF;
      END IF;

      IF blocked AND p_ip IS NOT NULL THEN
        FOR nth IN
          SELECT r.ordinal FROM unnest(p_organization, p_code, p_ip) WITH ORDINALITY AS r (organization, code, ip, ordinal)
          JOIN address_failures f ON f.organization = r.organization AND f.address = party_of(r.ip)
          WHERE f.blocked_until > present AND r.code NOT IN (100, 101)
        LOOP
          p_code[nth.ordinal] := 8;
          altered := true;
        END LOOP;
      END IF;

      IF p_balanced IS NOT NULL THEN
        suspended := ARRAY(SELECT b.organization FROM balances b WHERE b.organization = ANY (p_balanced) AND b.suspended);
        IF suspended <> '{}' THEN
          FOR nth IN
            SELECT r.ordinal FROM unnest(p_organization, p_code) WITH ORDINALITY AS r (organization, code, ordinal)
            WHERE r.organization = ANY (suspended) AND r.code NOT IN (1, 8, 100, 101, 102)
          LOOP
            p_code[nth.ordinal] := 9;
            altered := true;
          END LOOP;
        END IF;
      END IF;

      IF p_request_id IS NOT NULL THEN
        FOR nth IN
          -- Gateways pass on ids that end clients choose: an answer is repeated only to whoever presents the secret that it was given to.
          SELECT r.ordinal, q.position, q.answer, coalesce(q.answer ->> 'asked' = r.trace, false) AS same
          FROM unnest(p_organization, p_code, p_request_id, p_trace) WITH ORDINALITY AS r (organization, code, request_id, trace, ordinal)
          JOIN usage_requests q ON q.organization = r.organization AND q.request_id = r.request_id
          WHERE r.code NOT IN (100, 101)
        LOOP
          -- Nothing is recorded under another request's id.
          p_recorded := coalesce(p_recorded, array_fill(true, ARRAY[cardinality(p_code)]));
          p_recorded[nth.ordinal] := false;
          IF nth.same THEN
            p_code[nth.ordinal] := 104;
            special := coalesce(special, array_fill(NULL::json, ARRAY[cardinality(p_code)]));
            special[nth.ordinal] := json_build_object('position', nth.position::text, 'answer', nth.answer);
            altered := true;
          ELSIF p_code[nth.ordinal] NOT IN (1, 8, 102) THEN
            p_code[nth.ordinal] := 103;
            altered := true;
          END IF;
        END LOOP;
      END IF;

      IF p_capped IS NOT NULL THEN
        FOR nth IN
          SELECT j.ordinal, j.rule + 6 AS rule
          FROM (
            SELECT o.number, o.requests_per_second, o.requests_per_minute, array_agg(r.ordinal ORDER BY r.ordinal) AS ordinals, array_agg(r.cost::bigint ORDER BY r.ordinal) AS costs
            FROM unnest(p_organization, p_cost, p_code) WITH ORDINALITY AS r (organization, cost, code, ordinal)
            JOIN organizations o ON o.number = r.organization
            WHERE r.code = 0
            GROUP BY o.id
          ) AS a
          JOIN organization_windows w ON w.organization = a.number
          CROSS JOIN LATERAL unnest(a.ordinals, refusing_rules(a.costs, ARRAY[
            a.requests_per_second - w.second_closed - w.tick_count, a.requests_per_minute - w.minute_closed - w.second_count])) AS j (ordinal, rule)
          WHERE j.rule > 0
        LOOP
          p_code[nth.ordinal] := 11;
          rules := coalesce(rules, array_fill(0::smallint, ARRAY[cardinality(p_code)]));
          rules[nth.ordinal] := nth.rule;
          altered := true;
        END LOOP;
      END IF;

      IF altered THEN
        SELECT array_agg(k.key ORDER BY k.key), array_agg(r.cost ORDER BY k.key), array_agg(k.ceiling ORDER BY k.key), array_agg(k.tokens ORDER BY k.key)
        INTO p_keys, p_asked, p_ceiling, p_tokens
        FROM unnest(p_keys, p_ceiling, p_tokens) AS k (key, ceiling, tokens)
        JOIN (
          SELECT r.key, CASE WHEN min(r.cost) > 0 THEN sum(r.cost) END AS cost
          FROM unnest(p_key, p_cost, p_code) AS r (key, cost, code) WHERE r.code = 0 GROUP BY r.key
        ) AS r ON r.key = k.key;
        -- Only of rows that are locked below.
        p_behind := ARRAY(SELECT b FROM unnest(p_behind) AS b WHERE b = ANY (p_keys));
        -- Of an outdated secret that passes after all.
        IF p_detail IS NOT NULL THEN
          p_detail := ARRAY(SELECT CASE r.code WHEN 0 THEN r.detail END FROM unnest(p_code, p_detail) WITH ORDINALITY AS r (code, detail, ordinal) ORDER BY r.ordinal);
        END IF;
      END IF;
    END IF;
    present_second := floor(date_part('epoch', present))::bigint;

    IF cardinality(p_keys) = 1 THEN
      -- A lone request, and a hot key. Its row is locked, decided on here and written, which starts in a third of the time that the one UPDATE takes, and less where the second has passed.
      SELECT * INTO held FROM key_windows WHERE key = p_keys[1] FOR NO KEY UPDATE;
      IF FOUND THEN
        IF held.half_hour_bucket < present_second / 1800 OR (held.second_bucket < present_second AND (held.token_count > 0 OR held.token_closed > 0)) THEN
          PERFORM advance_windows(p_keys, present);
          SELECT * INTO held FROM key_windows WHERE key = p_keys[1];
        END IF;
        steps := present_second - held.second_bucket;
        IF steps > 0 THEN
          -- As advance_windows does it.
          IF held.second_count > 0 OR held.minute_closed > 0 THEN
            came := CASE WHEN steps = 1 THEN ARRAY[held.second_count] WHEN steps <= 60 THEN array_fill(0::bigint, ARRAY[steps::integer - 1]) || held.second_count END;
            UPDATE key_window_buckets b SET seconds = CASE WHEN steps > 60 THEN '{}' ELSE (came || b.seconds)[1:60] END WHERE b.key = p_keys[1] RETURNING old.seconds INTO gone;
            IF steps > 60 THEN
              held.minute_closed := 0;
            ELSE
              IF held.minute_closed > 0 THEN
                FOR i IN 61 - steps .. cardinality(gone) LOOP
                  held.minute_closed := held.minute_closed - gone[i];
                END LOOP;
              END IF;
              held.minute_closed := held.minute_closed + held.second_count;
            END IF;
          END IF;
          held.second_bucket := present_second;
          held.second_count := 0;
        ELSIF steps < 0 THEN
          recorded_at := ARRAY(
            SELECT CASE r.key WHEN p_keys[1] THEN to_timestamp(held.second_bucket) ELSE present END FROM unnest(p_key) WITH ORDINALITY AS r (key, ordinal) ORDER BY r.ordinal);
        END IF;
        IF held.total + p_asked[1] <= p_ceiling[1] AND (p_tokens[1] <= held.token_closed + held.token_count) IS NOT TRUE THEN
          granted := p_asked[1];
          lone_used := ARRAY[held.key, held.total + granted, held.minute_closed + held.second_count + granted, held.day_closed + held.half_hour_count + granted,
            held.week_closed + held.quarter_count + granted, held.month_closed + held.quarter_count + granted];
        ELSE
          short := p_keys;
        END IF;
        UPDATE key_windows SET total = held.total + granted, second_bucket = held.second_bucket, second_count = held.second_count + granted, minute_closed = held.minute_closed,
          half_hour_count = held.half_hour_count + granted, quarter_count = held.quarter_count + granted
        WHERE key = p_keys[1];
      END IF;
    ELSE
      IF cardinality(p_behind) > 0 THEN
        -- All rows of the batch, not only those that are behind: the UPDATE takes the others afterwards, and another batch could hold one of them and wait for one of these.
        PERFORM 1 FROM key_windows WHERE key = ANY (p_keys) ORDER BY key FOR NO KEY UPDATE;
        PERFORM advance_windows(p_behind, present);
      END IF;
      -- Nearly always everything fits, and the ceiling tells so. The condition stands there four times, since to work out the cost once would take a plan of its own for
      -- each row; and arrays are read by subscripts, since unnest copies each of them.
      WITH consumed AS (
        UPDATE key_windows w SET
          total = w.total + CASE WHEN w.second_bucket >= present_second AND w.total + p_asked[i] <= p_ceiling[i] AND (p_tokens[i] <= w.token_closed + w.token_count) IS NOT TRUE THEN p_asked[i] ELSE 0 END,
          second_count = w.second_count + CASE WHEN w.second_bucket >= present_second AND w.total + p_asked[i] <= p_ceiling[i] AND (p_tokens[i] <= w.token_closed + w.token_count) IS NOT TRUE THEN p_asked[i] ELSE 0 END,
          half_hour_count = w.half_hour_count + CASE WHEN w.second_bucket >= present_second AND w.total + p_asked[i] <= p_ceiling[i] AND (p_tokens[i] <= w.token_closed + w.token_count) IS NOT TRUE THEN p_asked[i] ELSE 0 END,
          quarter_count = w.quarter_count + CASE WHEN w.second_bucket >= present_second AND w.total + p_asked[i] <= p_ceiling[i] AND (p_tokens[i] <= w.token_closed + w.token_count) IS NOT TRUE THEN p_asked[i] ELSE 0 END
        FROM generate_series(1, cardinality(p_keys)) AS i
        WHERE w.key = p_keys[i]
        RETURNING w.key, new.total = old.total AS short, new.second_bucket, new.total, new.minute_closed + new.second_count AS minute, new.day_closed + new.half_hour_count AS day,
          new.week_closed + new.quarter_count AS week, new.month_closed + new.quarter_count AS month
      )
      SELECT array_agg(c.key), array_agg(c.second_bucket), array_agg(c.total), array_agg(c.minute) FILTER (WHERE p_minute), array_agg(c.day) FILTER (WHERE p_day),
        array_agg(c.week) FILTER (WHERE p_week), array_agg(c.month) FILTER (WHERE p_month), array_agg(c.key) FILTER (WHERE c.short)
      INTO consumed_keys, seconds, total_used, minute_used, day_used, week_used, month_used, short
      FROM consumed c;
      IF present_second > ANY (seconds) THEN
        -- Keys whose second has passed since the server named those that are behind; locked by now, and asked below.
        PERFORM advance_windows(ARRAY(SELECT s.key FROM unnest(consumed_keys, seconds) AS s (key, second) WHERE s.second < present_second), present);
      END IF;
    END IF;

    IF present_second < ANY (seconds) THEN
      recorded_at := ARRAY(
        SELECT greatest(present, to_timestamp(s.second)) FROM unnest(p_key) WITH ORDINALITY AS r (key, ordinal)
        LEFT JOIN unnest(consumed_keys, seconds) AS s (key, second) ON s.key = r.key ORDER BY r.ordinal);
    END IF;

    IF short IS NOT NULL THEN
      -- What these keys are asked for may not fit, or one of their requests only asks: request by request, by the limits themselves. Their rows were locked above.
      WITH asking AS (
        SELECT r.key, array_agg(r.ordinal ORDER BY r.ordinal) AS ordinals, array_agg(r.cost::bigint ORDER BY r.ordinal) AS costs
        FROM unnest(p_key, p_cost, p_code) WITH ORDINALITY AS r (key, cost, code, ordinal)
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
        RETURNING w.key, a.ordinals, refusing_rules(a.costs, room_left(k, old)) AS rules, new.total, new.minute_closed + new.second_count AS minute,
          new.day_closed + new.half_hour_count AS day, new.week_closed + new.quarter_count AS week, new.month_closed + new.quarter_count AS month
      )
      SELECT consumed_keys || array_agg(c.key), total_used || array_agg(c.total), minute_used || array_agg(c.minute) FILTER (WHERE p_minute),
        day_used || array_agg(c.day) FILTER (WHERE p_day), week_used || array_agg(c.week) FILTER (WHERE p_week), month_used || array_agg(c.month) FILTER (WHERE p_month),
        array_agg(ROW(c.ordinals, c.rules)::key_refusals)
      INTO consumed_keys, total_used, minute_used, day_used, week_used, month_used, refusals
      FROM consumed c;
      FOR nth IN SELECT j.ordinal, j.rule FROM unnest(refusals) AS k CROSS JOIN LATERAL unnest(k.ordinals, k.rules) AS j (ordinal, rule) WHERE j.rule > 0 LOOP
        p_code[nth.ordinal] := CASE WHEN nth.rule > 2 THEN 10 ELSE 11 END;
        rules := coalesce(rules, array_fill(0::smallint, ARRAY[cardinality(p_code)]));
        rules[nth.ordinal] := nth.rule;
      END LOOP;
    END IF;

    IF p_capped IS NOT NULL OR rules IS NOT NULL OR p_bad_secret IS NOT NULL THEN
      IF p_capped IS NOT NULL THEN
        UPDATE organization_windows w SET tick_count = w.tick_count + s.cost, second_count = w.second_count + s.cost
        FROM (
          SELECT r.organization, sum(r.cost) AS cost
          FROM unnest(p_organization, p_cost, p_code) AS r (organization, cost, code) WHERE r.code = 0 GROUP BY 1
        ) AS s
        WHERE w.organization = s.organization;
      END IF;

      IF rules IS NOT NULL THEN
        special := coalesce(special, array_fill(NULL::json, ARRAY[cardinality(p_code)]));
        p_detail := coalesce(p_detail, array_fill(NULL::text, ARRAY[cardinality(p_code)]));
        FOR nth IN
          SELECT r.ordinal, (ARRAY['key_minute', 'key_tokens', 'total', 'daily', 'weekly', 'monthly', 'organization_second', 'organization_minute'])[r.rule] AS name, l.cap,
            greatest(0, l.cap - l.used) AS room, o.quota_status, retry_at(r.key, o.number, r.rule, greatest(r.cost, 1), l.cap) AS retry_at
          FROM unnest(p_key, p_organization, p_cost, rules) WITH ORDINALITY AS r (key, organization, cost, rule, ordinal)
          JOIN api_keys k ON k.number = r.key
          JOIN key_windows w ON w.key = r.key
          JOIN organizations o ON o.number = r.organization
          LEFT JOIN organization_windows x ON x.organization = o.number
          CROSS JOIN LATERAL (SELECT
            (ARRAY[k.requests_per_minute, k.tokens_per_minute, k.quota_total, k.quota_daily, k.quota_weekly, k.quota_monthly, o.requests_per_second, o.requests_per_minute])[r.rule] AS cap,
            (ARRAY[w.minute_closed + w.second_count, w.token_closed + w.token_count, w.total, w.day_closed + w.half_hour_count, w.week_closed + w.quarter_count,
              w.month_closed + w.quarter_count, x.second_closed + x.tick_count, x.minute_closed + x.second_count])[r.rule] AS used) AS l
          WHERE r.rule > 0
        LOOP
          special[nth.ordinal] := json_build_object('retryAt', nth.retry_at, 'quotaStatus', nth.quota_status);
          p_detail[nth.ordinal] := format('%s: %s left of %s', nth.name, nth.room, nth.cap);
        END LOOP;
      END IF;

      IF p_bad_secret IS NOT NULL THEN
        INSERT INTO address_failures AS f (organization, address, first_at, secrets, blocked_until)
        SELECT g.organization, g.address, present, g.secrets, CASE WHEN cardinality(g.secrets) >= p_failures_to_block THEN present + p_block_for END
        FROM (
          SELECT r.organization, party_of(r.ip) AS address, array_agg(DISTINCT r.secret) AS secrets
          FROM unnest(p_organization, p_ip, p_code, p_bad_secret) AS r (organization, ip, code, secret)
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
    END IF;

    IF p_recorded IS NULL OR true = ANY (p_recorded) THEN
      -- After the windows are consumed: the log's lock is the last to be taken, and held for the shortest time.
      first_position := reserve_position(p_newest, least(seen, p_read), p_organization, CASE WHEN NOT begun THEN p_capped END, begun);
      IF false = ANY (p_recorded) THEN
        positions := ARRAY(
          SELECT CASE WHEN r.recorded THEN first_position - 1 + count(*) FILTER (WHERE r.recorded) OVER (ORDER BY r.ordinal) END
          FROM unnest(p_recorded) WITH ORDINALITY AS r (recorded, ordinal) ORDER BY r.ordinal);
      END IF;
      INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, ip, endpoint, request_id, detail)
      SELECT coalesce(positions[i], first_position - 1 + i), coalesce(recorded_at[i], present), p_organization[i], p_key[i],
        CASE p_code[i] WHEN 0 THEN p_cost[i] ELSE 0 END, 1, p_code[i], p_ip[i], p_endpoint[i], p_request_id[i], p_detail[i]
      FROM generate_series(1, cardinality(p_code)) AS i
      WHERE p_recorded[i] IS NOT FALSE;
      IF p_wake THEN
        PERFORM pg_notify('keyledger_log', '');
      END IF;

      IF p_request_id IS NOT NULL THEN
        IF lone_used IS NOT NULL THEN
          consumed_keys := p_keys;
          total_used := lone_used[2:2];
          minute_used := lone_used[3:3];
          day_used := lone_used[4:4];
          week_used := lone_used[5:5];
          month_used := lone_used[6:6];
        END IF;
        INSERT INTO usage_requests (organization, request_id, position, recorded_at, answer)
        SELECT u.organization, u.request_id, u.position, u.recorded_at, json_build_object(
          'asked', p_trace[r.ordinal], 'at', u.recorded_at, 'code', u.code, 'rule', coalesce(rules[r.ordinal], 0), 'outdated', u.code = 0 AND u.detail IS NOT NULL,
          'minuteLeft', k.requests_per_minute - l.minute, 'totalLeft', k.quota_total - l.total, 'dayLeft', k.quota_daily - l.day, 'weekLeft', k.quota_weekly - l.week,
          'monthLeft', k.quota_monthly - l.month,
          'retryAt', special[r.ordinal] -> 'retryAt', 'quotaStatus', special[r.ordinal] -> 'quotaStatus', 'key', r.told -> 'key', 'profile', r.told -> 'profile')
        FROM (
          SELECT r.ordinal, coalesce(positions[r.ordinal], first_position - 1 + r.ordinal) AS position, r.told::json AS told
          FROM unnest(p_recorded, p_key, p_told) WITH ORDINALITY AS r (recorded, key, told, ordinal) WHERE r.recorded IS NOT FALSE
        ) AS r
        JOIN usage_events u ON u.position = r.position
        -- What was told, and not what the key has become since.
        CROSS JOIN LATERAL json_populate_record(NULL::api_keys, r.told -> 'key') AS k
        LEFT JOIN LATERAL (
          SELECT * FROM unnest(consumed_keys, total_used, minute_used, day_used, week_used, month_used) WITH ORDINALITY AS l (key, total, minute, day, week, month, ordinal)
          WHERE l.key = u.key ORDER BY l.ordinal DESC LIMIT 1
        ) AS l ON true
        WHERE u.request_id IS NOT NULL;
      END IF;
    END IF;
  END deciding;

  IF news OR stale OR altered OR rules IS NOT NULL THEN
    -- As given, the codes need not be told.
    IF stale OR (altered IS NULL AND rules IS NULL) THEN
      p_code := NULL;
      p_recorded := NULL;
    END IF;
    more := json_build_object('stale', stale, 'seen', seen::text, 'seenId', seen_id, 'revision', revision::text, 'changed', changed, 'codes', p_code, 'rules', rules,
      'recorded', p_recorded, 'special', special);
  END IF;
  RETURN ROW(present, first_position, more, lone_used, consumed_keys, total_used, minute_used, day_used, week_used, month_used)::admitted;
END $$;

-- Makes a key's windows equal to its usage events, and answers whether they were not. The key is locked meanwhile; its traffic waits, that of others goes on.
-- Servers that know what was left in them forget it.
CREATE OR REPLACE FUNCTION repair_windows(p_key integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
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
  UPDATE state_revision SET revision = revision + 1;
  RETURN true;
END $$;

-- Makes an organization's balance equal to its events, and answers whether it was not. All of the log but its newest end is added up before the log's lock
-- is taken, so that nobody waits for longer than it takes to read what came meanwhile; unless the balance was switched on or off meanwhile.
-- Servers that know whether the organization keeps one forget it.
CREATE OR REPLACE FUNCTION repair_balance(p_organization integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  head bigint;
  micros bigint;
BEGIN
  IF NOT EXISTS (SELECT FROM balance_difference(p_organization)) THEN
    RETURN false;
  END IF;
  SELECT h.position, l.micros INTO head, micros
  FROM (SELECT head_position() AS position) AS h, LATERAL (SELECT logged_balance(p_organization, h.position) AS micros) AS l;
  PERFORM reserve_positions();
  IF EXISTS (
    SELECT FROM events e JOIN organizations o ON e.stream = 'organization:' || o.id
    WHERE o.number = p_organization AND e.type IN ('BalanceEnabled', 'BalanceDisabled') AND e.position > head
  ) THEN
    micros := logged_balance(p_organization, head_position());
  ELSE
    micros := micros + (
      SELECT coalesce(sum((e.data ->> 'micros')::bigint), 0) FROM events e JOIN organizations o ON e.stream = 'organization:' || o.id
      WHERE o.number = p_organization AND e.type = 'FundsAdded' AND e.position > head
    ) - (
      SELECT coalesce(sum(u.cost_micros), 0) FROM usage_events u WHERE u.position > head AND u.organization = p_organization
    );
  END IF;
  UPDATE state_revision SET revision = revision + 1;
  IF micros IS NULL THEN
    -- A row that no event accounts for; where it was taken away meanwhile there is nothing to mend.
    DELETE FROM balances b WHERE b.organization = p_organization;
    RETURN FOUND;
  END IF;
  INSERT INTO balances AS b (organization, micros) VALUES (p_organization, micros) ON CONFLICT (organization) DO UPDATE SET micros = excluded.micros;
  RETURN true;
END $$;

GRANT SELECT, UPDATE ON state_revision TO keyledger_server;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA keyledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reserve_position, repair_windows, lock_organization_windows, admit TO keyledger_server;
