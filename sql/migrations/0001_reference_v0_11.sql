-- The schema of the Rust connector at v0.11.0: names, types, encodings, channels and triggers are its own, so that its
-- binaries can serve a database that was made here. A database that the Rust connector made is not run through this
-- file: the runner recognises it and records this version as adopted.
--
-- uint256 values (every …_id, epoch_id, max_bit_length, and key_id inside sns_ciphertext_material) are 32 bytes
-- little-endian; handles, digests, addresses, hashes and signatures are bytes in the order of the chain.

CREATE TYPE sns_ciphertext_material AS (
    ct_handle bytea,
    key_id bytea,
    sns_ciphertext_digest bytea,
    coprocessor_tx_sender_addresses bytea[]
);
CREATE TYPE params_type AS ENUM ('Default', 'Test');
CREATE TYPE key_type AS ENUM ('Server', 'Public');
CREATE TYPE key_digest AS (key_type key_type, digest bytea);
CREATE TYPE event_type AS ENUM (
    'PublicDecryptionRequest', 'UserDecryptionRequest', 'PrepKeygenRequest', 'KeygenRequest', 'CrsgenRequest',
    'PrssInit', 'KeyReshareSameSet'
);
CREATE TYPE operation_status AS ENUM ('pending', 'under_process', 'completed', 'failed');

-- Requests ------------------------------------------------------------------------------------------------------------

CREATE TABLE public_decryption_requests (
    decryption_id bytea PRIMARY KEY,
    sns_ct_materials sns_ciphertext_material[] NOT NULL,
    extra_data bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    already_sent boolean NOT NULL DEFAULT false,
    error_counter smallint NOT NULL DEFAULT 0,
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE user_decryption_requests (
    decryption_id bytea PRIMARY KEY,
    sns_ct_materials sns_ciphertext_material[] NOT NULL,
    user_address bytea NOT NULL,
    public_key bytea NOT NULL,
    extra_data bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    already_sent boolean NOT NULL DEFAULT false,
    error_counter smallint NOT NULL DEFAULT 0,
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE prep_keygen_requests (
    prep_keygen_id bytea PRIMARY KEY,
    epoch_id bytea NOT NULL,
    params_type params_type NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    already_sent boolean NOT NULL DEFAULT false,
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE keygen_requests (
    key_id bytea PRIMARY KEY,
    prep_keygen_id bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    already_sent boolean NOT NULL DEFAULT false,
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE crsgen_requests (
    crs_id bytea PRIMARY KEY,
    max_bit_length bytea NOT NULL,
    params_type params_type NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    already_sent boolean NOT NULL DEFAULT false,
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE prss_init (
    id bytea PRIMARY KEY,
    status operation_status NOT NULL DEFAULT 'pending',
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE key_reshare_same_set (
    key_id bytea PRIMARY KEY,
    prep_keygen_id bytea NOT NULL,
    key_reshare_id bytea NOT NULL,
    params_type params_type NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    tx_hash bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

-- Responses -----------------------------------------------------------------------------------------------------------

CREATE TABLE public_decryption_responses (
    decryption_id bytea PRIMARY KEY,
    decrypted_result bytea NOT NULL,
    signature bytea NOT NULL,
    extra_data bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE user_decryption_responses (
    decryption_id bytea PRIMARY KEY,
    user_decrypted_shares bytea NOT NULL,
    signature bytea NOT NULL,
    extra_data bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE prep_keygen_responses (
    prep_keygen_id bytea PRIMARY KEY,
    signature bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE keygen_responses (
    key_id bytea PRIMARY KEY,
    key_digests key_digest[] NOT NULL,
    signature bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

CREATE TABLE crsgen_responses (
    crs_id bytea PRIMARY KEY,
    crs_digest bytea NOT NULL,
    signature bytea NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now(),
    otlp_context bytea NOT NULL
);

-- Cursor --------------------------------------------------------------------------------------------------------------

CREATE TABLE last_block_polled (
    event_type event_type PRIMARY KEY,
    block_number bigint,
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO last_block_polled (event_type) SELECT unnest(enum_range(NULL::event_type));

-- Indexes -------------------------------------------------------------------------------------------------------------

CREATE INDEX idx_public_decryption_requests_status_updated_at ON public_decryption_requests (status, updated_at);
CREATE INDEX idx_user_decryption_requests_status_updated_at ON user_decryption_requests (status, updated_at);
CREATE INDEX idx_public_decryption_responses_status_updated_at ON public_decryption_responses (status, updated_at);
CREATE INDEX idx_user_decryption_responses_status_updated_at ON user_decryption_responses (status, updated_at);

-- Triggers ------------------------------------------------------------------------------------------------------------

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;

-- The channel is the trigger's argument.
CREATE FUNCTION notify_available() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END $$;

-- The request's table and its key column are the trigger's arguments.
CREATE FUNCTION complete_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE %I SET status = ''completed'' WHERE %I = ($1).%I', TG_ARGV[0], TG_ARGV[1], TG_ARGV[1])
        USING NEW;
    RETURN NULL;
END $$;

DO $$
DECLARE
    kind text;
    request text;
    key_column text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['public_decryption', 'user_decryption', 'prep_keygen', 'keygen', 'crsgen'] LOOP
        request := kind || '_requests';
        SELECT attname INTO STRICT key_column
            FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
            WHERE indrelid = request::regclass AND indisprimary;
        EXECUTE format(
            'CREATE TRIGGER notify_%1$s_request AFTER INSERT ON %2$I FOR EACH STATEMENT
                EXECUTE FUNCTION notify_available(%3$L)',
            kind, request, kind || '_request_available');
        EXECUTE format(
            'CREATE TRIGGER notify_%1$s_response AFTER INSERT ON %2$I FOR EACH STATEMENT
                EXECUTE FUNCTION notify_available(%3$L)',
            kind, kind || '_responses', kind || '_response_available');
        EXECUTE format(
            'CREATE TRIGGER complete_%1$s_request AFTER INSERT ON %2$I FOR EACH ROW
                EXECUTE FUNCTION complete_request(%3$L, %4$L)',
            kind, kind || '_responses', request, key_column);
    END LOOP;
    FOREACH kind IN ARRAY ARRAY['prss_init', 'key_reshare_same_set'] LOOP
        EXECUTE format(
            'CREATE TRIGGER notify_%1$s AFTER INSERT ON %1$I FOR EACH STATEMENT
                EXECUTE FUNCTION notify_available(%2$L)',
            kind, kind || '_available');
    END LOOP;
    FOREACH request IN ARRAY ARRAY[
        'public_decryption_requests', 'user_decryption_requests', 'prep_keygen_requests', 'keygen_requests',
        'crsgen_requests', 'prss_init', 'key_reshare_same_set', 'public_decryption_responses',
        'user_decryption_responses', 'prep_keygen_responses', 'keygen_responses', 'crsgen_responses'
    ] LOOP
        EXECUTE format(
            'CREATE TRIGGER set_updated_at BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION set_updated_at()', request);
    END LOOP;
END $$;
