"""Request and object ids: `type << 248 | counter`, a uint256 (wire/gateway.md 5.2).

In memory an id is an `int`. Its other forms: 32 bytes big-endian on the chain, 32 bytes little-endian in the database,
64 lower-case hex digits without `0x` at the Core, and what operators type and read (`pub:12`).
"""

import re
from enum import IntEnum

from kmsd.wire.errors import WireError

MAX_UINT256 = 2**256 - 1

PRSS_INIT_ID = 1
"""PRSSInit carries no id on chain; the Core is given this one (wire/kms-core.md 3.1)."""


class IdType(IntEnum):
    """The first byte of an id: what it names."""

    PUBLIC_DECRYPTION = 0x01
    USER_DECRYPTION = 0x02
    PREP_KEYGEN = 0x03
    KEY = 0x04
    CRS = 0x05
    KEY_RESHARE = 0x06
    CONTEXT = 0x07
    EPOCH = 0x08


SHORT_NAMES: dict[IdType, str] = {
    IdType.PUBLIC_DECRYPTION: "pub",
    IdType.USER_DECRYPTION: "user",
    IdType.PREP_KEYGEN: "prep",
    IdType.KEY: "key",
    IdType.CRS: "crs",
    IdType.KEY_RESHARE: "reshare",
    IdType.CONTEXT: "context",
    IdType.EPOCH: "epoch",
}

_BY_SHORT_NAME = {name: id_type for id_type, name in SHORT_NAMES.items()}
_COUNTER_BITS = 248
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1

_SHORT = re.compile(r"([a-z]+):([0-9]{1,75})", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,78}", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]{1,64}", re.ASCII)
_BARE_HEX = re.compile(r"[0-9a-fA-F]{63,64}", re.ASCII)
_HEX_64 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def make_id(id_type: IdType, counter: int) -> int:
    """The id of the `counter`-th object of a type (the first is 1). Raises WireError for a counter over 31 bytes."""
    if not 0 <= counter <= _COUNTER_MASK:
        raise WireError(f"the counter of an id has 31 bytes: {counter}")
    return id_type << _COUNTER_BITS | counter


def type_byte(id_: int) -> int:
    """The first of the 32 big-endian bytes, whether it is a known type or not."""
    return id_ >> _COUNTER_BITS


def id_type(id_: int) -> IdType | None:
    """What the id names, or None for an unknown type byte."""
    try:
        return IdType(id_ >> _COUNTER_BITS)
    except ValueError:
        return None


def counter(id_: int) -> int:
    """The counter under the type byte."""
    return id_ & _COUNTER_MASK


def to_chain(id_: int) -> bytes:
    """32 bytes big-endian. Raises WireError for a number that is no uint256."""
    return _to_bytes(id_, "big")


def from_chain(word: bytes) -> int:
    """From 32 bytes big-endian; another length is a WireError."""
    return _from_bytes(word, "big")


def to_db(id_: int) -> bytes:
    """32 bytes little-endian, as every uint256 column of the reference's schema. Raises WireError as `to_chain`."""
    return _to_bytes(id_, "little")


def from_db(column: bytes) -> int:
    """From 32 bytes little-endian; another length is a WireError."""
    return _from_bytes(column, "little")


def to_core(id_: int) -> str:
    """64 lower-case hex digits without `0x`: `request_id` of every Core message. Raises WireError as `to_chain`."""
    return _to_bytes(id_, "big").hex()


def from_core(text: str) -> int:
    """From a `request_id` of the Core: 64 hex digits in either case, no prefix; anything else is a WireError."""
    if not _HEX_64.fullmatch(text):
        raise WireError(f"an id of the Core is 64 hex digits, not {text[:80]!r}")
    return int(text, 16)


def shard_of(id_: int, shards: int) -> int:
    """Index of the Core that an id belongs to, among `shards` configured ones in order (wire/kms-core.md 3.1)."""
    return id_ % shards


def max_num_bits(max_bit_length: int) -> int:
    """`max_num_bits` of CrsGenRequest: the low 32 bits of the event's maxBitLength (wire/gateway.md 5.3)."""
    return max_bit_length & 0xFFFFFFFF


def short(id_: int) -> str:
    """How operators read an id: `pub:12`, or `0x…` where the type byte is unknown. `parse_id` reads both."""
    known = id_type(id_)
    return f"{SHORT_NAMES[known]}:{counter(id_)}" if known is not None else f"{id_:#x}"


def parse_id(text: str) -> int:
    """An id as an operator types it.

    `pub:12` (also user, prep, key, crs, reshare, context, epoch); hex digits with `0x`; 64 hex digits without, as the
    Core prints ids (63 where a tool left out the leading zero: no decimal id has that many digits); or decimal digits.
    Surrounding white space is ignored. Raises WireError, which names the accepted forms.
    """
    text = text.strip()
    if match := _SHORT.fullmatch(text):
        name, digits = match.groups()
        if name not in _BY_SHORT_NAME:
            raise WireError(f"unknown kind of id {name!r}; known are {', '.join(_BY_SHORT_NAME)}")
        return make_id(_BY_SHORT_NAME[name], int(digits))
    if _BARE_HEX.fullmatch(text) or (text[:2] in ("0x", "0X") and _HEX.fullmatch(text, 2)):
        return int(text, 16)
    if _DECIMAL.fullmatch(text) and int(text) <= MAX_UINT256:
        return int(text)
    raise WireError(f"not an id: {text[:80]!r}; write pub:12, 0x0100…0c, or a decimal number below 2^256")


def _to_bytes(number: int, order: str) -> bytes:
    if not 0 <= number <= MAX_UINT256:
        raise WireError(f"not a uint256: {number}")
    return number.to_bytes(32, "big" if order == "big" else "little")


def _from_bytes(data: bytes, order: str) -> int:
    if len(data) != 32:
        raise WireError(f"a uint256 has 32 bytes, not {len(data)}")
    return int.from_bytes(data, "big" if order == "big" else "little")
