-- Reports of usage that come at the same time share one statement and one commit, and their arrays come in binary. What no item needs is not looked up: most reports are of
-- requests that were not verified here, without request ids, and for those the server has added up already what each key is charged. They are recorded key by key:
-- rows of one key stand together, and so an index page that was found for one is at hand for the next.

DROP FUNCTION record_usage(uuid, bigint[], text[], uuid[], timestamptz[], text[], smallint[], integer[], inet[], integer[], bigint[], bigint[], bigint[], text[]);

-- Records reported usage of one organization, all or nothing, and settles requests that were verified. An item with the id of a verified request settles it; one with another id
-- or none is a request of its own; an id that was reported before is a duplicate and has no effect.
-- p_key_id holds the keys that items name, each once, ascending; p_key each item's place in it, from 1, 0 where it names none. p_charge_*: where no item has a request id and each names a
-- key, what is charged, added up by key and second (p_charge_at NULL: now); otherwise NULL. p_order: the items' places, from 1, in the order in which they are to be recorded.
-- p_request holds the positions of generated request ids, p_request_id the ids that callers chose. A column in which nothing stands is NULL.
-- Answers the position of the first event, the duplicates' places among the items (from 0), and, where there is anything wrong, each bad item's place and what is wrong with it: then
-- nothing was recorded.
CREATE FUNCTION record_usage(
  p_organization uuid, p_key_id uuid[], p_charge_key integer[], p_charge_at timestamptz[], p_charge_credits bigint[], p_charge_tokens bigint[],
  p_key integer[], p_order integer[], p_request bigint[], p_request_id text[], p_at timestamptz[], p_endpoint text[], p_status smallint[], p_duration_ms integer[],
  p_ip inet[], p_credits integer[], p_cost_micros bigint[], p_tokens_in bigint[], p_tokens_out bigint[], p_model text[],
  OUT first_position bigint, OUT again integer[], OUT bad_items integer[], OUT bad_reasons text[]
) LANGUAGE plpgsql VOLATILE
-- Each item is looked up by indexes. The planner, which believes that a report has ten items and that the newest partition is as small as it was when it was
-- last analyzed, would read whole tables; and it would plan anew for each report.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  organization_number integer := (SELECT o.number FROM organizations o WHERE o.id = p_organization);
  v_number integer[];    -- of each key, 0 where there is no such key
  v_key integer[];       -- of each item
  v_order integer[] := p_order;
  v_target bigint[];     -- the request that it settles; NULL as a whole where none does
  v_again boolean[];     -- whether it is a duplicate
  v_locked integer[];
  v_charged integer[];
  v_charged_at timestamptz[];
  v_oldest bigint;
  v_newest bigint;
  present timestamptz;
  present_second bigint;
BEGIN
  -- One way through the index for all of them; only where one is not found they are looked up one by one.
  SELECT array_agg(k.number ORDER BY k.id) INTO v_number FROM api_keys k WHERE k.id = ANY (p_key_id) AND k.organization_id = p_organization;
  IF cardinality(v_number) IS DISTINCT FROM cardinality(p_key_id) THEN
    v_number := ARRAY(
      SELECT coalesce(k.number, 0) FROM unnest(p_key_id) WITH ORDINALITY AS g (id, ordinal)
      LEFT JOIN api_keys k ON k.id = g.id AND k.organization_id = p_organization ORDER BY g.ordinal);
  END IF;
  IF p_charge_key IS NOT NULL AND 0 <> ALL (v_number) THEN
    v_key := ARRAY(SELECT v_number[k] FROM unnest(p_key) AS k);
    v_locked := v_number;
  ELSE
    SELECT array_agg(i.key ORDER BY i.ordinal), array_agg(i.target ORDER BY i.ordinal),
      array_agg(i.verdict = 'again' ORDER BY i.ordinal), array_agg(DISTINCT i.key) FILTER (WHERE i.verdict <> 'again'),
      array_agg(i.ordinal - 1 ORDER BY i.ordinal) FILTER (WHERE i.verdict = 'again'),
      array_agg(i.ordinal - 1 ORDER BY i.ordinal) FILTER (WHERE i.verdict NOT IN ('settle', 'record', 'again')),
      array_agg(i.verdict ORDER BY i.ordinal) FILTER (WHERE i.verdict NOT IN ('settle', 'record', 'again'))
    INTO v_key, v_target, v_again, v_locked, again, bad_items, bad_reasons
    FROM (
      SELECT r.ordinal::integer, coalesce(u.key, r.key) AS key, u.position AS target,
        CASE
          WHEN u.position IS NOT NULL AND u.kind = 1 AND s.request IS NULL AND r.nth = 1 THEN 'settle'
          WHEN u.position IS NOT NULL THEN 'again'
          WHEN r.request IS NOT NULL THEN 'unknown request'
          WHEN r.key IS NULL THEN 'no key'
          WHEN r.key = 0 THEN 'unknown key'
          WHEN r.request_id IS NOT NULL AND r.nth > 1 THEN 'again'
          ELSE 'record'
        END AS verdict
      FROM (
        SELECT g.ordinal, g.request, g.request_id, v_number[g.key] AS key, coalesce(q.position, g.request) AS wanted,
          row_number() OVER (PARTITION BY coalesce('p' || coalesce(q.position, g.request), 'r' || g.request_id, 'i' || g.ordinal) ORDER BY g.ordinal) AS nth
        FROM unnest(p_key, p_request, p_request_id) WITH ORDINALITY AS g (key, request, request_id, ordinal)
        LEFT JOIN usage_requests q ON q.organization = organization_number AND q.request_id = g.request_id
      ) AS r
      LEFT JOIN usage_events u ON u.position = r.wanted AND u.organization = organization_number AND u.kind IN (1, 2)
      LEFT JOIN settlements s ON s.request = u.position
    ) AS i;
    IF bad_items IS NOT NULL THEN
      RETURN;
    END IF;
    IF v_locked IS NULL THEN
      first_position := head_position() + 1;
      RETURN;
    END IF;
    IF again IS NOT NULL THEN
      v_order := ARRAY(SELECT o.item FROM unnest(p_order) AS o (item) WHERE NOT v_again[o.item]);
    END IF;
  END IF;

  -- In the one order of all callers; the clock is read after the locks are won, so that along one key's history it never runs backwards.
  SELECT min(l.second_bucket), max(l.second_bucket) INTO v_oldest, v_newest
  FROM (SELECT w.second_bucket FROM key_windows w WHERE w.key = ANY (v_locked) ORDER BY w.key FOR NO KEY UPDATE) AS l;
  present := ledger_now();
  present_second := floor(extract(epoch FROM present));
  IF v_oldest < present_second THEN
    PERFORM advance_windows(v_locked, present);
  END IF;

  IF p_charge_key IS NOT NULL THEN
    v_charged := ARRAY(SELECT v_number[k] FROM unnest(p_charge_key) AS k);
    v_charged_at := p_charge_at;
  ELSE
    SELECT array_agg(v_key[o]), array_agg(p_at[o]), array_agg(CASE WHEN v_target[o] IS NULL THEN coalesce(p_credits[o], 1)::bigint ELSE 0 END),
      array_agg(coalesce(p_tokens_in[o], 0) + coalesce(p_tokens_out[o], 0))
    INTO v_charged, v_charged_at, p_charge_credits, p_charge_tokens
    FROM unnest(v_order) AS o;
  END IF;
  -- Nearly always what is reported is of the present or of what closed before it, and no window is ahead of it: one is where the clock has stepped back.
  IF p_at IS NOT NULL OR v_newest > present_second THEN
    PERFORM charge_windows(v_charged, ARRAY(SELECT coalesce(i.at, present) FROM unnest(v_charged, v_charged_at) AS i (key, at)), p_charge_credits, p_charge_tokens);
  ELSIF p_charge_key IS NULL THEN
    PERFORM charge_windows(v_charged, NULL, p_charge_credits, p_charge_tokens);
  ELSE
    -- Without moments each key stands here once.
    UPDATE key_windows w SET total = w.total + c.credits, second_count = w.second_count + c.credits, token_count = w.token_count + c.tokens,
      half_hour_count = w.half_hour_count + c.credits, quarter_count = w.quarter_count + c.credits
    FROM (SELECT unnest(v_charged) AS key, unnest(p_charge_credits) AS credits, unnest(p_charge_tokens) AS tokens) AS c
    WHERE w.key = c.key;
  END IF;

  -- Two servers may settle one request at once: the second waits here, and then its statement fails on the key and is run again.
  first_position := (SELECT r.first_position FROM reserve_positions() AS r);
  -- Elements of arrays are taken by their place at no more cost than one after the other: within a function arrays are kept taken apart.
  INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, status, duration_ms, occurred_at, settles, cost_micros, tokens_in, tokens_out,
    ip, endpoint, model, request_id)
  SELECT first_position + i.place - 1, present, organization_number, v_key[o], CASE WHEN v_target[o] IS NULL THEN coalesce(p_credits[o], 1) ELSE 0 END,
    CASE WHEN v_target[o] IS NULL THEN 2 ELSE 3 END, 0, p_status[o], p_duration_ms[o], p_at[o], v_target[o], p_cost_micros[o], p_tokens_in[o], p_tokens_out[o],
    p_ip[o], p_endpoint[o], p_model[o], CASE WHEN v_target[o] IS NULL THEN p_request_id[o] END
  FROM unnest(v_order) WITH ORDINALITY AS i (o, place);
  IF p_charge_key IS NULL THEN
    INSERT INTO settlements (request, settled_by)
    SELECT v_target[o], first_position + i.place - 1 FROM unnest(v_order) WITH ORDINALITY AS i (o, place) WHERE v_target[o] IS NOT NULL;
    INSERT INTO usage_requests (organization, request_id, position, recorded_at)
    SELECT organization_number, p_request_id[o], first_position + i.place - 1, present FROM unnest(v_order) WITH ORDINALITY AS i (o, place)
    WHERE v_target[o] IS NULL AND p_request_id[o] IS NOT NULL;
  END IF;
  -- One update a report, under the log's lock as funds are added under it: so a balance is what the events up to each commit say, and its row is never waited
  -- for in another order.
  IF p_cost_micros IS NOT NULL AND EXISTS (SELECT FROM balances b WHERE b.organization = organization_number) THEN
    UPDATE balances b SET micros = b.micros - c.micros
    FROM (SELECT sum(p_cost_micros[o]) AS micros FROM unnest(v_order) AS o) AS c
    WHERE b.organization = organization_number AND c.micros > 0;
  END IF;
  PERFORM pg_notify('keyledger_log', '');
END $$;

REVOKE EXECUTE ON FUNCTION record_usage FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_usage TO keyledger_server;
