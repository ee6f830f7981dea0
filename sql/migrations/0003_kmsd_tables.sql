-- Tables that are kmsd's alone.

-- What network this database belongs to: one row.
CREATE TABLE kmsd_meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    gateway_chain_id numeric(78) NOT NULL,
    decryption_contract bytea NOT NULL,
    kms_generation_contract bytea NOT NULL,
    adopted_at timestamptz NOT NULL DEFAULT now()
);

-- Running daemons. A row leaves with its daemon, or when the daemon is found dead.
CREATE TABLE kmsd_owners (
    epoch bigserial PRIMARY KEY,
    instance_name text NOT NULL,
    roles text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE kmsd_owners SET (fillfactor = 50, autovacuum_vacuum_threshold = 100);

-- How far each node was read, and the last ends of its ranges for finding a fork.
CREATE TABLE kmsd_cursors (
    node text NOT NULL,
    stream text NOT NULL,
    block_number bigint NOT NULL,
    block_hash bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node, stream)
);
ALTER TABLE kmsd_cursors SET (fillfactor = 50, autovacuum_vacuum_threshold = 100);

CREATE TABLE kmsd_range_ends (
    node text NOT NULL,
    stream text NOT NULL,
    block_number bigint NOT NULL,
    block_hash bytea NOT NULL,
    PRIMARY KEY (node, stream, block_number)
);

-- Which node showed a ceremony in which log: two that agree confirm it.
CREATE TABLE kmsd_sightings (
    kind text NOT NULL,
    id bytea NOT NULL,
    node text NOT NULL,
    content_hash bytea NOT NULL,
    tx_hash bytea NOT NULL,
    block_number bigint NOT NULL,
    block_hash bytea NOT NULL,
    log_index bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, id, node)
);

-- What could not be used and is not lost: logs that do not decode, logs that contradict a request that the Core has,
-- rows that do not decode.
CREATE TABLE kmsd_quarantine (
    number bigserial PRIMARY KEY,
    source text NOT NULL CHECK (source IN ('log', 'conflict', 'row')),
    reason text NOT NULL,
    node text,
    kind text,
    id bytea,
    address bytea,
    topics bytea[],
    data bytea,
    tx_hash bytea,
    block_number bigint,
    block_hash bytea,
    log_index bigint,
    row_content jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution text
);
CREATE UNIQUE INDEX kmsd_quarantine_log ON kmsd_quarantine (block_hash, log_index, source) WHERE block_hash IS NOT NULL;
CREATE INDEX kmsd_quarantine_open ON kmsd_quarantine (number) WHERE resolved_at IS NULL;

-- Requests of orphaned blocks, and earlier meanings of an id that were replaced. lease_owner: whose task may still work
-- on it.
CREATE TABLE kmsd_withdrawn (
    number bigserial PRIMARY KEY,
    kind text NOT NULL,
    id bytea NOT NULL,
    reason text NOT NULL,
    node text,
    topics bytea[],
    data bytea,
    tx_hash bytea,
    block_number bigint,
    block_hash bytea,
    log_index bigint,
    lease_owner bigint,
    row_content jsonb NOT NULL,
    withdrawn_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX kmsd_withdrawn_id ON kmsd_withdrawn (kind, id);
CREATE INDEX kmsd_withdrawn_leased ON kmsd_withdrawn (lease_owner) WHERE lease_owner IS NOT NULL;

-- Ids of decryptions that left the tables: counters under a type byte, in pages of 65,536.
CREATE TABLE kmsd_finished (
    kind text NOT NULL,
    id_type smallint NOT NULL,
    page bigint NOT NULL,
    ids int8multirange NOT NULL,
    PRIMARY KEY (kind, id_type, page)
);

-- The counter of a little-endian id; NULL where it does not fit (such rows are never removed).
CREATE FUNCTION kmsd_id_counter(id bytea) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE
        WHEN length(id) = 32 AND substr(id, 9, 23) = decode(repeat('00', 23), 'hex') AND get_byte(id, 7) < 128 THEN
            get_byte(id, 0)::bigint | (get_byte(id, 1)::bigint << 8) | (get_byte(id, 2)::bigint << 16)
            | (get_byte(id, 3)::bigint << 24) | (get_byte(id, 4)::bigint << 32) | (get_byte(id, 5)::bigint << 40)
            | (get_byte(id, 6)::bigint << 48) | (get_byte(id, 7)::bigint << 56)
    END
$$;
CREATE FUNCTION kmsd_id_type(id bytea) RETURNS smallint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN length(id) = 32 THEN get_byte(id, 31)::smallint END
$$;

-- The ceremony that is being sent to a Core: one at a time.
CREATE TABLE kmsd_ceremony (
    core text PRIMARY KEY,
    kind text NOT NULL,
    id bytea NOT NULL,
    owner bigint NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, id)
);

-- Wallets. epoch counts tenures of the one writer: an earlier tenure writes nothing more.
CREATE TABLE kmsd_lanes (
    chain_id numeric(78) NOT NULL,
    wallet bytea NOT NULL,
    epoch bigint NOT NULL,
    owner bigint NOT NULL,
    highest_nonce bigint,
    taken_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, wallet)
);
ALTER TABLE kmsd_lanes SET (fillfactor = 50, autovacuum_vacuum_threshold = 100);

-- The journal: every signed transaction, committed before it is broadcast. raw is emptied once it is final.
CREATE TABLE kmsd_transactions (
    chain_id numeric(78) NOT NULL,
    wallet bytea NOT NULL,
    nonce bigint NOT NULL,
    attempt integer NOT NULL,
    kind text,
    id bytea,
    calldata_hash bytea NOT NULL,
    raw bytea NOT NULL,
    tx_hash bytea NOT NULL,
    gas_limit bigint NOT NULL,
    max_fee_per_gas numeric(78) NOT NULL,
    max_priority_fee_per_gas numeric(78) NOT NULL,
    state text NOT NULL CHECK (state IN ('signed', 'mined', 'final', 'dropped')),
    signed_at timestamptz NOT NULL,
    block_number bigint,
    block_hash bytea,
    receipt_status smallint,
    error text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, wallet, nonce, attempt)
);
ALTER TABLE kmsd_transactions SET (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX kmsd_transactions_open ON kmsd_transactions (chain_id, wallet, nonce) WHERE state IN ('signed', 'mined');
CREATE INDEX kmsd_transactions_response ON kmsd_transactions (id) WHERE id IS NOT NULL;

-- Core answers that failed their checks.
CREATE TABLE kmsd_rejected_results (
    number bigserial PRIMARY KEY,
    kind text NOT NULL,
    id bytea NOT NULL,
    core_shard text NOT NULL,
    reason text NOT NULL,
    raw bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX kmsd_rejected_results_id ON kmsd_rejected_results (kind, id);

-- What the committee agreed on, as seen on chain: value is what our own answer must equal (the decrypted result, the
-- digest of a CRS, type byte and digest of each part of a key). Of public decryptions it is kept only until our own
-- answer was compared.
CREATE TABLE kmsd_chain_facts (
    name text NOT NULL,
    id bytea NOT NULL,
    value bytea NOT NULL,
    block_number bigint NOT NULL,
    block_hash bytea NOT NULL,
    log_index bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, id)
);
CREATE INDEX kmsd_chain_facts_age ON kmsd_chain_facts (seen_at);
CREATE INDEX kmsd_chain_facts_block ON kmsd_chain_facts (block_number);

-- Answers of ours that differ from what the committee agreed on.
CREATE TABLE kmsd_divergences (
    kind text NOT NULL,
    id bytea NOT NULL,
    ours bytea NOT NULL,
    theirs bytea NOT NULL,
    block_number bigint NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, id)
);

-- The registry of keys and CRSs, in the states of NIST SP 800-57. Without a row, an object whose generation is known
-- here and not activated is in pre-activation, any other is active.
CREATE TABLE kmsd_keys (
    kind text NOT NULL CHECK (kind IN ('key', 'crs')),
    id bytea NOT NULL,
    state text NOT NULL CHECK (
        state IN ('pre-activation', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed')),
    reason text NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    by_operator boolean NOT NULL DEFAULT false,
    activated_at timestamptz,
    activated_in_block bigint,
    storage_urls text[],
    PRIMARY KEY (kind, id)
);

CREATE TABLE kmsd_key_changes (
    number bigserial PRIMARY KEY,
    kind text NOT NULL,
    id bytea NOT NULL,
    before text,
    after text NOT NULL,
    reason text NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX kmsd_key_changes_id ON kmsd_key_changes (kind, id);

-- What operators did by command.
CREATE TABLE kmsd_operator_actions (
    number bigserial PRIMARY KEY,
    action text NOT NULL,
    kind text,
    id bytea,
    words text NOT NULL,
    done_by text NOT NULL,
    done_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX kmsd_operator_actions_id ON kmsd_operator_actions (kind, id) WHERE id IS NOT NULL;

-- Arrays of these carry batches: `unnest` of plain arrays would flatten the arrays inside rows.
CREATE TYPE kmsd_arrival AS (
    id bytea, tx_hash bytea, block_number bigint, block_hash bytea, log_index bigint, content_hash bytea,
    otlp_context bytea, created_at double precision
);
CREATE TYPE kmsd_public_decryption_event AS (sns_ct_materials sns_ciphertext_material[], extra_data bytea);
CREATE TYPE kmsd_user_decryption_event AS (
    sns_ct_materials sns_ciphertext_material[], user_address bytea, public_key bytea, extra_data bytea
);
CREATE TYPE kmsd_prep_keygen_event AS (epoch_id bytea, params_type params_type);
CREATE TYPE kmsd_keygen_event AS (prep_keygen_id bytea);
CREATE TYPE kmsd_crsgen_event AS (max_bit_length bytea, params_type params_type);
CREATE TYPE kmsd_prss_init_event AS (none boolean);
CREATE TYPE kmsd_key_reshare_same_set_event AS (prep_keygen_id bytea, key_id bytea, params_type params_type);
CREATE TYPE kmsd_public_decryption_answer AS (decrypted_result bytea, signature bytea, extra_data bytea);
CREATE TYPE kmsd_user_decryption_answer AS (user_decrypted_shares bytea, signature bytea, extra_data bytea);
CREATE TYPE kmsd_prep_keygen_answer AS (signature bytea);
CREATE TYPE kmsd_keygen_answer AS (key_digests key_digest[], signature bytea);
CREATE TYPE kmsd_crsgen_answer AS (crs_digest bytea, signature bytea);

-- For operators: every request and response with its id in hexadecimal, as the Core and the chain write it.
CREATE FUNCTION kmsd_hex_id(id bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT string_agg(lpad(to_hex(get_byte(id, n)), 2, '0'), '' ORDER BY n DESC)
        FROM generate_series(0, length(id) - 1) AS n
$$;
DO $$
DECLARE
    parts text[] := '{}';
    part record;
BEGIN
    FOR part IN
        SELECT c.relname AS name, a.attname AS key_column, c.relname LIKE '%\_responses' AS is_response
        FROM pg_class c JOIN pg_index ON indrelid = c.oid AND indisprimary
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = indkey[0]
        WHERE c.oid IN (
            'public_decryption_requests'::regclass, 'user_decryption_requests'::regclass,
            'prep_keygen_requests'::regclass, 'keygen_requests'::regclass, 'crsgen_requests'::regclass,
            'prss_init'::regclass, 'key_reshare_same_set'::regclass, 'public_decryption_responses'::regclass,
            'user_decryption_responses'::regclass, 'prep_keygen_responses'::regclass, 'keygen_responses'::regclass,
            'crsgen_responses'::regclass)
        ORDER BY c.relname
    LOOP
        parts := parts || format(
            'SELECT %L AS table_name, kmsd_hex_id(%I) AS id, status, created_at, updated_at, next_attempt_at,
                lease_owner, attempts, error_counter, last_error, %s FROM %I',
            part.name, part.key_column,
            CASE WHEN part.is_response
                THEN 'NULL::boolean AS already_sent, NULL::text AS core_shard, NULL::bigint AS block_number, tx_hash'
                ELSE 'already_sent, core_shard, block_number, tx_hash' END,
            part.name);
    END LOOP;
    EXECUTE 'CREATE VIEW kmsd_rows AS ' || array_to_string(parts, ' UNION ALL ');
END $$;
