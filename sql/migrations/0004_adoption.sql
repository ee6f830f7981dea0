-- Rows of a database that the Rust connector made. Nobody says any more who worked on a row under process: it goes back
-- to the queue.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'public_decryption_requests', 'user_decryption_requests', 'prep_keygen_requests', 'keygen_requests',
        'crsgen_requests', 'prss_init', 'key_reshare_same_set', 'public_decryption_responses',
        'user_decryption_responses', 'prep_keygen_responses', 'keygen_responses', 'crsgen_responses'
    ] LOOP
        EXECUTE format('UPDATE %I SET status = ''pending'' WHERE status = ''under_process''', name);
    END LOOP;
END $$;

-- Activations of before are in no event that will still be read: keys and CRSs of before are taken as active.
INSERT INTO kmsd_keys (kind, id, state, reason, changed_by)
SELECT 'key', key_id, 'active', 'known before kmsd adopted this database', 'migration' FROM keygen_requests
UNION ALL
SELECT 'crs', crs_id, 'active', 'known before kmsd adopted this database', 'migration' FROM crsgen_requests;
INSERT INTO kmsd_key_changes (kind, id, after, reason, changed_by)
SELECT kind, id, state, reason, changed_by FROM kmsd_keys;
