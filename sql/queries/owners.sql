-- Daemons and their leases (decisions.md 1).

-- name: try_name_lock
SELECT pg_try_advisory_lock(hashtextextended('kmsd/owner/' || $1, 0))

-- name: free_name_lock
SELECT pg_advisory_unlock(hashtextextended('kmsd/owner/' || $1, 0))

-- name: add_owner
INSERT INTO kmsd_owners (instance_name, roles) VALUES ($1, $2) RETURNING epoch

-- name: earlier_owners
SELECT epoch FROM kmsd_owners WHERE instance_name = $1 AND epoch < $2

-- name: beat
UPDATE kmsd_owners SET heartbeat_at = now() WHERE epoch = $1 RETURNING 1

-- name: silent_owners
SELECT epoch FROM kmsd_owners WHERE heartbeat_at < now() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED

-- name: remove_owners
DELETE FROM kmsd_owners WHERE epoch = ANY($1::bigint[])

-- name: release
-- Rows of these owners go back to the queue, at the place in it that they had.
WITH mine AS (
    SELECT {{id}} AS id, lease_owner FROM {{table}}
    WHERE status = 'under_process' AND lease_owner = ANY($1::bigint[])
    FOR UPDATE
), back AS (
    UPDATE {{table}} r SET status = 'pending', lease_owner = NULL FROM mine WHERE r.{{id}} = mine.id
    RETURNING mine.lease_owner
)
SELECT lease_owner, count(*) AS rows FROM back GROUP BY lease_owner ORDER BY lease_owner

-- name: release_unowned
-- Left under process by somebody who writes no leases.
WITH back AS (
    UPDATE {{table}} SET status = 'pending'
    WHERE status = 'under_process' AND lease_owner IS NULL
    AND updated_at < now()::timestamp - make_interval(secs => $1)
    RETURNING 1
)
SELECT count(*) FROM back

-- name: lost_leases
-- Owners that are no more and hold rows: their statement came to the database after it had given them up.
SELECT DISTINCT r.lease_owner FROM {{table}} r
WHERE r.status = 'under_process' AND r.lease_owner IS NOT NULL
AND NOT EXISTS (SELECT FROM kmsd_owners o WHERE o.epoch = r.lease_owner)

-- name: release_stale
UPDATE {{table}} SET stale_owner = NULL, next_attempt_at = now()
WHERE stale_owner IS NOT NULL AND stale_owner = ANY($1::bigint[])

-- name: release_withdrawn
UPDATE kmsd_withdrawn SET lease_owner = NULL WHERE lease_owner = ANY($1::bigint[])

-- name: read_meta
SELECT gateway_chain_id, decryption_contract, kms_generation_contract FROM kmsd_meta

-- name: write_meta
INSERT INTO kmsd_meta (gateway_chain_id, decryption_contract, kms_generation_contract) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
