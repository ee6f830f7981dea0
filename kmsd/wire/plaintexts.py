"""`decryptedResult`: a public decryption's plaintexts as they go on chain (wire/kms-core.md 4.1).

One 32-byte big-endian word for each plaintext, in the order of the handles; no offsets and no lengths.
"""

import builtins
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from kmsd.wire.errors import WireError
from kmsd.wire.handles import FheType, fhe_type


class PlaintextLike(Protocol):
    """The fields of a plaintext; the generated `TypedPlaintext` of the Core has them by the same names."""

    @property
    def bytes(self) -> builtins.bytes: ...
    @property
    def fhe_type(self) -> int: ...


class Plaintext(NamedTuple):
    """A plaintext as the Core gives it: little-endian bytes and the number of its FHE type."""

    bytes: builtins.bytes
    fhe_type: int


def encode(plaintexts: Iterable[PlaintextLike]) -> bytes:
    """The words of `plaintexts`. The value is not masked to its type, as the signature of the Core covers it so.

    Raises WireError for a type that cannot be decrypted or is unknown (the reference omits the word of an unknown one;
    decisions.md 19), and for more than 32 bytes.
    """
    words = []
    for plaintext in plaintexts:
        _decryptable(plaintext.fhe_type)
        if len(plaintext.bytes) > 32:
            raise WireError(f"a plaintext has at most 32 bytes, not {len(plaintext.bytes)}")
        words.append(plaintext.bytes.ljust(32, b"\0")[::-1])
    return b"".join(words)


def decode(decrypted_result: bytes, fhe_types: Sequence[int]) -> tuple[Plaintext, ...]:
    """The plaintexts in a result whose handles have these types, each with the byte length of its type.

    Raises WireError when the number of words is not that of the types, for a type that cannot be decrypted, and for a
    value too long for its type.
    """
    if len(decrypted_result) != 32 * len(fhe_types):
        raise WireError(
            f"{32 * len(fhe_types)} bytes expected for {len(fhe_types)} plaintexts, not {len(decrypted_result)}"
        )
    plaintexts = []
    for position, number in enumerate(fhe_types):
        kind = _decryptable(number)
        word = decrypted_result[32 * position : 32 * position + 32]
        if any(word[: 32 - kind.plaintext_bytes]):
            raise WireError(f"plaintext {position} is too long for {kind.name}")
        plaintexts.append(Plaintext(word[::-1][: kind.plaintext_bytes], number))
    return tuple(plaintexts)


def _decryptable(number: int) -> FheType:
    kind = fhe_type(number)
    if not kind.decryptable:
        raise WireError(f"a {kind.name} (FHE type {number}) cannot be decrypted")
    return kind
