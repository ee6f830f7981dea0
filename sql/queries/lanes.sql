-- The journal of one wallet. Every write goes over the connection that holds the wallet's lock, and names the tenure.

-- name: try_lane_lock
SELECT pg_try_advisory_lock($1::bigint)

-- name: open_lane
INSERT INTO kmsd_lanes AS l (chain_id, wallet, epoch, owner) VALUES ($1, $2, 1, $3)
ON CONFLICT (chain_id, wallet) DO UPDATE SET epoch = l.epoch + 1, owner = EXCLUDED.owner, taken_at = now()
RETURNING epoch

-- name: highest_nonce
SELECT highest_nonce FROM kmsd_lanes WHERE chain_id = $1 AND wallet = $2 AND epoch = $3

-- name: journal_entries
SELECT
    nonce, attempt, kind, id, calldata_hash, raw, tx_hash, gas_limit, max_fee_per_gas, max_priority_fee_per_gas, state,
    extract(epoch FROM signed_at)::float8 AS signed_at, block_number, block_hash, receipt_status, error
FROM kmsd_transactions
WHERE chain_id = $1 AND wallet = $2 AND state IN ('signed', 'mined')
ORDER BY nonce, attempt

-- name: journal_append
WITH lane AS (
    UPDATE kmsd_lanes SET highest_nonce = greatest(highest_nonce, $4)
    WHERE chain_id = $1 AND wallet = $2 AND epoch = $3
    RETURNING 1
)
INSERT INTO kmsd_transactions (
    chain_id, wallet, nonce, attempt, kind, id, calldata_hash, raw, tx_hash, gas_limit, max_fee_per_gas,
    max_priority_fee_per_gas, state, signed_at
)
SELECT $1, $2, i.nonce, i.attempt, i.kind, i.id, i.calldata_hash, i.raw, i.tx_hash, i.gas_limit, i.max_fee, i.max_priority,
    i.state, to_timestamp(i.signed_at)
FROM lane, unnest(
    $5::bigint[], $6::int[], $7::text[], $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bigint[],
    $13::numeric[], $14::numeric[], $15::text[], $16::float8[]
) AS i (
    nonce, attempt, kind, id, calldata_hash, raw, tx_hash, gas_limit, max_fee, max_priority, state, signed_at
)
RETURNING 1

-- name: journal_settle
-- Holds the lane until the end of the transaction; no row when a newer tenure has it, and then nothing is written.
WITH lane AS MATERIALIZED (
    SELECT chain_id, wallet FROM kmsd_lanes WHERE chain_id = $1 AND wallet = $2 AND epoch = $3 FOR UPDATE
), written AS (
    UPDATE kmsd_transactions t SET
        state = i.state, block_number = i.block_number, block_hash = i.block_hash, receipt_status = i.receipt_status,
        error = i.error, updated_at = now(),
        raw = CASE WHEN i.state IN ('final', 'dropped') THEN ''::bytea ELSE t.raw END
    FROM lane CROSS JOIN unnest($4::bigint[], $5::int[], $6::text[], $7::bigint[], $8::bytea[], $9::smallint[], $10::text[])
        AS i (nonce, attempt, state, block_number, block_hash, receipt_status, error)
    CROSS JOIN LATERAL (
        -- one look-up for each entry; as a plain join the plan made on an empty table reads the wallet's whole journal
        SELECT e.ctid FROM kmsd_transactions e
        WHERE e.chain_id = lane.chain_id AND e.wallet = lane.wallet AND e.nonce = i.nonce AND e.attempt = i.attempt
        LIMIT 1
    ) AS entry
    WHERE t.ctid = entry.ctid
)
SELECT 1 FROM lane
