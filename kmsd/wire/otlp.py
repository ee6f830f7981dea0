"""`otlp_context`: the trace of a row, a map of W3C headers in bincode (reference-connector.md 1.9, 2.8)."""

from collections.abc import Mapping

from kmsd.wire import bincode
from kmsd.wire.errors import WireError

EMPTY = bytes(8)
"""The encoding of an empty map, for rows without a trace."""


def encode(carrier: Mapping[str, str]) -> bytes:
    """The column's bytes, in the order of the map."""
    return bincode.u64(len(carrier)) + b"".join(bincode.string(k) + bincode.string(v) for k, v in carrier.items())


def decode(column: bytes) -> dict[str, str]:
    """The map in a column. Raises WireError for truncated or left-over bytes, bad UTF-8, or a repeated key."""
    reader = bincode.BincodeReader(column)
    carrier: dict[str, str] = {}
    for _ in range(reader.u64()):
        key, value = reader.string(), reader.string()
        if key in carrier:
            raise WireError(f"the key {key[:64]!r} occurs twice")
        carrier[key] = value
    reader.end()
    return carrier
