-- The migrations' runner.

-- name: try_migration_lock
SELECT pg_try_advisory_lock(hashtextextended('kmsd/migrations', 0))

-- name: relax_timeouts
-- Large tables take their time; but a lock that is not to be had must not hold up everybody behind it.
SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '10s', false),
    set_config('idle_in_transaction_session_timeout', '0', false), set_config('enable_seqscan', 'on', false),
    set_config('maintenance_work_mem', '256MB', false)

-- name: tables_here
SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname = current_schema()

-- name: columns_here
SELECT relname, attname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE relkind IN ('r', 'p') AND nspname = current_schema() AND relname = ANY($1::text[])

-- name: make_ledger
CREATE TABLE IF NOT EXISTS kmsd_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    adopted boolean NOT NULL,
    seconds double precision NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: record_migration
INSERT INTO kmsd_migrations (version, name, checksum, adopted, seconds) VALUES ($1, $2, $3, $4, $5)

-- name: applied_migrations
SELECT version, name, checksum, adopted FROM kmsd_migrations ORDER BY version

-- name: sqlx_migrations
SELECT version, description, success FROM _sqlx_migrations ORDER BY version
