-- Transitions of requests. Each names the status and the lease that it expects (QU2); `ord` says which items applied.
-- Rows are looked up by key: `status::text` keeps the plan from reading a whole partial index of that status instead.

-- name: claim
-- Longest due first. A row whose lease somebody else is writing just now is passed over.
WITH due AS MATERIALIZED (
    SELECT {{id}} AS id FROM {{table}}
    WHERE status = 'pending' AND next_attempt_at <= now()
    ORDER BY next_attempt_at, created_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE {{table}} r SET status = 'under_process', lease_owner = $1, attempts = attempts + 1
FROM due WHERE r.{{id}} = due.id
RETURNING
    r.{{id}} AS id, {{r.columns,}} r.tx_hash, r.block_number, r.block_hash, r.log_index, r.already_sent,
    r.error_counter, r.attempts, r.core_shard, r.refusal, r.otlp_context, r.reporting_node,
    extract(epoch FROM now() - r.budget_started_at)::float8 AS budget_age,
    extract(epoch FROM r.created_at)::float8 AS created_at,
    extract(epoch FROM r.next_attempt_at)::float8 AS due_at

-- name: lease_ceremony
-- $3: the Core that it goes to.
UPDATE {{table}} r SET status = 'under_process', lease_owner = $2, attempts = attempts + 1, core_shard = $3
WHERE r.{{id}} = $1 AND r.status = 'pending'
RETURNING
    r.{{id}} AS id, {{r.columns,}} r.tx_hash, r.block_number, r.block_hash, r.log_index, r.already_sent,
    r.error_counter, r.attempts, r.core_shard, r.refusal, r.otlp_context, r.reporting_node,
    extract(epoch FROM now() - r.budget_started_at)::float8 AS budget_age,
    extract(epoch FROM r.created_at)::float8 AS created_at,
    extract(epoch FROM r.next_attempt_at)::float8 AS due_at

-- name: load_requests
-- What was asked, by id, whatever the state of the row.
SELECT {{r.columns,}} r.{{id}} AS id FROM unnest($1::bytea[]) AS i (id) JOIN {{table}} r ON r.{{id}} = i.id

-- name: quarantine_row
-- A row that cannot be decoded: failed by itself, with its content kept (QU7).
WITH bad AS (
    UPDATE {{table}} r SET status = 'failed', lease_owner = NULL, last_error = $3
    WHERE r.{{id}} = $1 AND r.status::text = 'under_process' AND r.lease_owner = $2
    RETURNING to_jsonb(r) AS content
)
INSERT INTO kmsd_quarantine (source, reason, kind, id, row_content)
SELECT 'row', $3, '{{kind}}', $1, content FROM bad

-- name: sent
-- A send that the Core took freshly shows that an earlier refusal burnt nothing ($4).
UPDATE {{table}} r SET
    already_sent = true, core_shard = i.core_shard, refusal = CASE WHEN i.fresh THEN NULL ELSE r.refusal END
FROM unnest($1::bytea[], $2::bigint[], $3::text[], $4::boolean[])
    WITH ORDINALITY AS i (id, owner, core_shard, fresh, ord)
WHERE r.{{id}} = i.id AND r.status::text = 'under_process' AND r.lease_owner = i.owner
RETURNING i.ord

-- name: finished
-- A verified end completes whatever the row's state, unless the id means another request by now.
UPDATE {{table}} r SET status = 'completed', lease_owner = NULL, note = coalesce(i.note, r.note)
FROM unnest($1::bytea[], $2::bigint[], $3::text[]) WITH ORDINALITY AS i (id, owner, note, ord)
WHERE r.{{id}} = i.id AND (
    (r.status::text = 'under_process' AND r.lease_owner = i.owner)
    OR (r.status::text IN ('pending', 'under_process', 'failed') AND i.owner > r.content_epoch)
)
RETURNING i.ord

-- name: completed
-- Which of these are completed: what a success that changed nothing asks.
SELECT i.ord FROM unnest($1::bytea[]) WITH ORDINALITY AS i (id, ord) JOIN {{table}} r ON r.{{id}} = i.id
WHERE r.status::text = 'completed'

-- name: try_again
UPDATE {{table}} r SET
    status = 'pending', lease_owner = NULL, next_attempt_at = now() + make_interval(secs => i.delay),
    last_error = i.words, error_counter = least(r.error_counter + i.counted::int, 32767),
    already_sent = (r.already_sent OR i.mark_sent) AND NOT i.clear_sent,
    refusal = coalesce(i.refusal, r.refusal), core_shard = coalesce(i.core_shard, r.core_shard)
FROM unnest(
    $1::bytea[], $2::bigint[], $3::float8[], $4::text[], $5::boolean[], $6::boolean[], $7::boolean[], $8::text[],
    $9::text[]
) WITH ORDINALITY AS i (id, owner, delay, words, counted, clear_sent, mark_sent, refusal, core_shard, ord)
WHERE r.{{id}} = i.id AND r.status::text = 'under_process' AND r.lease_owner = i.owner
RETURNING i.ord

-- name: failed
UPDATE {{table}} r SET
    status = 'failed', lease_owner = NULL, last_error = i.words,
    error_counter = least(r.error_counter + i.counted::int, 32767)
FROM unnest($1::bytea[], $2::bigint[], $3::text[], $4::boolean[]) WITH ORDINALITY AS i (id, owner, words, counted, ord)
WHERE r.{{id}} = i.id AND r.status::text = 'under_process' AND r.lease_owner = i.owner
RETURNING i.ord

-- name: end_stale
-- Tasks that worked on what an id meant before a reorganisation. $3: the Core has the earlier request under this id, so
-- that the present one cannot be served; $4: the task has ended.
UPDATE {{table}} r SET
    stale_owner = CASE WHEN i.ended THEN NULL ELSE r.stale_owner END,
    next_attempt_at = CASE WHEN i.ended THEN now() ELSE r.next_attempt_at END,
    status = CASE WHEN i.taken AND r.status = 'pending' THEN 'failed' ELSE r.status END,
    last_error = CASE WHEN i.taken AND r.status = 'pending' THEN $5 ELSE r.last_error END
FROM unnest($1::bytea[], $2::bigint[], $3::boolean[], $4::boolean[]) AS i (id, owner, taken, ended)
WHERE r.{{id}} = i.id AND r.stale_owner = i.owner

-- name: end_stale_withdrawn
-- OFFSET 0 keeps the kind with the batch: as a condition on the table it would invite to read all of that kind.
UPDATE kmsd_withdrawn w SET lease_owner = NULL
FROM (SELECT $3::text AS kind, id, owner FROM unnest($1::bytea[], $2::bigint[]) AS b (id, owner) OFFSET 0) AS i
WHERE w.kind = i.kind AND w.id = i.id AND w.lease_owner = i.owner

-- name: reject
INSERT INTO kmsd_rejected_results (kind, id, core_shard, reason, raw)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::bytea[])

-- name: unfinished_ceremonies
-- Everything that may be sent or polled, with what decides its turn.
SELECT
    {{id}} AS id, status::text AS status, already_sent, next_attempt_at <= now() AS due, unconfirmed, block_number,
    log_index, core_shard, lease_owner, extract(epoch FROM created_at)::float8 AS created_at, last_error
FROM {{table}} WHERE status = 'pending'
UNION ALL
SELECT
    {{id}}, status::text, already_sent, false, unconfirmed, block_number, log_index, core_shard, lease_owner,
    extract(epoch FROM created_at)::float8, last_error
FROM {{table}} WHERE status = 'under_process'

-- name: keygens_of_preparations
-- Preparations and their keygens: whether each preparation is here, has its result, and was used by a keygen.
SELECT
    k.prep_keygen_id, k.key_id, k.already_sent OR k.status = 'completed' AS keygen_sent, p.prep_keygen_id IS NOT NULL AS known,
    r.prep_keygen_id IS NOT NULL AS answered
FROM keygen_requests k
LEFT JOIN prep_keygen_requests p ON p.prep_keygen_id = k.prep_keygen_id
LEFT JOIN prep_keygen_responses r ON r.prep_keygen_id = k.prep_keygen_id

-- name: ceremony_lock
-- Claims of ceremonies go one after the other: they are rare, and their order counts.
SELECT pg_advisory_xact_lock(hashtextextended('kmsd/ceremonies', 0))

-- name: ceremony_slots
SELECT core, kind, id, owner FROM kmsd_ceremony

-- name: take_slot
INSERT INTO kmsd_ceremony (core, kind, id, owner) VALUES ($1, $2, $3, $4)
ON CONFLICT (core) DO UPDATE SET kind = EXCLUDED.kind, id = EXCLUDED.id, owner = EXCLUDED.owner, taken_at = now()

-- name: free_slots
DELETE FROM kmsd_ceremony s USING unnest($1::bytea[], $2::bigint[]) AS i (id, owner)
WHERE s.kind = $3 AND s.id = i.id AND s.owner = i.owner

-- name: free_slots_of_owners
DELETE FROM kmsd_ceremony WHERE owner = ANY($1::bigint[])

-- name: explain_waiting
UPDATE {{table}} SET last_error = $2
WHERE {{id}} = $1 AND status = 'pending' AND last_error IS DISTINCT FROM $2

-- name: keygen_was_sent
SELECT EXISTS (
    SELECT FROM keygen_requests k WHERE k.prep_keygen_id = $1 AND (k.already_sent OR k.status = 'completed')
)

-- name: prep_keygen_known
SELECT EXISTS (SELECT FROM prep_keygen_requests WHERE prep_keygen_id = $1)

-- name: leased
-- And what waits for a task of this owner to end, which had it in hand before a reorganisation: there may be no such task.
SELECT {{id}} AS id FROM {{table}} WHERE status = 'under_process' AND lease_owner = $1
UNION
SELECT {{id}} FROM {{table}} WHERE stale_owner IS NOT NULL AND stale_owner = $1
UNION
SELECT id FROM kmsd_withdrawn WHERE lease_owner IS NOT NULL AND lease_owner = $1 AND kind = '{{kind}}'
