-- What the listener writes: requests, cursors, quarantine, facts. All of one range is one transaction.

-- name: cursor
SELECT block_number, block_hash FROM kmsd_cursors WHERE node = $1 AND stream = $2

-- name: lowest_cursor
SELECT block_number, block_hash FROM kmsd_cursors WHERE stream = $1 ORDER BY block_number LIMIT 1

-- name: reference_cursor
-- The Rust connector keeps one cursor per event type; $1 are those of the stream.
SELECT min(block_number) FROM last_block_polled WHERE event_type::text = ANY($1::text[])

-- name: range_ends
SELECT block_number, block_hash FROM kmsd_range_ends
WHERE node = $1 AND stream = $2 ORDER BY block_number DESC LIMIT 256

-- name: ingest_lock
-- Held with others' inserts, but not with the removal of finished rows: otherwise a replayed request could come between
-- the removal of its row and the remembering of its id (QU9).
SELECT pg_advisory_xact_lock_shared(hashtextextended('kmsd/retention', 0))

-- name: first_cursor
-- As move_cursor, where there was none.
WITH held AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtextextended('kmsd/retention', 0))
), moved AS (
    INSERT INTO kmsd_cursors (node, stream, block_number, block_hash) SELECT $1, $2, $3::bigint, $4::bytea FROM held
    ON CONFLICT DO NOTHING RETURNING node, stream, block_number, block_hash
)
INSERT INTO kmsd_range_ends (node, stream, block_number, block_hash) SELECT * FROM moved
ON CONFLICT (node, stream, block_number) DO UPDATE SET block_hash = EXCLUDED.block_hash
RETURNING 1

-- name: move_cursor
-- From block $5 with hash $6 to $3 with $4, which becomes the end of a range; nothing when another daemon has moved it.
-- Begins with the lock of ingest_lock, so that what is inserted after it in this transaction is under that lock.
WITH held AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtextextended('kmsd/retention', 0))
), moved AS (
    UPDATE kmsd_cursors c SET block_number = $3, block_hash = $4, updated_at = now() FROM held
    WHERE c.node = $1 AND c.stream = $2 AND c.block_number = $5 AND c.block_hash = $6
    RETURNING c.node, c.stream, c.block_number, c.block_hash
)
INSERT INTO kmsd_range_ends (node, stream, block_number, block_hash) SELECT * FROM moved
ON CONFLICT (node, stream, block_number) DO UPDATE SET block_hash = EXCLUDED.block_hash
RETURNING 1

-- name: trim_range_ends
DELETE FROM kmsd_range_ends WHERE node = $1 AND stream = $2 AND block_number < (
    SELECT block_number FROM kmsd_range_ends WHERE node = $1 AND stream = $2
    ORDER BY block_number DESC OFFSET 255 LIMIT 1
)

-- name: arrive
-- $1 arrivals, $2 their events, $3 node, $4 waits for a second node, $5 owner and $6 number of the first new rows to
-- lease. An id that was withdrawn while a task had it in hand is not due before that task has ended, and late answers of
-- owners up to now are not about it.
WITH fresh AS MATERIALIZED (
    SELECT i.*, w.owner AS stale, w.seen AS was_withdrawn, row_number() OVER (ORDER BY ord) AS place
    FROM unnest($1::kmsd_arrival[], $2::{{carrier}}[]) WITH ORDINALITY AS i (
        id, tx_hash, block_number, block_hash, log_index, content_hash, otlp_context, created_at, {{fields,}} ord
    )
    LEFT JOIN LATERAL (
        SELECT max(lease_owner) AS owner, true AS seen FROM kmsd_withdrawn
        WHERE kind = '{{kind}}' AND kmsd_withdrawn.id = i.id GROUP BY ()
        HAVING count(*) > 0
    ) w ON true
    WHERE NOT EXISTS (SELECT FROM {{table}} r WHERE r.{{id}} = i.id)
    AND NOT EXISTS (
        SELECT FROM kmsd_finished f
        WHERE f.kind = '{{kind}}' AND f.id_type = kmsd_id_type(i.id) AND f.page = kmsd_id_counter(i.id) >> 16
        AND f.ids @> kmsd_id_counter(i.id)
    )
)
INSERT INTO {{table}} AS r (
    {{id}}, {{columns,}} tx_hash, block_number, block_hash, log_index, content_hash, otlp_context, created_at,
    reporting_node, unconfirmed, status, lease_owner, attempts, stale_owner, next_attempt_at, content_epoch
)
SELECT
    id, {{columns,}} tx_hash, block_number, block_hash, log_index, content_hash, otlp_context, to_timestamp(created_at),
    $3, $4,
    CASE WHEN place <= $6 AND stale IS NULL THEN 'under_process' ELSE 'pending' END::operation_status,
    CASE WHEN place <= $6 AND stale IS NULL THEN $5::bigint END,
    CASE WHEN place <= $6 AND stale IS NULL THEN 1 ELSE 0 END,
    stale,
    CASE WHEN stale IS NULL THEN now() ELSE 'infinity' END,
    CASE WHEN was_withdrawn THEN (SELECT last_value FROM kmsd_owners_epoch_seq) ELSE 0 END
FROM fresh ORDER BY place
ON CONFLICT DO NOTHING
RETURNING r.{{id}} AS id, r.status = 'under_process' AS leased

-- name: existing
-- Rows that are there already, by id: for most of them nothing is to be done.
SELECT
    r.{{id}} AS id, r.status::text AS status, r.already_sent, r.content_hash, r.tx_hash, r.block_hash, r.log_index,
    r.reporting_node, r.unconfirmed, r.orphaned_at IS NOT NULL AS orphaned
FROM unnest($1::bytea[]) AS i (id) JOIN {{table}} r ON r.{{id}} = i.id

-- name: existing_locked
SELECT
    r.{{id}} AS id, {{r.columns,}} r.status::text AS status, r.already_sent, r.content_hash, r.tx_hash, r.block_number,
    r.block_hash, r.log_index, r.reporting_node, r.unconfirmed, r.orphaned_at IS NOT NULL AS orphaned, r.lease_owner
FROM {{table}} r WHERE r.{{id}} = $1 FOR UPDATE

-- name: relocate
-- The same request in another log. $6: its content hash, $7: the node, $8: waits for a second node again.
UPDATE {{table}} SET
    tx_hash = $2, block_number = $3, block_hash = $4, log_index = $5, orphaned_at = NULL, content_hash = $6,
    reporting_node = $7, unconfirmed = $8
WHERE {{id}} = $1

-- name: confirm
UPDATE {{table}} SET unconfirmed = false, next_attempt_at = least(next_attempt_at, now())
WHERE {{id}} = $1 AND unconfirmed

-- name: replace
-- Another request under the same id, none of which the Core has seen. $1 and $2 arrays of one, as in arrive.
UPDATE {{table}} r SET
    {{set columns,}} tx_hash = i.tx_hash, block_number = i.block_number, block_hash = i.block_hash,
    log_index = i.log_index, content_hash = i.content_hash, otlp_context = i.otlp_context,
    created_at = to_timestamp(i.created_at), reporting_node = $3, unconfirmed = $4,
    status = 'pending', lease_owner = NULL,
    stale_owner = CASE WHEN r.status = 'under_process' THEN r.lease_owner ELSE r.stale_owner END,
    next_attempt_at = CASE
        WHEN (CASE WHEN r.status = 'under_process' THEN r.lease_owner ELSE r.stale_owner END) IS NULL THEN now()
        ELSE 'infinity' END,
    content_epoch = (SELECT last_value FROM kmsd_owners_epoch_seq),
    budget_started_at = now(), attempts = 0, error_counter = 0, last_error = NULL, refusal = NULL, core_shard = NULL,
    orphaned_at = NULL, note = NULL
FROM unnest($1::kmsd_arrival[], $2::{{carrier}}[]) WITH ORDINALITY AS i (
    id, tx_hash, block_number, block_hash, log_index, content_hash, otlp_context, created_at, {{fields,}} ord
)
WHERE r.{{id}} = i.id

-- name: lock_prss
-- Numbers are given one after the other.
LOCK TABLE prss_init IN SHARE ROW EXCLUSIVE MODE

-- name: prss_rows
SELECT id, tx_hash FROM prss_init

-- name: adopt_prss
-- A row without a transaction hash is the one that is heard of first.
UPDATE prss_init SET tx_hash = $2 WHERE id = $1 AND tx_hash IS NULL

-- name: add_sighting
INSERT INTO kmsd_sightings (kind, id, node, content_hash, tx_hash, block_number, block_hash, log_index)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (kind, id, node) DO UPDATE SET
    content_hash = EXCLUDED.content_hash, tx_hash = EXCLUDED.tx_hash, block_number = EXCLUDED.block_number,
    block_hash = EXCLUDED.block_hash, log_index = EXCLUDED.log_index, seen_at = now()

-- name: count_sightings
-- How many nodes show this very log.
SELECT count(*) FROM kmsd_sightings
WHERE kind = $1 AND id = $2 AND content_hash = $3 AND block_hash = $4 AND log_index = $5

-- name: quarantine_log
INSERT INTO kmsd_quarantine (
    source, reason, node, kind, id, address, topics, data, tx_hash, block_number, block_hash, log_index
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (block_hash, log_index, source) WHERE block_hash IS NOT NULL DO NOTHING RETURNING number

-- name: add_facts
INSERT INTO kmsd_chain_facts (name, id, value, block_number, block_hash, log_index)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[], $6::bigint[])
ON CONFLICT (name, id) DO UPDATE SET
    value = EXCLUDED.value, block_number = EXCLUDED.block_number, block_hash = EXCLUDED.block_hash,
    log_index = EXCLUDED.log_index
WHERE kmsd_chain_facts.value <> EXCLUDED.value

-- name: add_decryption_facts
-- Agreed results: one that our stored answer equals is forgotten at once; one that differs is a divergence; one that
-- comes before our answer waits for it.
WITH facts AS (
    SELECT i.*, r.decrypted_result AS ours
    FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[])
        AS i (id, value, block_number, block_hash, log_index)
    LEFT JOIN public_decryption_responses r ON r.decryption_id = i.id
), waiting AS (
    INSERT INTO kmsd_chain_facts (name, id, value, block_number, block_hash, log_index)
    SELECT 'PublicDecryptionResponse', id, value, block_number, block_hash, log_index FROM facts WHERE ours IS NULL
    ON CONFLICT DO NOTHING
)
INSERT INTO kmsd_divergences (kind, id, ours, theirs, block_number)
SELECT 'public_decryption', id, ours, value, block_number FROM facts WHERE ours <> value
ON CONFLICT DO NOTHING
RETURNING id

-- name: add_divergence
INSERT INTO kmsd_divergences (kind, id, ours, theirs, block_number) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING id

-- name: chain_fact
SELECT value, block_number FROM kmsd_chain_facts WHERE name = $1 AND id = $2

-- name: stored_after
SELECT {{id}} AS id, block_number, block_hash, already_sent OR status = 'completed' AS already_sent
FROM {{table}} WHERE block_number > $1 AND block_hash IS NOT NULL
ORDER BY block_number

-- name: drop_range_ends
DELETE FROM kmsd_range_ends WHERE node = $1 AND stream = $2 AND block_number > $3

-- name: drop_sightings
-- What this node showed of the blocks that it no longer has.
DELETE FROM kmsd_sightings WHERE node = $1 AND block_number > $2 AND kind = ANY($3::text[])

-- name: drop_sightings_of
DELETE FROM kmsd_sightings WHERE kind = $1 AND id = $2

-- name: drop_facts
DELETE FROM kmsd_chain_facts WHERE block_number > $1 AND name = ANY($2::text[])

-- name: mark_orphaned
-- The Core has it: it cannot be taken back.
UPDATE {{table}} SET orphaned_at = now(), note = $2 WHERE {{id}} = $1

-- name: keep_withdrawn
INSERT INTO kmsd_withdrawn (
    kind, id, reason, node, topics, data, tx_hash, block_number, block_hash, log_index, lease_owner, row_content
)
SELECT
    '{{kind}}', r.{{id}}, $2, $3, $4, $5, r.tx_hash, r.block_number, r.block_hash, r.log_index,
    CASE WHEN $6 THEN CASE WHEN r.status = 'under_process' THEN r.lease_owner ELSE r.stale_owner END END, to_jsonb(r)
FROM {{table}} r WHERE r.{{id}} = $1

-- name: delete_request
DELETE FROM {{table}} WHERE {{id}} = $1

-- name: publish_floor
-- What the Rust connector would resume from: never a block that one of these nodes has not given yet.
UPDATE last_block_polled SET block_number = floor.block_number, updated_at = now()
FROM (SELECT min(block_number) AS block_number FROM kmsd_cursors WHERE stream = $1 AND node = ANY($2::text[])) floor
WHERE event_type::text = ANY($3::text[]) AND floor.block_number IS NOT NULL
AND last_block_polled.block_number IS DISTINCT FROM floor.block_number
