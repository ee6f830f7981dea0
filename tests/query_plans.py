"""How each query of sql/queries may be served on a large database: parameters to try it with, what it may read.

A case holds for one query over every table that it is used with. `rows` bounds what its scans look at (found, filtered
out and rechecked together), `buffers` the 8 KiB pages that they touch: with indices both depend on the parameters
alone, however large the tables are. Parameters are SQL over the functions that `test_store_plans.py` defines:
`id(type, counter)`, `ids(type, first, count)`; names in braces are put in for the table in hand.
"""

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, DECRYPTIONS, OPERATIONS

BATCH = 16
"""Items of a batch."""
REQUESTS = tuple((kind, False) for kind in OPERATIONS)
RESPONSES = tuple((kind, True) for kind, operation in OPERATIONS.items() if operation.response is not None)
BOTH = REQUESTS + RESPONSES
CEREMONY_REQUESTS = tuple((kind, False) for kind in CEREMONIES)
DECRYPTION_RESPONSES = tuple((kind, True) for kind in DECRYPTIONS)
NO_TABLE = ((Kind.PUBLIC_DECRYPTION, None),)
"""Queries that name their tables themselves."""

Tables = tuple[tuple[Kind, bool | None], ...]


@attrs.frozen
class Case:
    """One query: its parameters, the tables it is used with, and its bounds."""

    parameters: str = ""
    tables: Tables = NO_TABLE
    rows: int = 4 * BATCH
    buffers: int = 60 * BATCH
    scans_ceremonies: bool = False  # their tables are small


@attrs.frozen
class OpenRows:
    """A query that reads what is open (pending, under process or failed), which is what it counts or returns."""

    parameters: str = ""
    tables: Tables = NO_TABLE
    scans_ceremonies: bool = False


@attrs.frozen
class MayScan:
    """A query that may read a whole table, and why that does no harm. Not run."""

    reason: str


KEYS_ARE_FEW = "a network makes some keys and CRSs in its life, not thousands"
SCHEMA = "reads or writes the catalogue or a table of some rows, once at start"
ONE_ROW_PER_NODE = "a table with a row for each node, daemon, wallet, Core or contract"

_IDS = "ids({type}, {pending}, 16)"
_LEASED = "ids({type}, {leased}, 16)"
_OWNERS = "array_fill(1::bigint, ARRAY[16])"
_TRUE = "array_fill(true, ARRAY[16])"
_TEXT = "array_fill('words'::text, ARRAY[16])"
_NOTHING = "array_fill(NULL::text, ARRAY[16])"
_ZERO = "array_fill(0::float8, ARRAY[16])"
_ARRIVALS = "arrivals({type}, {absent}, 16), {carrier}_carriers(16)"
_AGAIN = "arrivals({type}, {pending}, 1), {carrier}_carriers(1)"
_BLOCK = "{head}, '\\x01'::bytea"
_JOURNAL = "1, '\\x11'"

CASES: dict[str, Case | OpenRows | MayScan] = {
    # counts
    "backlog": OpenRows("", BOTH),
    "count_unconfirmed": OpenRows("", CEREMONY_REQUESTS),
    "count_quarantined": OpenRows(),
    "count_open": OpenRows("", BOTH),
    "listed": OpenRows("ARRAY['failed']::operation_status[], 0, 100", BOTH, scans_ceremonies=True),
    # ingest
    "cursor": Case("'main', 'decryption'"),
    "lowest_cursor": MayScan(ONE_ROW_PER_NODE),
    "reference_cursor": MayScan("seven rows"),
    "range_ends": Case("'main', 'decryption'", rows=256),
    "ingest_lock": Case(),
    "first_cursor": Case(f"'other', 'decryption', {_BLOCK}"),
    "move_cursor": Case(f"'main', 'decryption', {_BLOCK}, 1, '\\x01'"),
    "trim_range_ends": Case("'main', 'decryption'", rows=600),
    "arrive": Case(f"{_ARRIVALS}, 'main', false, 1, 16", REQUESTS, rows=16 * BATCH),
    "existing": Case(_IDS, REQUESTS),
    "existing_locked": Case("id({type}, {pending})", REQUESTS),
    "relocate": Case(f"id({{type}}, {{pending}}), '\\x01', {_BLOCK}, 1, '\\x01', 'main', false", REQUESTS),
    "confirm": Case("id({type}, {pending})", REQUESTS),
    "replace": Case(f"{_AGAIN}, 'main', false", REQUESTS),
    "lock_prss": MayScan("no rows: a lock"),
    "prss_rows": MayScan("a network has one, and one more for each repetition"),
    "adopt_prss": Case("id(0, {pending}), '\\x01'"),
    "add_sighting": Case(f"'keygen', id(4, {{absent}}), 'main', '\\x01', '\\x01', {_BLOCK}, 1"),
    "count_sightings": Case("'keygen', id(4, 5), '\\x01', '\\x01', 1"),
    "quarantine_log": Case(f"'log', 'words', 'main', NULL, NULL, NULL, NULL, NULL, '\\x01', {_BLOCK}, 1"),
    "add_facts": Case(
        "ARRAY['ActivateKey'], ARRAY[id(4, 1)], ARRAY['\\x01'::bytea], ARRAY[1], ARRAY['\\x01'::bytea], ARRAY[1]"
    ),
    "add_decryption_facts": Case(
        "ids(1, {done}, 16), ids(1, 1, 16), array_fill(1::bigint, ARRAY[16]), ids(1, 1, 16), "
        "array_fill(1::bigint, ARRAY[16])"
    ),
    "add_divergence": Case("'keygen', id(4, {absent}), '\\x01', '\\x01', 1"),
    "chain_fact": Case("'PublicDecryptionResponse', id(1, 5)"),
    "stored_after": Case("{head} - 4", REQUESTS, rows=16 * BATCH, buffers=120 * BATCH),
    "drop_range_ends": Case("'main', 'decryption', 100", rows=300, buffers=1024),
    "drop_sightings": MayScan("ceremonies are few; once for each reorganisation"),
    "drop_sightings_of": Case("'keygen', id(4, 5)"),
    "drop_facts": Case("{head} - 4, ARRAY['PublicDecryptionResponse']", rows=16 * BATCH),
    "mark_orphaned": Case("id({type}, {pending}), 'words'", REQUESTS),
    "keep_withdrawn": Case("id({type}, {pending}), 'words', 'main', NULL, NULL, true", REQUESTS),
    "delete_request": Case("id({type}, {pending})", REQUESTS),
    "publish_floor": MayScan("seven rows, " + ONE_ROW_PER_NODE),
    # keys
    "key_state": Case("'key', id(4, 5)"),
    "activate_object": Case("'key', id(4, 5), 'words', 1, NULL"),
    "note_key_change": Case("'key', id(4, 5), NULL, 'active', 'words', 'chain'"),
    "lock_key": Case("'key', id(4, 5)"),
    "set_key_state": Case("'key', id(4, 5), 'active', 'words', 'alice'"),
    "key_digests": Case("id(4, 5)"),
    "crs_digest": Case("id(5, 5)"),
    # lanes
    "try_lane_lock": Case("4711"),
    "open_lane": Case(f"{_JOURNAL}, 1"),
    "highest_nonce": Case(f"{_JOURNAL}, 1"),
    "journal_entries": Case(_JOURNAL, rows=400, buffers=1600),
    "journal_append": Case(
        f"{_JOURNAL}, 1, {{absent}}, ARRAY[{{absent}}], ARRAY[0], ARRAY['public_decryption'], ARRAY[id(1, 5)], "
        "ARRAY['\\x01'::bytea], ARRAY['\\x01'::bytea], ARRAY['\\x01'::bytea], ARRAY[1], ARRAY[1], ARRAY[1], "
        "ARRAY['signed'], ARRAY[1.0]"
    ),
    "journal_settle": Case(
        f"{_JOURNAL}, 1, counters({{done}}, 16), array_fill(0, ARRAY[16]), array_fill('final'::text, ARRAY[16]), "
        "array_fill(1::bigint, ARRAY[16]), ids(1, 1, 16), array_fill(1::smallint, ARRAY[16]), " + _NOTHING
    ),
    # operator
    "note_action": Case("'retry', NULL, NULL, 'words', 'alice'"),
    "newest_rows": Case(
        "ARRAY['completed']::operation_status[], 100", BOTH, rows=256, buffers=1024, scans_ceremonies=True
    ),
    "story_row": Case("id({type}, 5)", BOTH),
    "story_transactions": Case("id(1, 5), 'public_decryption'"),
    "story_rejected": Case("'public_decryption', id(1, 5)"),
    "story_sightings": Case("'keygen', id(4, 5)"),
    "story_withdrawn": Case("'public_decryption', id(1, 5)"),
    "story_quarantine": Case("'public_decryption', id(1, 5)"),
    "story_divergence": Case("'public_decryption', id(1, 5)"),
    "story_actions": Case("'public_decryption', id(1, 5)"),
    "story_key_changes": Case("'key', id(4, 5)"),
    "was_finished": Case("'public_decryption', id(1, 5)"),
    "retry": Case("id({type}, {failed})", BOTH),
    "retry_all_failed": OpenRows("", BOTH),
    "retry_unconfirmed": Case("id({type}, {pending})", CEREMONY_REQUESTS),
    "fail": Case("id({type}, {pending}), 'words'", BOTH),
    "free_slot_of": MayScan(ONE_ROW_PER_NODE),
    "cursors": MayScan(ONE_ROW_PER_NODE),
    "owners": MayScan(ONE_ROW_PER_NODE),
    "lanes": Case("", rows=1000, buffers=2000),
    "rewind_cursor": Case(f"'main', 'decryption', {_BLOCK}"),
    "quarantine": Case("false, 0, 100", rows=256),
    "lock_quarantined": Case("5"),
    "resolve_quarantined": Case("5, 'words'"),
    "withdrawn": Case("0, 100", rows=256),
    "divergences": MayScan("each is an alarm: there are none, or somebody is at work on them"),
    "key_registry": MayScan(KEYS_ARE_FEW),
    # owners
    "try_name_lock": Case("'plans'"),
    "free_name_lock": Case("'plans'"),
    "add_owner": Case("'plans', ARRAY['worker']"),
    "earlier_owners": MayScan(ONE_ROW_PER_NODE),
    "beat": Case("1"),
    "silent_owners": MayScan(ONE_ROW_PER_NODE),
    "remove_owners": Case("ARRAY[99]"),
    "release": Case("ARRAY[2, 3]", BOTH, rows=8 * BATCH, buffers=120 * BATCH),
    "release_unowned": OpenRows("600", BOTH),
    "lost_leases": OpenRows("", BOTH),
    "release_stale": Case("ARRAY[2, 3]", REQUESTS),
    "release_withdrawn": Case("ARRAY[2, 3]"),
    "read_meta": MayScan("one row"),
    "write_meta": MayScan("one row"),
    # requests
    "claim": Case("1, 16", REQUESTS, rows=8 * BATCH),
    "lease_ceremony": Case("id({type}, {pending}), 1, 'http://core'", CEREMONY_REQUESTS),
    "quarantine_row": Case("id({type}, {leased}), 1, 'words'", BOTH),
    "load_requests": Case(_IDS, REQUESTS),
    "sent": Case(f"{_LEASED}, {_OWNERS}, {_TEXT}, {_TRUE}", REQUESTS),
    "finished": Case(f"{_LEASED}, {_OWNERS}, {_NOTHING}", REQUESTS, rows=16 * BATCH),
    "completed": Case(_LEASED, REQUESTS),
    "try_again": Case(
        f"{_LEASED}, {_OWNERS}, {_ZERO}, {_TEXT}, {_TRUE}, {_TRUE}, {_TRUE}, {_NOTHING}, {_NOTHING}", REQUESTS
    ),
    "failed": Case(f"{_LEASED}, {_OWNERS}, {_TEXT}, {_TRUE}", REQUESTS),
    "end_stale": Case(f"{_LEASED}, {_OWNERS}, {_TRUE}, {_TRUE}, 'words'", REQUESTS),
    "end_stale_withdrawn": Case(f"ids(1, 1, 16), {_OWNERS}, 'public_decryption'"),
    "reject": Case(f"{_TEXT}, ids(1, 1, 16), {_TEXT}, {_TEXT}, ids(1, 1, 16)"),
    "unfinished_ceremonies": OpenRows("", CEREMONY_REQUESTS),
    "keygens_of_preparations": MayScan(KEYS_ARE_FEW),
    "ceremony_lock": Case(),
    "ceremony_slots": MayScan(ONE_ROW_PER_NODE),
    "take_slot": Case("'http://core', 'keygen', id(4, 5), 1"),
    "free_slots": Case(f"ids(4, 1, 16), {_OWNERS}, 'keygen'"),
    "free_slots_of_owners": MayScan(ONE_ROW_PER_NODE),
    "explain_waiting": Case("id({type}, {pending}), 'words'", CEREMONY_REQUESTS),
    "keygen_was_sent": Case("id(3, 5)"),
    "prep_keygen_known": Case("id(3, 5)"),
    "leased": Case("2", REQUESTS, rows=8 * BATCH),
    # responses
    "answered": Case(
        f"{_LEASED}, {_OWNERS}, {{carrier}}_carriers(16), ids(1, 1, 16), {_ZERO}, {_NOTHING}",
        RESPONSES,
        rows=24 * BATCH,
        buffers=120 * BATCH,
    ),
    "claim_responses": Case("1, 16", RESPONSES, rows=8 * BATCH),
    "load_responses": Case(_IDS, RESPONSES),
    "lease_responses": Case(f"{_IDS}, 1", RESPONSES),
    "reopen_responses": Case(f"{_IDS}, 1", RESPONSES),
    "settle_responses": Case(
        f"{_LEASED}, {_OWNERS}, array_fill('completed'::text, ARRAY[16]), {_NOTHING}, {_ZERO}, {_TRUE}, ids(1, 1, 16)",
        RESPONSES,
    ),
    "leased_responses": Case("2", RESPONSES, rows=8 * BATCH),
    # retention
    "retention_lock": Case(),
    "expire": Case("3600, 3600, 16", DECRYPTION_RESPONSES, rows=48 * BATCH, buffers=240 * BATCH),
    "expire_facts": Case("1e9"),
    "expire_withdrawn": Case("1e9"),
    "expire_quarantine": Case("1e9"),
    "expire_rejected": MayScan("it keeps the table at 10,000 rows itself"),
    "expire_fillers": Case("1e9"),
    # migrations
    **dict.fromkeys(
        ("try_migration_lock", "relax_timeouts", "tables_here", "columns_here", "make_ledger", "record_migration"),
        MayScan(SCHEMA),
    ),
    **dict.fromkeys(("applied_migrations", "sqlx_migrations"), MayScan(SCHEMA)),
}
