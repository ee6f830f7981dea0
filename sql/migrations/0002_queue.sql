-- What kmsd keeps with each request and response, beside the reference's columns: all nullable or with defaults, so
-- that the Rust connector's statements run unchanged. Adding them rewrites no table.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'public_decryption_requests', 'user_decryption_requests', 'prep_keygen_requests', 'keygen_requests',
        'crsgen_requests', 'prss_init', 'key_reshare_same_set', 'public_decryption_responses',
        'user_decryption_responses', 'prep_keygen_responses', 'keygen_responses', 'crsgen_responses'
    ] LOOP
        EXECUTE format(
            'ALTER TABLE %I
                ADD COLUMN lease_owner bigint,
                ADD COLUMN next_attempt_at timestamptz NOT NULL DEFAULT now(),
                ADD COLUMN budget_started_at timestamptz NOT NULL DEFAULT now(),
                ADD COLUMN attempts integer NOT NULL DEFAULT 0,
                ADD COLUMN last_error text', name);
        IF name NOT IN ('public_decryption_requests', 'user_decryption_requests') THEN
            EXECUTE format('ALTER TABLE %I ADD COLUMN error_counter smallint NOT NULL DEFAULT 0', name);
        END IF;
        -- The claim: longest due first.
        EXECUTE format(
            'CREATE INDEX kmsd_%1$s_due ON %1$I (next_attempt_at, created_at) WHERE status = ''pending''', name);
        -- Dead owners' rows, and counts with ages.
        EXECUTE format(
            'CREATE INDEX kmsd_%1$s_leased ON %1$I (lease_owner, created_at) WHERE status = ''under_process''', name);
        EXECUTE format('CREATE INDEX kmsd_%1$s_failed ON %1$I (created_at) WHERE status = ''failed''', name);
        -- Every row is updated several times: dead versions are taken away early.
        EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_scale_factor = 0.05)', name);

        IF name LIKE '%\_responses' THEN
            -- The mined transaction that carried the response.
            EXECUTE format('ALTER TABLE %I ADD COLUMN tx_hash bytea', name);
        ELSE
            -- stale_owner: a task of this owner may still work on what the id meant before a reorganisation; the row
            -- is not due before that task has ended. content_epoch: late answers of owners up to this epoch are about
            -- an earlier meaning of the id. orphaned_at: its block fell after the Core had been asked.
            EXECUTE format(
                'ALTER TABLE %I
                    ADD COLUMN core_shard text,
                    ADD COLUMN refusal text,
                    ADD COLUMN note text,
                    ADD COLUMN block_number bigint,
                    ADD COLUMN block_hash bytea,
                    ADD COLUMN log_index bigint,
                    ADD COLUMN content_hash bytea,
                    ADD COLUMN reporting_node text,
                    ADD COLUMN unconfirmed boolean NOT NULL DEFAULT false,
                    ADD COLUMN orphaned_at timestamptz,
                    ADD COLUMN stale_owner bigint,
                    ADD COLUMN content_epoch bigint NOT NULL DEFAULT 0', name);
            -- What a reorganisation may have orphaned.
            EXECUTE format('CREATE INDEX kmsd_%1$s_block ON %1$I (block_number)', name);
            EXECUTE format(
                'CREATE INDEX kmsd_%1$s_stale ON %1$I (stale_owner) WHERE stale_owner IS NOT NULL', name);
        END IF;
    END LOOP;
END $$;

ALTER TABLE prss_init ADD COLUMN already_sent boolean NOT NULL DEFAULT false;
ALTER TABLE key_reshare_same_set ADD COLUMN already_sent boolean NOT NULL DEFAULT false;
CREATE INDEX kmsd_keygen_requests_prep ON keygen_requests (prep_keygen_id);

-- A second reshare of a key is another request (the reference keys the table by key_id and swallows it).
DO $$
DECLARE
    old text;
BEGIN
    SELECT conname INTO STRICT old
        FROM pg_constraint WHERE conrelid = 'key_reshare_same_set'::regclass AND contype = 'p';
    EXECUTE format('ALTER TABLE key_reshare_same_set DROP CONSTRAINT %I', old);
    ALTER TABLE key_reshare_same_set ADD CONSTRAINT key_reshare_same_set_pkey PRIMARY KEY (key_reshare_id);
    CREATE INDEX kmsd_key_reshare_same_set_key ON key_reshare_same_set (key_id);
END $$;

-- An inserted response completes its request, and only one that is not completed yet. The triggers that do it, whatever
-- their names, are replaced; kmsd's own sessions do it by themselves, with the lease, in the same statement.
CREATE FUNCTION kmsd_complete_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'UPDATE %I SET status = ''completed'', lease_owner = NULL
            WHERE %I = ($1).%I AND status IN (''pending'', ''under_process'', ''failed'')',
        TG_ARGV[0], TG_ARGV[1], TG_ARGV[1]) USING NEW;
    RETURN NULL;
END $$;

DO $$
DECLARE
    kind text;
    key_column text;
    old text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['public_decryption', 'user_decryption', 'prep_keygen', 'keygen', 'crsgen'] LOOP
        -- tgtype: bit 0 row level, bit 1 before, bit 2 insert.
        FOR old IN
            SELECT tgname FROM pg_trigger
            WHERE tgrelid = (kind || '_responses')::regclass AND NOT tgisinternal AND tgtype & 7 = 5
        LOOP
            EXECUTE format('DROP TRIGGER %I ON %I', old, kind || '_responses');
        END LOOP;
        SELECT attname INTO STRICT key_column
            FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
            WHERE indrelid = (kind || '_responses')::regclass AND indisprimary;
        EXECUTE format(
            'CREATE TRIGGER kmsd_complete_request AFTER INSERT ON %I FOR EACH ROW
                WHEN (current_setting(''kmsd.writer'', true) IS DISTINCT FROM ''on'')
                EXECUTE FUNCTION kmsd_complete_request(%L, %L)',
            kind || '_responses', kind || '_requests', key_column);
    END LOOP;
END $$;
