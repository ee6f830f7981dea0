-- Responses: stored with the completion of their request, claimed and settled by the sender.

-- name: answered
-- $1 ids, $2 owners, $3 answers, $4 traces, $5 instants, $6 notes. Whatever was there before, the request is completed
-- (QU6); a response that is there stays, unless it has failed. Nothing is stored for an id that means another request
-- by now, or for a request that is gone. What the committee agreed on before our answer came is compared and forgotten;
-- `diverging` are ids for which it differs. OFFSET 0 as in end_stale_withdrawn.
WITH done AS (
    UPDATE {{request_table}} r SET status = 'completed', lease_owner = NULL, note = coalesce(i.note, r.note)
    FROM unnest($1::bytea[], $2::bigint[], $4::bytea[], $5::float8[], $6::text[], $3::{{carrier}}[])
        WITH ORDINALITY AS i (request_id, owner, otlp_context, created_at, note, {{fields,}} ord)
    WHERE r.{{id}} = i.request_id AND (
        (r.status::text = 'under_process' AND r.lease_owner = i.owner)
        OR (r.status::text IN ('pending', 'under_process', 'failed') AND i.owner > r.content_epoch)
    )
    RETURNING i.*
), stored AS (
    INSERT INTO {{table}} AS r ({{id}}, {{columns,}} otlp_context, created_at)
    SELECT i.request_id, {{i.columns,}} i.otlp_context, to_timestamp(i.created_at)
    FROM done i ORDER BY ord
    ON CONFLICT ({{id}}) DO UPDATE SET
        {{set excluded columns,}} otlp_context = EXCLUDED.otlp_context, status = 'pending', lease_owner = NULL,
        next_attempt_at = now(), budget_started_at = now(), attempts = 0, error_counter = 0, last_error = NULL
    WHERE r.status = 'failed'
), agreed AS (
    DELETE FROM kmsd_chain_facts f
    USING (SELECT '{{fact}}' AS name, * FROM done OFFSET 0) AS i
    WHERE '{{fact}}' <> '' AND f.id = i.request_id AND f.name = i.name
    RETURNING f.id, i.{{fact_column}} AS ours, f.value AS theirs, f.block_number
), diverging AS (
    INSERT INTO kmsd_divergences (kind, id, ours, theirs, block_number)
    SELECT '{{kind}}', * FROM agreed WHERE ours <> theirs
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT ord, NULL::bytea AS diverging FROM done
UNION ALL
SELECT NULL, id FROM diverging

-- name: claim_responses
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
    r.{{id}} AS id, {{r.columns,}} r.error_counter, r.attempts, r.otlp_context, r.lease_owner,
    extract(epoch FROM now() - r.budget_started_at)::float8 AS budget_age,
    extract(epoch FROM r.created_at)::float8 AS created_at,
    extract(epoch FROM r.next_attempt_at)::float8 AS due_at

-- name: load_responses
SELECT
    r.{{id}} AS id, {{r.columns,}} r.error_counter, r.attempts, r.otlp_context, r.lease_owner,
    extract(epoch FROM now() - r.budget_started_at)::float8 AS budget_age,
    extract(epoch FROM r.created_at)::float8 AS created_at,
    extract(epoch FROM r.next_attempt_at)::float8 AS due_at
FROM unnest($1::bytea[]) AS i (id) JOIN {{table}} r ON r.{{id}} = i.id

-- name: lease_responses
UPDATE {{table}} r SET status = 'under_process', lease_owner = $2
FROM unnest($1::bytea[]) WITH ORDINALITY AS i (id, ord)
WHERE r.{{id}} = i.id AND r.status::text IN ('pending', 'under_process')
RETURNING i.ord

-- name: reopen_responses
-- A reorganisation undid what had completed them; safe to repeat after a lost reply.
UPDATE {{table}} r SET status = 'under_process', lease_owner = $2, budget_started_at = now()
FROM unnest($1::bytea[]) WITH ORDINALITY AS i (id, ord)
WHERE r.{{id}} = i.id
    AND (r.status::text = 'completed' OR (r.status::text = 'under_process' AND r.lease_owner = $2))
RETURNING i.ord

-- name: settle_responses
-- A mined transaction completes whatever the row's state; everything else names the lease.
UPDATE {{table}} r SET
    status = i.fate::operation_status, lease_owner = NULL,
    next_attempt_at = CASE
        WHEN i.fate = 'pending' THEN now() + make_interval(secs => i.delay) ELSE r.next_attempt_at END,
    last_error = i.words, error_counter = least(r.error_counter + i.counted::int, 32767),
    tx_hash = coalesce(i.tx_hash, r.tx_hash)
FROM unnest(
    $1::bytea[], $2::bigint[], $3::text[], $4::text[], $5::float8[], $6::boolean[], $7::bytea[]
) WITH ORDINALITY AS i (id, owner, fate, words, delay, counted, tx_hash, ord)
WHERE r.{{id}} = i.id AND (
    (i.fate = 'completed' AND r.status::text <> 'completed')
    OR (r.status::text = 'under_process' AND r.lease_owner = i.owner)
)
RETURNING i.ord

-- name: leased_responses
SELECT {{id}} AS id FROM {{table}} WHERE status = 'under_process' AND lease_owner = $1
