"""Keccak-256, the hash of the chain. The one place that chooses its implementation.

pycryptodome: a small input costs 6 µs, a large one 2.7 ms a megabyte, without the GIL held.
"""

from Crypto.Hash import keccak as _keccak


def keccak256(data: bytes) -> bytes:
    """The 32-byte Keccak-256 of `data` (the padding before SHA-3, as the EVM has it)."""
    return _keccak.new(digest_bits=256, data=data).digest()


class Keccak256:
    """Keccak-256 of bytes that come in pieces; `update` releases the GIL, so it may run in a worker thread."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = _keccak.new(digest_bits=256, update_after_digest=True)

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Add the next piece."""
        self._hash.update(piece)

    def digest(self) -> bytes:
        """The 32-byte hash of all pieces so far; more may follow."""
        return self._hash.digest()
