-- The registry of keys and CRSs (decisions.md 33).

-- name: key_state
SELECT
    (SELECT state FROM kmsd_keys WHERE kind = $1 AND id = $2) AS state,
    CASE WHEN $1 = 'key' THEN EXISTS (SELECT FROM keygen_requests WHERE key_id = $2)
        ELSE EXISTS (SELECT FROM crsgen_requests WHERE crs_id = $2) END AS generated_here

-- name: activate_object
-- What the operator decided stays; the facts of the activation are kept with it.
INSERT INTO kmsd_keys AS k (kind, id, state, reason, changed_by, activated_at, activated_in_block, storage_urls)
VALUES ($1, $2, 'active', $3, 'chain', now(), $4, $5)
ON CONFLICT (kind, id) DO UPDATE SET
    activated_at = coalesce(k.activated_at, now()),
    activated_in_block = coalesce(EXCLUDED.activated_in_block, k.activated_in_block),
    storage_urls = coalesce(EXCLUDED.storage_urls, k.storage_urls),
    state = CASE WHEN k.by_operator THEN k.state ELSE 'active' END,
    reason = CASE WHEN k.by_operator OR k.state = 'active' THEN k.reason ELSE EXCLUDED.reason END,
    changed_by = CASE WHEN k.by_operator OR k.state = 'active' THEN k.changed_by ELSE 'chain' END,
    changed_at = CASE WHEN k.by_operator OR k.state = 'active' THEN k.changed_at ELSE now() END

-- name: note_key_change
INSERT INTO kmsd_key_changes (kind, id, before, after, reason, changed_by)
SELECT $1, $2, $3, $4, $5, $6 WHERE $3::text IS DISTINCT FROM $4::text

-- name: lock_key
SELECT state, by_operator FROM kmsd_keys WHERE kind = $1 AND id = $2 FOR UPDATE

-- name: set_key_state
INSERT INTO kmsd_keys AS k (kind, id, state, reason, changed_by, by_operator) VALUES ($1, $2, $3, $4, $5, true)
ON CONFLICT (kind, id) DO UPDATE SET
    state = EXCLUDED.state, reason = EXCLUDED.reason, changed_by = EXCLUDED.changed_by, changed_at = now(),
    by_operator = true

-- name: key_digests
SELECT key_digests FROM keygen_responses WHERE key_id = $1

-- name: crs_digest
SELECT crs_digest FROM crsgen_responses WHERE crs_id = $1
