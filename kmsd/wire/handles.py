"""Ciphertext handles and the FHE types that they name (wire/gateway.md 5.1).

A handle is 32 bytes: a hash (0 to 20), a position in its input or 0xff for a computed value (21), the host chain's id
(22 to 29, big-endian), the FHE type (30), a version (31).
"""

from typing import NamedTuple

from kmsd.wire.errors import WireError


class FheType(NamedTuple):
    """One FHE type of the protocol.

    `bits` is the width that the Gateway counts towards its limit of 2,048 a request (a Bool counts 2).
    `plaintext_bytes` is the length of the Core's little-endian plaintext; 0 for types that cannot be decrypted.
    """

    number: int
    name: str
    bits: int
    plaintext_bytes: int

    @property
    def decryptable(self) -> bool:
        """Whether the Gateway accepts decryption requests for it."""
        return self.plaintext_bytes > 0


def _names_in_order() -> list[str]:
    """The names by number: the enum FheTypes of tfhe, which the contracts share."""
    extended = [24, 40, 48, 56, *(w for w in range(72, 249, 8) if w not in (128, 160))]
    return [
        "Bool",
        *(f"Uint{w}" for w in (4, 8, 16, 32, 64, 128, 160, 256, 512, 1024, 2048, 2, 6, 10, 12, 14)),
        *(f"Int{w}" for w in (2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128, 160, 256)),
        "AsciiString",
        *(f"Int{w}" for w in (512, 1024, 2048)),
        *(f"Uint{w}" for w in extended),
        *(f"Int{w}" for w in extended),
    ]


_PLAINTEXT_BYTES = {"Bool": 1, **{f"Uint{bits}": bits // 8 for bits in (8, 16, 32, 64, 128, 160, 256)}}


def _fhe_type(number: int, name: str) -> FheType:
    digits = "".join(filter(str.isdigit, name))
    return FheType(number, name, int(digits) if digits else (2 if name == "Bool" else 0), _PLAINTEXT_BYTES.get(name, 0))


FHE_TYPES: tuple[FheType, ...] = tuple(_fhe_type(number, name) for number, name in enumerate(_names_in_order()))
"""Every known type; the position is its number."""

DECRYPTABLE: frozenset[int] = frozenset(t.number for t in FHE_TYPES if t.decryptable)
"""Numbers of the types that can be decrypted: 0 and 2 to 8."""

MAX_REQUEST_BITS = 2048
"""The Gateway's limit for the sum of `FheType.bits` over a request's handles."""


def fhe_type(number: int) -> FheType:
    """The type of that number. Raises WireError for an unknown one."""
    if 0 <= number < len(FHE_TYPES):
        return FHE_TYPES[number]
    raise WireError(f"unknown FHE type {number}; known are 0 to {len(FHE_TYPES) - 1}")


class Handle(NamedTuple):
    """The parts of a handle. `fhe_type` is the raw byte: `fhe_type()` of this module says what it means."""

    digest: bytes
    position: int
    chain_id: int
    fhe_type: int
    version: int

    def pack(self) -> bytes:
        """The 32 bytes of the handle. Raises WireError for a part out of its range."""
        if len(self.digest) != 21:
            raise WireError(f"the hash of a handle has 21 bytes, not {len(self.digest)}")
        if not 0 <= self.chain_id < 2**64:
            raise WireError(f"the chain id of a handle has 8 bytes: {self.chain_id}")
        if not all(0 <= byte <= 255 for byte in (self.position, self.fhe_type, self.version)):
            raise WireError("position, FHE type and version of a handle are one byte each")
        tail = bytes((self.fhe_type, self.version))
        return self.digest + bytes((self.position,)) + self.chain_id.to_bytes(8, "big") + tail


def parse_handle(handle: bytes) -> Handle:
    """The parts of a 32-byte handle; any other length is a WireError. Neither type nor version is judged here."""
    if len(handle) != 32:
        raise WireError(f"a handle has 32 bytes, not {len(handle)}")
    return Handle(handle[:21], handle[21], int.from_bytes(handle[22:30], "big"), handle[30], handle[31])


def chain_id_of(handle: bytes) -> int:
    """The id of the host chain that a 32-byte handle belongs to; any other length is a WireError."""
    if len(handle) != 32:
        raise WireError(f"a handle has 32 bytes, not {len(handle)}")
    return int.from_bytes(handle[22:30], "big")


def fhe_type_of(handle: bytes) -> FheType:
    """The FHE type that a 32-byte handle names. Raises WireError for an unknown type or another length."""
    return fhe_type(parse_handle(handle).fhe_type)
