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
