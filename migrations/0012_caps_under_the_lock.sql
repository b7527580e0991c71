-- Caps on how many of a kind an organization has, looked at under the log's lock.

-- Raises KL003 where an organization has as many of a kind as it may, p_new not counted: the caller decides again, and then finds it full. Called from the statement
-- that appends, after the lock was won. Volatile on purpose: so it looks with a snapshot of its own, and whoever came first is counted.
CREATE FUNCTION require_room(p_kind text, p_organization uuid, p_new uuid, p_most integer) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  others bigint;
BEGIN
  CASE p_kind
    WHEN 'webhook endpoints' THEN
      SELECT count(*) INTO others FROM webhook_endpoints w WHERE w.organization_id = p_organization AND w.state <> 'deleted' AND w.id <> p_new;
    WHEN 'alert rules' THEN
      SELECT count(*) INTO others FROM alert_rules r WHERE r.organization_id = p_organization AND NOT r.deleted AND r.id <> p_new;
  END CASE;
  IF others >= p_most THEN
    RAISE EXCEPTION 'there is no room for more % than %', p_kind, p_most USING ERRCODE = 'KL003';
  END IF;
END $$;

REVOKE EXECUTE ON FUNCTION require_room FROM PUBLIC;
GRANT EXECUTE ON FUNCTION require_room TO keyledger_server;
