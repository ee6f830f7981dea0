"""The statements that the Rust connector v0.11.0 issues (reference-connector.md 1.1 to 1.4), as facts of what it reads
and writes: the same tables and columns, in our words. Ids are bytes in SQL text, as everything here goes through psql.
"""

from pathlib import Path

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.store.tables import REQUEST_TABLES, RESPONSE_TABLES

SCHEMA = Path(__file__).with_name("rust_v0_11.sql")

_MATERIALS = r"ARRAY[ROW('\x{handle}', '\x{key}', '\x{handle}', ARRAY['\x{sender}'::bytea])::sns_ciphertext_material]"
_COLUMNS: dict[str, str] = {
    "sns_ct_materials": _MATERIALS.format(handle="ab" * 32, key="04" + "00" * 30 + "04", sender="11" * 20),
    "params_type": "'Test'",
    "key_digests": r"ARRAY[ROW('Server', '\xaa')::key_digest, ROW('Public', '\xbb')::key_digest]",
    "user_address": "decode(repeat('33', 20), 'hex')",
    "max_bit_length": r"decode('40' || repeat('00', 31), 'hex')",
    "signature": "decode(repeat('5a', 65), 'hex')",
    "extra_data": r"'\x'::bytea",
}
_OTHER = "decode(repeat('01', 32), 'hex')"


def literal(value: bytes) -> str:
    """A bytea in SQL text."""
    return f"'\\x{value.hex()}'::bytea"


def insert_request(kind: Kind, key: bytes, **values: str) -> str:
    """The listener's insert, which names no conflict target; `values` are SQL for columns."""
    table = REQUEST_TABLES[kind]
    columns = {OPERATIONS[kind].id_column: literal(key)}
    columns |= {name: _COLUMNS.get(name, _OTHER) for name in table.columns}
    columns |= {"tx_hash": _OTHER, "created_at": "now()", "otlp_context": "decode(repeat('00', 8), 'hex')"} | values
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join(columns.values())}) ON CONFLICT DO NOTHING"
    )


def insert_response(kind: Kind, key: bytes, **values: str) -> str:
    """The worker's insert."""
    table = RESPONSE_TABLES[kind]
    columns = {OPERATIONS[kind].id_column: literal(key)}
    columns |= {name: _COLUMNS.get(name, _OTHER) for name in table.columns}
    columns |= {"created_at": "now()", "otlp_context": "decode(repeat('00', 8), 'hex')"} | values
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join(columns.values())}) ON CONFLICT DO NOTHING"
    )


def pick(table: str, key_column: str, limit: int) -> str:
    """The pickers' one statement: what is pending becomes under process; gives ids in hexadecimal."""
    return (
        f"UPDATE {table} SET status = 'under_process' FROM (SELECT {key_column} AS picked FROM {table} "
        f"WHERE status = 'pending' LIMIT {limit} FOR UPDATE SKIP LOCKED) AS p WHERE {key_column} = p.picked "
        f"RETURNING encode({key_column}, 'hex')"
    )


def set_status(table: str, key_column: str, key: bytes, status: str, more: str = "") -> str:
    """A status write, keyed by the id alone."""
    return f"UPDATE {table} SET status = '{status}'{more} WHERE {key_column} = {literal(key)}"


def move_cursor(event_type: str, block: int) -> str:
    """The monotonic write of the listener's cursor."""
    return (
        f"UPDATE last_block_polled SET block_number = {block}, updated_at = now() WHERE event_type = '{event_type}' "
        f"AND (block_number IS NULL OR block_number < {block})"
    )
