-- A prepaid balance can be switched off: then nothing is charged, until it is enabled again and begins at what is added from there on.

-- What a balance should be, by the log up to a position: NULL where the organization keeps none. Funds and usage count from the event that enabled it last.
CREATE OR REPLACE FUNCTION logged_balance(p_organization integer, p_up_to bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT (
      SELECT coalesce(sum((e.data ->> 'micros')::bigint), 0) FROM events e
      WHERE e.stream = b.stream AND e.type = 'FundsAdded' AND e.position > b.position AND e.position <= p_up_to
    ) - (
      SELECT coalesce(sum(u.cost_micros), 0) FROM api_keys k JOIN usage_events u ON u.key = k.number
      WHERE k.organization_id = b.organization_id AND u.position > b.position AND u.position <= p_up_to
    )
  FROM organizations o CROSS JOIN LATERAL (
    SELECT e.stream, e.organization_id, e.position, e.type FROM events e
    WHERE e.stream = 'organization:' || o.id AND e.type IN ('BalanceEnabled', 'BalanceDisabled') AND e.position <= p_up_to
    ORDER BY e.version DESC LIMIT 1) AS b
  WHERE o.number = p_organization AND b.type = 'BalanceEnabled'
$$;

-- Makes an organization's balance equal to its events, and answers whether it was not. All of the log but its newest end is added up before the log's lock
-- is taken, so that nobody waits for longer than it takes to read what came meanwhile; unless the balance was switched on or off meanwhile.
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
  IF micros IS NULL THEN
    -- A row that no event accounts for; where it was taken away meanwhile there is nothing to mend.
    DELETE FROM balances b WHERE b.organization = p_organization;
    RETURN FOUND;
  END IF;
  INSERT INTO balances AS b (organization, micros) VALUES (p_organization, micros) ON CONFLICT (organization) DO UPDATE SET micros = excluded.micros;
  RETURN true;
END $$;
