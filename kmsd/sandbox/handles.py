"""Handles of the sandbox: a number says everything about one, its clear value and its ciphertext included.

So requester, buckets, Core double and scripted parties agree without telling each other anything.
"""

from collections.abc import Iterator

from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.sandbox.ciphertexts import HEADER_BYTES, fake_ciphertext, real_size
from kmsd.wire.handles import Handle, fhe_type_of
from kmsd.wire.keccak import keccak256

UINT64 = 5
"""The FHE type of a handle where nothing else is asked for."""

COMPUTED = 0xFF
"""The position byte of a computed value."""


def make_handle(number: int, chain_id: int, fhe_type: int = UINT64, series: str = "") -> bytes:
    """The handle with this number in a series, on a host chain, of an FHE type."""
    digest = keccak256(f"kmsd sandbox handle {series} {number}".encode())[:21]
    return Handle(digest, COMPUTED, chain_id, fhe_type, 0).pack()


def make_handles(count: int, chain_id: int, fhe_type: int = UINT64, series: str = "") -> Iterator[bytes]:
    """The first `count` handles of a series."""
    return (make_handle(number, chain_id, fhe_type, series) for number in range(count))


def clear_value(handle: bytes) -> int:
    """What a handle stands for: a value that fits its type and depends on the handle alone."""
    kind = fhe_type_of(handle)
    bits = 1 if kind.number == 0 else 8 * kind.plaintext_bytes
    return int.from_bytes(keccak256(b"clear value" + handle), "big") % (1 << bits)


def ciphertext(handle: bytes, size: int | None = None) -> bytes:
    """The ciphertext of a handle under its clear value, `size` bytes long (None: a real ciphertext's size)."""
    return fake_ciphertext(handle, clear_value(handle), ciphertext_size(handle, size), CiphertextFormat.BigCompressed)


def ciphertext_size(handle: bytes, size: int | None = None) -> int:
    """The length of the ciphertext that `ciphertext` makes, in bytes."""
    return real_size(handle) if size is None else max(size, HEADER_BYTES)


def ciphertext_digest(handle: bytes, size: int | None = None) -> bytes:
    """keccak-256 of the handle's ciphertext, as the coprocessors commit it: also its name in the buckets."""
    return keccak256(ciphertext(handle, size))
