-- A database as the Rust connector v0.11.0 leaves it, written from reference-connector.md section 2: its types, tables,
-- triggers, channels, indexes, a left-over of its first migration, and its own record of migrations. Names of functions
-- and triggers are not those of kmsd's migration 0001: adoption must not depend on them.

CREATE TABLE _sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
SELECT 20250401000000 + n * 21000000, 'step ' || n, true, decode(md5(n::text), 'hex'), 1000000
FROM generate_series(1, 14) AS n;

CREATE TYPE sns_ciphertext_material AS (
    ct_handle BYTEA, key_id BYTEA, sns_ciphertext_digest BYTEA, coprocessor_tx_sender_addresses BYTEA[]
);
CREATE TYPE params_type AS ENUM ('Default', 'Test');
CREATE TYPE key_type AS ENUM ('Server', 'Public');
CREATE TYPE key_digest AS (key_type key_type, digest BYTEA);
CREATE TYPE event_type AS ENUM (
    'PublicDecryptionRequest', 'UserDecryptionRequest', 'PrepKeygenRequest', 'KeygenRequest', 'CrsgenRequest',
    'PrssInit', 'KeyReshareSameSet'
);
CREATE TYPE operation_status AS ENUM ('pending', 'under_process', 'completed', 'failed');

CREATE TABLE kskgen_requests (
    pre_ksk_id BYTEA PRIMARY KEY, source_key_id BYTEA NOT NULL, dest_key_id BYTEA NOT NULL,
    fhe_params_digest BYTEA NOT NULL, under_process BOOLEAN NOT NULL DEFAULT FALSE,
    created_at TIMESTAMP NOT NULL DEFAULT NOW()
);

-- Columns that came with later migrations stand behind the first ones, so the order is not that of migration 0001.
CREATE TABLE public_decryption_requests (
    decryption_id BYTEA PRIMARY KEY, sns_ct_materials sns_ciphertext_material[] NOT NULL,
    created_at TIMESTAMPTZ NOT NULL, extra_data BYTEA NOT NULL, tx_hash BYTEA, otlp_context BYTEA NOT NULL,
    already_sent BOOLEAN NOT NULL DEFAULT FALSE, error_counter SMALLINT NOT NULL DEFAULT 0,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE user_decryption_requests (
    decryption_id BYTEA PRIMARY KEY, sns_ct_materials sns_ciphertext_material[] NOT NULL, user_address BYTEA NOT NULL,
    public_key BYTEA NOT NULL, created_at TIMESTAMPTZ NOT NULL, extra_data BYTEA NOT NULL, tx_hash BYTEA,
    otlp_context BYTEA NOT NULL, already_sent BOOLEAN NOT NULL DEFAULT FALSE,
    error_counter SMALLINT NOT NULL DEFAULT 0, status operation_status NOT NULL DEFAULT 'pending',
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE prep_keygen_requests (
    prep_keygen_id BYTEA PRIMARY KEY, epoch_id BYTEA NOT NULL, params_type params_type NOT NULL,
    created_at TIMESTAMPTZ NOT NULL, tx_hash BYTEA, otlp_context BYTEA NOT NULL,
    already_sent BOOLEAN NOT NULL DEFAULT FALSE, status operation_status NOT NULL DEFAULT 'pending',
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE keygen_requests (
    key_id BYTEA PRIMARY KEY, prep_keygen_id BYTEA NOT NULL, created_at TIMESTAMPTZ NOT NULL, tx_hash BYTEA,
    otlp_context BYTEA NOT NULL, already_sent BOOLEAN NOT NULL DEFAULT FALSE,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE crsgen_requests (
    crs_id BYTEA PRIMARY KEY, max_bit_length BYTEA NOT NULL, params_type params_type NOT NULL,
    created_at TIMESTAMPTZ NOT NULL, tx_hash BYTEA, otlp_context BYTEA NOT NULL,
    already_sent BOOLEAN NOT NULL DEFAULT FALSE, status operation_status NOT NULL DEFAULT 'pending',
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE prss_init (
    id BYTEA PRIMARY KEY, created_at TIMESTAMPTZ NOT NULL, tx_hash BYTEA, otlp_context BYTEA NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE key_reshare_same_set (
    prep_keygen_id BYTEA NOT NULL, key_id BYTEA PRIMARY KEY, key_reshare_id BYTEA NOT NULL,
    params_type params_type NOT NULL, created_at TIMESTAMPTZ NOT NULL, tx_hash BYTEA, otlp_context BYTEA NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);

CREATE TABLE public_decryption_responses (
    decryption_id BYTEA PRIMARY KEY, decrypted_result BYTEA NOT NULL, signature BYTEA NOT NULL,
    extra_data BYTEA NOT NULL, created_at TIMESTAMPTZ NOT NULL, otlp_context BYTEA NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE user_decryption_responses (
    decryption_id BYTEA PRIMARY KEY, user_decrypted_shares BYTEA NOT NULL, signature BYTEA NOT NULL,
    extra_data BYTEA NOT NULL, created_at TIMESTAMPTZ NOT NULL, otlp_context BYTEA NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE prep_keygen_responses (
    prep_keygen_id BYTEA PRIMARY KEY, signature BYTEA NOT NULL, created_at TIMESTAMPTZ NOT NULL,
    otlp_context BYTEA NOT NULL, status operation_status NOT NULL DEFAULT 'pending',
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE keygen_responses (
    key_id BYTEA PRIMARY KEY, key_digests key_digest[] NOT NULL, signature BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL, otlp_context BYTEA NOT NULL,
    status operation_status NOT NULL DEFAULT 'pending', updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE TABLE crsgen_responses (
    crs_id BYTEA PRIMARY KEY, crs_digest BYTEA NOT NULL, signature BYTEA NOT NULL, created_at TIMESTAMPTZ NOT NULL,
    otlp_context BYTEA NOT NULL, status operation_status NOT NULL DEFAULT 'pending',
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);

CREATE TABLE last_block_polled (
    event_type event_type PRIMARY KEY, block_number BIGINT, updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);
INSERT INTO last_block_polled (event_type) SELECT unnest(enum_range(NULL::event_type));

CREATE INDEX idx_pdr_status_updated ON public_decryption_requests (status, updated_at);
CREATE INDEX idx_udr_status_updated ON user_decryption_requests (status, updated_at);
CREATE INDEX idx_pds_status_updated ON public_decryption_responses (status, updated_at);
CREATE INDEX idx_uds_status_updated ON user_decryption_responses (status, updated_at);

CREATE FUNCTION touch_row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at := NOW(); RETURN NEW; END $$;

DO $$
DECLARE
    base text;
    key text;
    name text;
BEGIN
    FOREACH base IN ARRAY ARRAY['public_decryption', 'user_decryption', 'prep_keygen', 'keygen', 'crsgen'] LOOP
        key := CASE base WHEN 'prep_keygen' THEN 'prep_keygen_id' WHEN 'keygen' THEN 'key_id' WHEN 'crsgen' THEN 'crs_id'
            ELSE 'decryption_id' END;
        FOREACH name IN ARRAY ARRAY['request', 'response'] LOOP
            EXECUTE format(
                'CREATE FUNCTION tell_%1$s_%2$s() RETURNS trigger LANGUAGE plpgsql AS
                    $f$ BEGIN NOTIFY %1$s_%2$s_available; RETURN NULL; END $f$', base, name);
            EXECUTE format(
                'CREATE TRIGGER on_%1$s_%2$s_inserted AFTER INSERT ON %1$s_%2$ss FOR EACH STATEMENT
                    EXECUTE FUNCTION tell_%1$s_%2$s()', base, name);
        END LOOP;
        EXECUTE format(
            'CREATE FUNCTION close_%1$s() RETURNS trigger LANGUAGE plpgsql AS
                $f$ BEGIN UPDATE %1$s_requests SET status = ''completed'' WHERE %2$s = NEW.%2$s; RETURN NULL; END $f$',
            base, key);
        EXECUTE format(
            'CREATE TRIGGER on_%1$s_answered AFTER INSERT ON %1$s_responses FOR EACH ROW
                EXECUTE FUNCTION close_%1$s()', base);
    END LOOP;
    FOREACH base IN ARRAY ARRAY['prss_init', 'key_reshare_same_set'] LOOP
        EXECUTE format(
            'CREATE FUNCTION tell_%1$s() RETURNS trigger LANGUAGE plpgsql AS
                $f$ BEGIN NOTIFY %1$s_available; RETURN NULL; END $f$', base);
        EXECUTE format(
            'CREATE TRIGGER on_%1$s_inserted AFTER INSERT ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION tell_%1$s()', base);
    END LOOP;
    FOR name IN
        SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        AND (relname ~ '^(public|user|prep|keygen|crsgen).*_(requests|responses)$' OR relname IN ('prss_init', 'key_reshare_same_set'))
    LOOP
        EXECUTE format(
            'CREATE TRIGGER touch_%1$s BEFORE UPDATE ON %1$s FOR EACH ROW EXECUTE FUNCTION touch_row()', name);
    END LOOP;
END $$;
