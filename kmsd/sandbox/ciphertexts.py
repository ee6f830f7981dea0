"""Fake ciphertexts and user keys of the sandbox: real sizes, no cryptography.

A fake ciphertext shows its clear value to everyone: 16 bytes of magic, the format (1), the FHE type (1), the value as
32 bytes little-endian, then padding that depends on the handle. So every Core double of a committee reads the same
value from the same object. What does not begin with the magic is garbage to a double, as it would be to a Core.
"""

import hashlib
from typing import NamedTuple

from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.wire.handles import fhe_type_of

MAGIC = b"kmsd-sandbox-ct\x01"
HEADER_BYTES = len(MAGIC) + 2 + 32
"""Bytes of a fake ciphertext that mean something; the smallest possible size."""

PUBLIC_KEY_BYTES = 869
"""Length of a user's ML-KEM-512 public key in its safe serialization."""

_COMPRESSED_BYTES = {0: 98_628, 2: 98_652, 3: 98_684, 4: 98_748, 5: 98_876, 6: 99_132, 7: 99_260, 8: 99_644}
_EXPANDED_BYTES = {
    0: 65_766,
    2: 131_414,
    3: 262_688,
    4: 525_136,
    5: 1_050_262,
    6: 2_100_374,
    7: 2_625_430,
    8: 4_200_598,
}


class FakeCiphertext(NamedTuple):
    """What a double reads from a fake ciphertext. `format` is a CiphertextFormat number, `value` the clear value."""

    format: int
    fhe_type: int
    value: int


def clear_value(handle: bytes) -> int:
    """The clear value behind a sandbox handle: its first bytes, as far as its type is wide (a bool: one bit).

    Whoever makes ciphertexts for the sandbox encodes this value, so a scripted party can answer without fetching them.
    """
    kind = fhe_type_of(handle)
    return handle[0] & 1 if kind.number == 0 else int.from_bytes(handle[: min(kind.plaintext_bytes, 21)], "big")


def real_size(handle: bytes, ciphertext_format: CiphertextFormat = CiphertextFormat.BigCompressed) -> int:
    """Bytes of a real ciphertext of the handle's type (wire/kms-core.md 8; u16, u32, u160 expanded interpolated)."""
    table = _EXPANDED_BYTES if ciphertext_format is CiphertextFormat.BigExpanded else _COMPRESSED_BYTES
    return table[fhe_type_of(handle).number]


def fake_ciphertext(
    handle: bytes,
    value: int,
    size: int | None = None,
    ciphertext_format: CiphertextFormat = CiphertextFormat.BigCompressed,
) -> bytes:
    """A ciphertext of `value` under `handle` (32 bytes, of a decryptable type), `size` bytes long (None: real size).

    Raises ValueError for a value that does not fit the handle's type or a size below HEADER_BYTES.
    """
    kind = fhe_type_of(handle)
    if not 0 <= value < 1 << max(1, 8 * kind.plaintext_bytes if kind.number else 1):
        raise ValueError(f"{value} does not fit a {kind.name}")
    if size is None:
        size = real_size(handle, ciphertext_format)
    if size < HEADER_BYTES:
        raise ValueError(f"a fake ciphertext has at least {HEADER_BYTES} bytes")
    header = MAGIC + bytes((int(ciphertext_format), kind.number)) + value.to_bytes(32, "little")
    return header + _padding(handle, size - HEADER_BYTES)


def read_fake_ciphertext(body: bytes) -> FakeCiphertext | None:
    """What a fake ciphertext says, from its first HEADER_BYTES bytes or more; None for garbage."""
    if len(body) < HEADER_BYTES or body[: len(MAGIC)] != MAGIC:
        return None
    start = len(MAGIC)
    return FakeCiphertext(body[start], body[start + 1], int.from_bytes(body[start + 2 : HEADER_BYTES], "little"))


def fake_public_key(seed: bytes) -> bytes:
    """A user's public key for the doubles: PUBLIC_KEY_BYTES bytes from `seed`."""
    return _padding(b"key" + seed, PUBLIC_KEY_BYTES)


def _padding(seed: bytes, size: int) -> bytes:
    block = hashlib.shake_128(seed).digest(4096)
    return (block * (size // 4096 + 1))[:size]
