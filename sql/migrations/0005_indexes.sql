-- Indexes that were missing once tables are large: tests/query_plans.py says what each query may read.

-- In the order in which the journal is read back.
DROP INDEX kmsd_transactions_open;
CREATE INDEX kmsd_transactions_open ON kmsd_transactions (chain_id, wallet, nonce, attempt)
    WHERE state IN ('signed', 'mined');
-- Fillers of nonces have no request that takes them along when it goes.
CREATE INDEX kmsd_transactions_fillers ON kmsd_transactions (updated_at) WHERE kind IS NULL;

-- The id first: a plan that takes a batch of ids for few looks up its kind or name alone, and reads all of that.
ALTER TABLE kmsd_chain_facts DROP CONSTRAINT kmsd_chain_facts_pkey, ADD PRIMARY KEY (id, name);
DROP INDEX kmsd_chain_facts_block;
CREATE INDEX kmsd_chain_facts_block ON kmsd_chain_facts (name, block_number);
DROP INDEX kmsd_chain_facts_age;
CREATE INDEX kmsd_chain_facts_age ON kmsd_chain_facts (name, seen_at);
DROP INDEX kmsd_withdrawn_id;
CREATE INDEX kmsd_withdrawn_id ON kmsd_withdrawn (id, kind);
CREATE INDEX kmsd_withdrawn_age ON kmsd_withdrawn (withdrawn_at) WHERE lease_owner IS NULL;
CREATE INDEX kmsd_quarantine_id ON kmsd_quarantine (id, kind) WHERE id IS NOT NULL;
CREATE INDEX kmsd_quarantine_age ON kmsd_quarantine (resolved_at) WHERE resolved_at IS NOT NULL;
