-- What commands show and change. Changes name the state that they expect, and are kept in kmsd_operator_actions.

-- name: note_action
INSERT INTO kmsd_operator_actions (action, kind, id, words, done_by) VALUES ($1, $2, $3, $4, $5)

-- name: newest_rows
-- The last changed ones of each status.
SELECT
    {{id}} AS id, latest.status::text AS status, created_at, updated_at, next_attempt_at, attempts, error_counter,
    lease_owner, last_error
FROM unnest($1::operation_status[]) AS wanted (status) CROSS JOIN LATERAL (
    SELECT * FROM {{table}} r WHERE r.status = wanted.status ORDER BY r.updated_at DESC LIMIT $2
) AS latest

-- name: story_row
SELECT * FROM {{table}} WHERE {{id}} = $1

-- name: story_transactions
SELECT
    chain_id, wallet, nonce, attempt, tx_hash, state, gas_limit, max_fee_per_gas, max_priority_fee_per_gas, signed_at,
    block_number, block_hash, receipt_status, error, updated_at
FROM kmsd_transactions WHERE id = $1 AND kind = $2 ORDER BY signed_at, nonce, attempt

-- name: story_rejected
SELECT core_shard, reason, length(raw) AS raw_bytes, created_at FROM kmsd_rejected_results
WHERE kind = $1 AND id = $2 ORDER BY number

-- name: story_sightings
SELECT node, tx_hash, block_number, block_hash, log_index, seen_at FROM kmsd_sightings
WHERE kind = $1 AND id = $2 ORDER BY seen_at

-- name: story_withdrawn
SELECT number, reason, node, tx_hash, block_number, block_hash, log_index, withdrawn_at FROM kmsd_withdrawn
WHERE kind = $1 AND id = $2 ORDER BY number

-- name: story_quarantine
SELECT number, source, reason, node, tx_hash, block_number, block_hash, log_index, created_at, resolved_at, resolution
FROM kmsd_quarantine WHERE kind = $1 AND id = $2 ORDER BY number

-- name: story_divergence
SELECT ours, theirs, block_number, found_at FROM kmsd_divergences WHERE kind = $1 AND id = $2

-- name: story_actions
SELECT action, words, done_by, done_at FROM kmsd_operator_actions WHERE kind = $1 AND id = $2 ORDER BY number

-- name: story_key_changes
SELECT before, after, reason, changed_by, changed_at FROM kmsd_key_changes
WHERE kind = $1 AND id = $2 ORDER BY number

-- name: was_finished
SELECT EXISTS (
    SELECT FROM kmsd_finished f
    WHERE f.kind = $1 AND f.id_type = kmsd_id_type($2) AND f.page = kmsd_id_counter($2) >> 16
    AND f.ids @> kmsd_id_counter($2)
)

-- name: retry
-- A failed row starts afresh; one in back-off is due at once.
UPDATE {{table}} SET
    status = 'pending', lease_owner = NULL, next_attempt_at = now(), budget_started_at = now(), attempts = 0,
    error_counter = 0
WHERE {{id}} = $1 AND (status = 'failed' OR (status = 'pending' AND next_attempt_at < 'infinity'))
RETURNING 1

-- name: retry_all_failed
WITH again AS (
    UPDATE {{table}} SET
        status = 'pending', lease_owner = NULL, next_attempt_at = now(), budget_started_at = now(), attempts = 0,
        error_counter = 0
    WHERE status = 'failed' RETURNING 1
)
SELECT count(*) FROM again

-- name: retry_unconfirmed
UPDATE {{table}} SET unconfirmed = false, next_attempt_at = least(next_attempt_at, now())
WHERE {{id}} = $1 AND status = 'pending' AND unconfirmed RETURNING 1

-- name: fail
UPDATE {{table}} SET status = 'failed', lease_owner = NULL, last_error = $2
WHERE {{id}} = $1 AND status IN ('pending', 'under_process') RETURNING 1

-- name: free_slot_of
DELETE FROM kmsd_ceremony WHERE kind = $1 AND id = $2

-- name: cursors
SELECT node, stream, block_number, block_hash, updated_at FROM kmsd_cursors ORDER BY stream, node

-- name: owners
SELECT
    epoch, instance_name, roles, started_at, heartbeat_at, extract(epoch FROM now() - heartbeat_at)::float8 AS silent_for
FROM kmsd_owners ORDER BY epoch

-- name: lanes
SELECT
    l.chain_id, l.wallet, l.epoch, l.owner, l.highest_nonce, l.taken_at,
    (SELECT count(*) FROM kmsd_transactions t
        WHERE t.chain_id = l.chain_id AND t.wallet = l.wallet AND t.state = 'signed') AS signed,
    (SELECT count(*) FROM kmsd_transactions t
        WHERE t.chain_id = l.chain_id AND t.wallet = l.wallet AND t.state = 'mined') AS mined
FROM kmsd_lanes l ORDER BY l.chain_id, l.wallet

-- name: rewind_cursor
UPDATE kmsd_cursors SET block_number = $3, block_hash = $4, updated_at = now()
WHERE node = $1 AND stream = $2 AND block_number > $3 RETURNING 1

-- name: quarantine
SELECT
    number, source, reason, node, kind, id, address, topics, data, tx_hash, block_number, block_hash, log_index,
    created_at, resolved_at, resolution
FROM kmsd_quarantine WHERE ($1 OR resolved_at IS NULL) AND number > $2 ORDER BY number LIMIT $3

-- name: lock_quarantined
SELECT source, kind, id, node FROM kmsd_quarantine WHERE number = $1 AND resolved_at IS NULL FOR UPDATE

-- name: resolve_quarantined
UPDATE kmsd_quarantine SET resolved_at = now(), resolution = $2 WHERE number = $1

-- name: withdrawn
SELECT number, kind, id, reason, node, tx_hash, block_number, block_hash, log_index, withdrawn_at
FROM kmsd_withdrawn WHERE number > $1 ORDER BY number LIMIT $2

-- name: divergences
SELECT kind, id, ours, theirs, block_number, found_at FROM kmsd_divergences ORDER BY found_at DESC LIMIT $1

-- name: key_registry
-- Every key and CRS that is known: from its generation here, from the chain, or from an operator's decision.
SELECT
    'key' AS kind, coalesce(q.key_id, k.id) AS id, q.prep_keygen_id, coalesce(k.state, 'pre-activation') AS state,
    k.reason, k.changed_by, k.changed_at, coalesce(k.by_operator, false) AS by_operator, k.activated_at,
    k.activated_in_block, k.storage_urls, p.created_at AS prepared_at, q.created_at AS requested_at, q.status::text AS status,
    r.created_at AS generated_at, r.key_digests AS digests, NULL::bytea AS crs_digest,
    (SELECT max(s.updated_at) FROM key_reshare_same_set s
        WHERE s.key_id = coalesce(q.key_id, k.id) AND s.status = 'completed') AS reshared_at
FROM keygen_requests q
FULL JOIN (SELECT * FROM kmsd_keys WHERE kind = 'key') k ON k.id = q.key_id
LEFT JOIN prep_keygen_requests p ON p.prep_keygen_id = q.prep_keygen_id
LEFT JOIN keygen_responses r ON r.key_id = coalesce(q.key_id, k.id)
UNION ALL
SELECT
    'crs', coalesce(q.crs_id, k.id), NULL, coalesce(k.state, 'pre-activation'), k.reason, k.changed_by, k.changed_at,
    coalesce(k.by_operator, false), k.activated_at, k.activated_in_block, k.storage_urls, NULL, q.created_at,
    q.status::text, r.created_at, NULL, r.crs_digest, NULL
FROM crsgen_requests q
FULL JOIN (SELECT * FROM kmsd_keys WHERE kind = 'crs') k ON k.id = q.crs_id
LEFT JOIN crsgen_responses r ON r.crs_id = coalesce(q.crs_id, k.id)
ORDER BY 1 DESC, 13 NULLS FIRST
