-- Fills a migrated database as years of service would: SELECT fill(rows). Of each table's rows, by counter: most are
-- completed, then a fiftieth each is pending (every other one due), under process (owner 1; the last twenty owners 2,
-- 3 and nobody), and failed. Tables of key management have a hundredth of the rows, at least 2,000.

CREATE FUNCTION id(type int, counter bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT reverse(int8send(counter)) || '\x0000000000000000000000000000000000000000000000'::bytea || substr(int4send(type), 4)
$$;
CREATE FUNCTION ids(type int, first bigint, count int) RETURNS bytea[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(id(type, n)) FROM generate_series(first, first + count - 1) AS n
$$;
CREATE FUNCTION counters(first bigint, count int) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(n) FROM generate_series(first, first + count - 1) AS n
$$;
CREATE FUNCTION arrivals(type int, first bigint, count int) RETURNS kmsd_arrival[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(ROW(id(type, n), sha256(int8send(n)), n / 16, sha256(int8send(n / 16)), n % 16,
        sha256(int8send(n)), '\x00', 1700000000)::kmsd_arrival)
    FROM generate_series(first, first + count - 1) AS n
$$;

CREATE FUNCTION share(rows bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT rows / 50';

CREATE FUNCTION id_type(name text) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN name LIKE 'public%' THEN 1 WHEN name LIKE 'user%' THEN 2 WHEN name LIKE 'prep%' THEN 3
        WHEN name LIKE 'keygen%' THEN 4 WHEN name LIKE 'crs%' THEN 5 WHEN name LIKE 'key_reshare%' THEN 6 ELSE 0 END
$$;

-- What each column of a request or response holds, for the n-th row.
CREATE FUNCTION filling(name text, key_column text, column_name text, type text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN column_name = key_column THEN format('id(%s, n)', id_type(name))
        WHEN column_name = 'sns_ct_materials' THEN
            'ARRAY[ROW(sha256(int8send(n)), id(4, 1), sha256(int8send(n + 1)), ARRAY[''\x11''::bytea])::sns_ciphertext_material]'
        WHEN column_name = 'key_digests' THEN 'ARRAY[ROW(''Server'', sha256(int8send(n)))::key_digest]'
        WHEN column_name = 'params_type' THEN '''Test''::params_type'
        WHEN column_name = 'status' THEN
            '(CASE WHEN n > rows THEN NULL WHEN n > rows - share(rows) THEN ''failed''
                WHEN n > rows - 2 * share(rows) THEN ''under_process''
                WHEN n > rows - 3 * share(rows) THEN ''pending'' ELSE ''completed'' END)::operation_status'
        WHEN column_name = 'lease_owner' THEN
            'CASE WHEN n > rows - share(rows) OR n <= rows - 2 * share(rows) THEN NULL
                WHEN n <= rows - share(rows) - 20 THEN 1 ELSE nullif(2 + n % 3, 4) END'
        WHEN column_name = 'next_attempt_at' THEN
            'now() + CASE WHEN n % 2 = 0 THEN interval ''-1 min'' ELSE interval ''1 hour'' END'
        WHEN column_name IN ('created_at', 'updated_at', 'budget_started_at') THEN
            'now() - interval ''7 days'' + n * (interval ''6 days'' / rows)'
        WHEN column_name IN ('prep_keygen_id') THEN 'id(3, n)'
        WHEN column_name IN ('key_id') THEN 'id(4, n)'
        WHEN column_name = 'block_number' THEN 'n / 16'
        WHEN column_name = 'block_hash' THEN 'sha256(int8send(n / 16))'
        WHEN column_name = 'log_index' THEN 'n % 16'
        WHEN column_name = 'core_shard' THEN '''http://kms-core:50051'''
        WHEN column_name IN ('reporting_node') THEN '''main'''
        WHEN column_name = 'otlp_context' THEN 'decode(repeat(''00'', 8), ''hex'')'
        WHEN column_name IN ('orphaned_at', 'stale_owner', 'note', 'refusal', 'last_error') THEN 'NULL'
        WHEN column_name = 'extra_data' THEN '''\x00''::bytea'
        WHEN column_name = 'signature' THEN 'sha256(int8send(n)) || sha256(int8send(n + 1)) || ''\x1b'''
        WHEN type = 'bytea' THEN 'sha256(int8send(n))'
        WHEN type = 'boolean' THEN 'n <= rows - share(rows) * 2 AND ''already_sent'' = ' || quote_literal(column_name)
        ELSE '0' END
$$;

CREATE FUNCTION fill(rows bigint) RETURNS void LANGUAGE plpgsql AS $fill$
DECLARE
    one record;
    few bigint := greatest(2000, rows / 100);
BEGIN
    SET LOCAL kmsd.writer = 'on';
    FOR one IN
        SELECT c.relname AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
            string_agg(filling(c.relname, k.attname, a.attname, format_type(a.atttypid, NULL)), ', ' ORDER BY a.attnum)
                AS fillings
        FROM pg_class c
        JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
        JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = i.indkey[0]
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relname ~ '_(requests|responses)$' OR c.relname IN ('prss_init', 'key_reshare_same_set')
        GROUP BY c.relname
    LOOP
        EXECUTE format(
            'INSERT INTO %I (%s) SELECT %s FROM (SELECT %s AS rows) AS size, generate_series(1, rows) AS n',
            one.name, one.columns, one.fillings,
            CASE WHEN one.name LIKE 'public%' THEN rows WHEN one.name LIKE 'user%' THEN rows / 5 ELSE few END);
    END LOOP;

    INSERT INTO kmsd_owners (instance_name, roles) SELECT 'daemon-' || n, '{worker}' FROM generate_series(1, 3) AS n;
    INSERT INTO kmsd_cursors SELECT 'main', s, rows / 16, '\x01' FROM unnest('{decryption,key_management}'::text[]) AS s;
    INSERT INTO kmsd_range_ends SELECT 'main', s, rows / 16 - n, '\x01'
        FROM unnest('{decryption,key_management}'::text[]) AS s, generate_series(0, 256) AS n;
    INSERT INTO kmsd_lanes VALUES (1, '\x11', 1, 1, rows);
    INSERT INTO kmsd_transactions (
        chain_id, wallet, nonce, attempt, kind, id, calldata_hash, raw, tx_hash, gas_limit, max_fee_per_gas,
        max_priority_fee_per_gas, state, signed_at, updated_at
    )
    SELECT 1, '\x11', n, 0, 'public_decryption', id(1, n), sha256(int8send(n)), '', sha256(int8send(n)), 1, 1, 1,
        CASE WHEN n > rows - 200 THEN 'signed' WHEN n > rows - 400 THEN 'mined' ELSE 'final' END, now(),
        now() - interval '7 days' + n * (interval '6 days' / rows)
    FROM generate_series(1, rows) AS n;
    INSERT INTO kmsd_chain_facts
        SELECT 'PublicDecryptionResponse', id(1, n), sha256(int8send(n)), n / 16, '\x01', n % 16,
            now() - interval '6 days' + n * (interval '5 days' / rows)
        FROM generate_series(1, rows) AS n;
    INSERT INTO kmsd_finished SELECT 'public_decryption', 1, n, int8multirange(int8range(n << 16, (n + 1) << 16))
        FROM generate_series(1000, 1000 + rows / 65536) AS n;
    INSERT INTO kmsd_quarantine (source, reason, node, kind, id, block_hash, log_index, created_at, resolved_at)
        SELECT 'conflict', 'words', 'main', 'public_decryption', id(1, n), sha256(int8send(n)), 0, now(),
            CASE WHEN n > 100 THEN now() END
        FROM generate_series(1, rows / 10) AS n;
    INSERT INTO kmsd_withdrawn (kind, id, reason, row_content, withdrawn_at)
        SELECT 'public_decryption', id(1, n), 'words', '{}', now() - interval '1 day' FROM generate_series(1, rows / 10) AS n;
    INSERT INTO kmsd_rejected_results (kind, id, core_shard, reason, raw)
        SELECT 'public_decryption', id(1, n), 'http://core', 'words', '\x01' FROM generate_series(1, 9000) AS n;
    INSERT INTO kmsd_sightings
        SELECT 'keygen', id(4, n), 'main', '\x01', '\x01', n, '\x01', 1 FROM generate_series(1, few) AS n;
    INSERT INTO kmsd_keys (kind, id, state, reason, changed_by)
        SELECT 'key', id(4, n), 'active', 'words', 'chain' FROM generate_series(1, few) AS n;
    INSERT INTO kmsd_key_changes (kind, id, after, reason, changed_by)
        SELECT 'key', id(4, n), 'active', 'words', 'chain' FROM generate_series(1, few) AS n;
    INSERT INTO kmsd_operator_actions (action, kind, id, words, done_by)
        SELECT 'retry', 'public_decryption', id(1, n), 'words', 'alice' FROM generate_series(1, rows / 10) AS n;
END $fill$;

-- Nobody gathers statistics while plans are wanted that were made without.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$;

-- Batches as the daemon's, taken from what is there.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT t.typname AS carrier, string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns,
            regexp_replace(substr(t.typname, 6), '_(event|answer)$', '') AS kind, t.typname LIKE '%event' AS is_request
        FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
        WHERE t.typname ~ '^kmsd_.*_(event|answer)$' GROUP BY t.typname
    LOOP
        EXECUTE format(
            'CREATE FUNCTION %1$s_carriers(count int) RETURNS %1$s[] LANGUAGE sql AS
                $f$ SELECT array_agg(ROW(%2$s)::%1$s) FROM (SELECT * FROM %3$I LIMIT count) AS items $f$',
            one.carrier, CASE one.columns WHEN 'none' THEN 'NULL' ELSE one.columns END,
            CASE WHEN NOT one.is_request THEN one.kind || '_responses'
                WHEN one.kind IN ('prss_init', 'key_reshare_same_set') THEN one.kind ELSE one.kind || '_requests' END);
    END LOOP;
END $$;
