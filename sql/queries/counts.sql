-- Counts and lists for gauges, commands and `--once`.

-- name: backlog
SELECT 'pending' AS status, count(*) AS rows,
    coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_age
FROM {{table}} WHERE status = 'pending'
UNION ALL
SELECT 'under_process', count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
FROM {{table}} WHERE status = 'under_process'
UNION ALL
SELECT 'failed', count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
FROM {{table}} WHERE status = 'failed'

-- name: count_unconfirmed
SELECT count(*) FROM {{table}} WHERE status = 'pending' AND unconfirmed

-- name: count_quarantined
SELECT count(*) FROM kmsd_quarantine WHERE resolved_at IS NULL

-- name: count_open
SELECT (SELECT count(*) FROM {{table}} WHERE status = 'pending')
    + (SELECT count(*) FROM {{table}} WHERE status = 'under_process')

-- name: listed
SELECT {{id}} AS id, status::text AS status, last_error, extract(epoch FROM updated_at)::float8 AS changed_at
FROM {{table}} WHERE status = ANY($1::operation_status[]) AND updated_at >= to_timestamp($2)::timestamp
ORDER BY updated_at LIMIT $3
