"""The reference's tables as the store sees them: names, columns, and how a row becomes a record and back.

Encodings are those of reference-connector.md 2.8: uint256 values are 32 bytes little-endian, everything else is bytes
as on chain. Decoding a row checks lengths, so that a row that nobody could use is found here (QU7).
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.store.sql import query
from kmsd.wire.errors import WireError
from kmsd.wire.ids import from_db, to_db
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.structs import KeyDigest, KeyType, ParamsType, SnsMaterial


class Row(Protocol):
    """A row by column name, as asyncpg gives it."""

    def __getitem__(self, name: str, /) -> Any: ...


PUBLIC_DECRYPTION_FACT = "PublicDecryptionResponse"
"""The consensus event of a public decryption."""

PARAMS = {ParamsType.DEFAULT: "Default", ParamsType.TEST: "Test"}
KEY_TYPES = {KeyType.SERVER: "Server", KeyType.PUBLIC: "Public"}
_PARAMS_BACK: dict[str, int] = {text: int(value) for value, text in PARAMS.items()}
_KEY_TYPES_BACK: dict[str, int] = {text: int(value) for value, text in KEY_TYPES.items()}


def _bytes(value: Any, what: str, length: int | None = None) -> bytes:
    if not isinstance(value, bytes):
        raise WireError(f"{what} is missing")
    if length is not None and len(value) != length:
        raise WireError(f"{what} has {len(value)} bytes, not {length}")
    return value


def _uint(value: Any, what: str) -> int:
    return from_db(_bytes(value, what, 32))


def _materials(value: Any) -> tuple[SnsMaterial, ...]:
    materials = []
    for item in value:
        if item is None:
            raise WireError("a ciphertext material is missing")
        handle, key_id, digest, senders = item
        if senders is None:
            raise WireError("the coprocessors of a ciphertext material are missing")
        materials.append(
            SnsMaterial(
                _bytes(handle, "ct_handle", 32),
                _uint(key_id, "key_id"),
                _bytes(digest, "sns_ciphertext_digest", 32),
                tuple(_bytes(sender, "a coprocessor's address", 20) for sender in senders),
            )
        )
    return tuple(materials)


def _raw_materials(materials: tuple[SnsMaterial, ...]) -> list[tuple[Any, ...]]:
    return [(m.ct_handle, to_db(m.key_id), m.sns_ciphertext_digest, list(m.coprocessor_tx_senders)) for m in materials]


def key_digests_from(value: Any) -> tuple[KeyDigest, ...]:
    """The digests in a `key_digest[]` column, in its order. Raises WireError."""
    if any(item is None for item in value):
        raise WireError("a key digest is missing")
    return tuple(KeyDigest(_KEY_TYPES_BACK[item[0]], _bytes(item[1], "a key digest")) for item in value)


def _raw_digests(value: Any) -> list[tuple[str, bytes]]:
    return [(KEY_TYPES[KeyType(key_type)], digest) for key_type, digest in value]


@attrs.frozen
class RequestTable:
    """A request table: `columns` hold the event besides its id; `fields` are those of the type that carries batches."""

    kind: Kind
    columns: tuple[str, ...]
    encode: Callable[[Any], tuple[Any, ...]]
    decode: Callable[[int, Row], Any]
    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        """The table's name."""
        return OPERATIONS[self.kind].request_table


@attrs.frozen
class ResponseTable:
    """A response table: `columns` are its own, by the names that `Answered.fields` uses."""

    kind: Kind
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """The table's name."""
        response = OPERATIONS[self.kind].response
        assert response is not None
        return response.table

    def encode(self, fields: Mapping[str, Any]) -> tuple[Any, ...]:
        """The columns' values for the database, in order. Raises KeyError for a missing field."""
        return tuple(_raw_digests(fields[name]) if name == "key_digests" else fields[name] for name in self.columns)

    def decode(self, row: Row) -> dict[str, Any]:
        """Fields of a row. Raises WireError."""
        return {
            name: key_digests_from(row[name]) if name == "key_digests" else _bytes(row[name], name)
            for name in self.columns
        }


def _request(
    kind: Kind,
    columns: tuple[str, ...],
    encode: Callable[[Any], tuple[Any, ...]],
    decode: Callable[[int, Row], Any],
) -> RequestTable:
    return RequestTable(kind, columns, encode, decode, columns or ("none",))


REQUEST_TABLES: dict[Kind, RequestTable] = {
    table.kind: table
    for table in (
        _request(
            Kind.PUBLIC_DECRYPTION,
            ("sns_ct_materials", "extra_data"),
            lambda e: (_raw_materials(e.sns_materials), e.extra_data),
            lambda id_, r: events.PublicDecryptionRequest(id_, _materials(r["sns_ct_materials"]), r["extra_data"]),
        ),
        _request(
            Kind.USER_DECRYPTION,
            ("sns_ct_materials", "user_address", "public_key", "extra_data"),
            lambda e: (_raw_materials(e.sns_materials), e.user_address, e.public_key, e.extra_data),
            lambda id_, r: events.UserDecryptionRequest(
                id_,
                _materials(r["sns_ct_materials"]),
                _bytes(r["user_address"], "user_address", 20),
                r["public_key"],
                r["extra_data"],
            ),
        ),
        _request(
            Kind.PREP_KEYGEN,
            ("epoch_id", "params_type"),
            lambda e: (to_db(e.epoch_id), PARAMS[ParamsType(e.params_type)]),
            lambda id_, r: events.PrepKeygenRequest(
                id_, _uint(r["epoch_id"], "epoch_id"), _PARAMS_BACK[r["params_type"]]
            ),
        ),
        _request(
            Kind.KEYGEN,
            ("prep_keygen_id",),
            lambda e: (to_db(e.prep_keygen_id),),
            lambda id_, r: events.KeygenRequest(_uint(r["prep_keygen_id"], "prep_keygen_id"), id_),
        ),
        _request(
            Kind.CRSGEN,
            ("max_bit_length", "params_type"),
            lambda e: (to_db(e.max_bit_length), PARAMS[ParamsType(e.params_type)]),
            lambda id_, r: events.CrsgenRequest(
                id_, _uint(r["max_bit_length"], "max_bit_length"), _PARAMS_BACK[r["params_type"]]
            ),
        ),
        _request(Kind.PRSS_INIT, (), lambda e: (None,), lambda id_, r: events.PrssInit()),
        _request(
            Kind.KEY_RESHARE,
            ("prep_keygen_id", "key_id", "params_type"),
            lambda e: (to_db(e.prep_keygen_id), to_db(e.key_id), PARAMS[ParamsType(e.params_type)]),
            lambda id_, r: events.KeyReshareSameSet(
                _uint(r["prep_keygen_id"], "prep_keygen_id"),
                _uint(r["key_id"], "key_id"),
                id_,
                _PARAMS_BACK[r["params_type"]],
            ),
        ),
    )
}

RESPONSE_TABLES: dict[Kind, ResponseTable] = {
    table.kind: table
    for table in (
        ResponseTable(Kind.PUBLIC_DECRYPTION, ("decrypted_result", "signature", "extra_data")),
        ResponseTable(Kind.USER_DECRYPTION, ("user_decrypted_shares", "signature", "extra_data")),
        ResponseTable(Kind.PREP_KEYGEN, ("signature",)),
        ResponseTable(Kind.KEYGEN, ("key_digests", "signature")),
        ResponseTable(Kind.CRSGEN, ("crs_digest", "signature")),
    )
}


@cache
def request_query(name: str, kind: Kind) -> str:
    """The named query over the request table of `kind`."""
    table = REQUEST_TABLES[kind]
    return query(name, **_values(kind, table.name, table.columns, "event", fields=table.fields))


@cache
def response_query(name: str, kind: Kind) -> str:
    """The named query over the response table of `kind`."""
    table = RESPONSE_TABLES[kind]
    return query(name, **_values(kind, table.name, table.columns, "answer", fields=table.columns))


@cache
def table_query(name: str, kind: Kind, *, is_response: bool) -> str:
    """The named query over the request or response table of `kind`."""
    return response_query(name, kind) if is_response else request_query(name, kind)


def _values(
    kind: Kind, table: str, columns: tuple[str, ...], carrier: str, *, fields: tuple[str, ...]
) -> dict[str, str]:
    operation = OPERATIONS[kind]
    response = operation.response
    return {
        "table": table,
        "request_table": operation.request_table,
        "response_table": response.table if response is not None else "",
        "id": operation.id_column,
        "kind": kind.value,
        "carrier": f"kmsd_{kind.value}_{carrier}",
        # The fact that a response must agree with, where it is compared as it is stored; ceremonies are few.
        "fact": PUBLIC_DECRYPTION_FACT if kind is Kind.PUBLIC_DECRYPTION else "",
        "fact_column": "decrypted_result" if kind is Kind.PUBLIC_DECRYPTION else "signature",
        "fields,": "".join(f"{name}, " for name in fields),
        "columns,": "".join(f"{name}, " for name in columns),
        "r.columns,": "".join(f"r.{name}, " for name in columns),
        "i.columns,": "".join(f"i.{name}, " for name in columns),
        "set columns,": "".join(f"{name} = i.{name}, " for name in columns),
        "set excluded columns,": "".join(f"{name} = EXCLUDED.{name}, " for name in columns),
    }
