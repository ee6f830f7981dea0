-- Finished decryptions leave the tables; their ids do not (QU9, decisions.md 6).

-- name: retention_lock
SELECT pg_advisory_xact_lock(hashtextextended('kmsd/retention', 0))

-- name: expire
-- $1, $2: seconds after which completed and failed ones go; $3: how many at most. A request whose response is still to be
-- sent stays.
WITH old AS MATERIALIZED (
    (SELECT q.{{id}} AS id FROM {{request_table}} q
        WHERE q.status = 'completed' AND q.updated_at < now()::timestamp - make_interval(secs => $1)
        AND kmsd_id_counter(q.{{id}}) IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM {{table}} r WHERE r.{{id}} = q.{{id}} AND NOT (
                (r.status = 'completed' AND r.updated_at < now()::timestamp - make_interval(secs => $1))
                OR (r.status = 'failed' AND r.updated_at < now()::timestamp - make_interval(secs => $2))
            )
        )
        ORDER BY q.updated_at LIMIT $3)
    UNION ALL
    (SELECT q.{{id}} FROM {{request_table}} q
        WHERE q.status = 'failed' AND q.updated_at < now()::timestamp - make_interval(secs => $2)
        AND kmsd_id_counter(q.{{id}}) IS NOT NULL
        AND NOT EXISTS (SELECT FROM {{table}} r WHERE r.{{id}} = q.{{id}} AND r.status IN ('pending', 'under_process'))
        ORDER BY q.updated_at LIMIT $3)
    LIMIT $3
), gone AS (
    DELETE FROM {{request_table}} q USING old WHERE q.{{id}} = old.id AND q.status IN ('completed', 'failed')
    RETURNING old.id
), responses AS (
    DELETE FROM {{table}} r USING gone WHERE r.{{id}} = gone.id
), transactions AS (
    DELETE FROM kmsd_transactions t USING gone
    WHERE t.id = gone.id AND t.kind = '{{kind}}' AND t.state IN ('final', 'dropped')
), rejected AS (
    DELETE FROM kmsd_rejected_results j USING gone WHERE j.kind = '{{kind}}' AND j.id = gone.id
), remembered AS (
    INSERT INTO kmsd_finished AS f (kind, id_type, page, ids)
    SELECT '{{kind}}', kmsd_id_type(id), kmsd_id_counter(id) >> 16,
        range_agg(int8range(kmsd_id_counter(id), kmsd_id_counter(id), '[]'))
    FROM gone GROUP BY 2, 3
    ON CONFLICT (kind, id_type, page) DO UPDATE SET ids = f.ids + EXCLUDED.ids
)
SELECT count(*) FROM gone

-- name: expire_facts
DELETE FROM kmsd_chain_facts
WHERE name = 'PublicDecryptionResponse' AND seen_at < now() - make_interval(secs => $1)

-- name: expire_withdrawn
DELETE FROM kmsd_withdrawn WHERE withdrawn_at < now() - make_interval(secs => $1) AND lease_owner IS NULL

-- name: expire_quarantine
DELETE FROM kmsd_quarantine WHERE resolved_at < now() - make_interval(secs => $1)

-- name: expire_rejected
DELETE FROM kmsd_rejected_results WHERE created_at < now() - make_interval(secs => $1)
OR number <= (SELECT max(number) FROM kmsd_rejected_results) - 10000

-- name: expire_fillers
DELETE FROM kmsd_transactions
WHERE kind IS NULL AND state IN ('final', 'dropped') AND updated_at < now() - make_interval(secs => $1)
