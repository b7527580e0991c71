-- Prepaid balances, and secrets that were made elsewhere.

-- An organization that keeps one has a row here; one without pays for a look into an index a batch, and nothing else.

-- The sum of the events, kept by the transactions that append them: what was added less what usage recorded since has cost. Whoever writes a row holds the
-- log's lock by then, so what it holds at each commit is what the log says up to there; `admit` reads it without any lock.
CREATE TABLE balances (
  organization integer PRIMARY KEY,
  micros       bigint  NOT NULL,
  -- At 0.05 of the currency or below no key of the organization passes.
  suspended    boolean NOT NULL GENERATED ALWAYS AS (micros <= 50000) STORED
) WITH (fillfactor = 20);  -- changes with each report of usage: every new version finds room on its page

-- What a balance should be, by the log up to a position: NULL where the organization keeps none. Usage counts from the event that enabled it on.
CREATE FUNCTION logged_balance(p_organization integer, p_up_to bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT (
      SELECT coalesce(sum((e.data ->> 'micros')::bigint), 0) FROM events e WHERE e.stream = b.stream AND e.type = 'FundsAdded' AND e.position <= p_up_to
    ) - (
      SELECT coalesce(sum(u.cost_micros), 0) FROM api_keys k JOIN usage_events u ON u.key = k.number
      WHERE k.organization_id = b.organization_id AND u.position > b.position AND u.position <= p_up_to
    )
  FROM organizations o JOIN events b ON b.stream = 'organization:' || o.id AND b.type = 'BalanceEnabled'
  WHERE o.number = p_organization AND b.position <= p_up_to
$$;

-- Where an organization's balance differs from its events; takes no lock, since one snapshot holds both.
CREATE FUNCTION balance_difference(p_organization integer, OUT expected bigint, OUT found bigint) RETURNS SETOF record LANGUAGE sql STABLE AS $$
  SELECT l.micros, b.micros
  FROM (SELECT logged_balance(p_organization, head_position()) AS micros) AS l LEFT JOIN balances b ON b.organization = p_organization
  WHERE l.micros IS DISTINCT FROM b.micros
$$;

-- Makes an organization's balance equal to its events, and answers whether it was not. All of the log but its newest end is added up before the log's lock
-- is taken, so that nobody waits for longer than it takes to read what came meanwhile.
CREATE FUNCTION repair_balance(p_organization integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  head bigint;
  enabled boolean;
  micros bigint;
BEGIN
  IF NOT EXISTS (SELECT FROM balance_difference(p_organization)) THEN
    RETURN false;
  END IF;
  SELECT h.position, l.micros IS NOT NULL, coalesce(l.micros, 0) INTO head, enabled, micros
  FROM (SELECT head_position() AS position) AS h, LATERAL (SELECT logged_balance(p_organization, h.position) AS micros) AS l;
  PERFORM reserve_positions();
  IF NOT enabled THEN
    -- A row that no event accounts for, unless the event came just now; then there was nothing to mend.
    DELETE FROM balances b WHERE b.organization = p_organization AND logged_balance(p_organization, head_position()) IS NULL;
    RETURN FOUND;
  END IF;
  micros := micros + (
    SELECT coalesce(sum((e.data ->> 'micros')::bigint), 0) FROM events e JOIN organizations o ON e.stream = 'organization:' || o.id
    WHERE o.number = p_organization AND e.type = 'FundsAdded' AND e.position > head
  ) - (
    SELECT coalesce(sum(u.cost_micros), 0) FROM usage_events u WHERE u.position > head AND u.organization = p_organization
  );
  INSERT INTO balances AS b (organization, micros) VALUES (p_organization, micros) ON CONFLICT (organization) DO UPDATE SET micros = excluded.micros;
  RETURN true;
END $$;

-- Passes a balance through that is above zero, and raises KL002 where it is not: a command that needs funds writes the row with it, under the log's lock.
CREATE FUNCTION funded(micros bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF micros <= 0 THEN
    RAISE EXCEPTION 'the balance is used up' USING ERRCODE = 'KL002';
  END IF;
  RETURN micros;
END $$;

-- A secret that was made elsewhere has no lookup id in it: it is found by the SHA-256 that was imported. Two organizations may import the same one. A hash
-- whose verifier is erased stays, so that a secret which was revoked can't be imported once more.
CREATE TABLE imported_secrets (
  hash            bytea NOT NULL CHECK (length(hash) = 32),
  organization_id uuid  NOT NULL REFERENCES organizations,
  lookup_id       text  COLLATE "C" UNIQUE REFERENCES key_verifiers ON DELETE SET NULL,
  PRIMARY KEY (hash, organization_id)
);

-- The lookup ids of a batch's secrets as `admit` takes them: for those in a form of their own the one that stands for their hash in the caller's organization,
-- for all others, which have no hash here, what was given. Asked only for batches that hold such a secret; costs one look into an index each.
CREATE FUNCTION imported_lookup_ids(p_caller_tokens bytea[], p_caller_organizations uuid[], p_caller integer[], p_lookup_id text[], p_hash bytea[])
RETURNS text[] LANGUAGE sql STABLE AS $$
  SELECT array_agg(coalesce(s.lookup_id, r.lookup_id) ORDER BY r.ordinal)
  FROM unnest(p_caller, p_lookup_id, p_hash) WITH ORDINALITY AS r (caller, lookup_id, hash, ordinal)
  LEFT JOIN access_tokens t ON r.hash IS NOT NULL AND t.token_hash = p_caller_tokens[r.caller]
  LEFT JOIN imported_secrets s ON s.hash = r.hash AND s.organization_id = coalesce(t.organization_id, p_caller_organizations[r.caller])
$$;

GRANT SELECT, INSERT ON imported_secrets TO keyledger_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON balances TO keyledger_server;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA keyledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION logged_balance, balance_difference, repair_balance, funded, imported_lookup_ids TO keyledger_server;
