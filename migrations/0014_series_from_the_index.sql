-- A series is read from the index alone. In the table, the hours of one key lie as far apart as what all others did meanwhile: a year of them was on as many pages as it has hours.
ALTER TABLE usage_counters DROP CONSTRAINT usage_counters_pkey;
ALTER TABLE usage_counters ADD PRIMARY KEY (slot, grain, organization, key, at) INCLUDE (requests, failed, refused, cost_micros, tokens_in, tokens_out);

-- Pages that were vacuumed are not looked at. A vacuum looks only at pages that are new since the last one.
DO $$
BEGIN
  FOR slot IN 0..1 LOOP
    EXECUTE format('ALTER TABLE usage_counters_%s_minute SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05)', slot);
    EXECUTE format('ALTER TABLE usage_counters_%s_hour SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05)', slot);
  END LOOP;
END $$;
