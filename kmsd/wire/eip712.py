"""EIP-712: domains and the hashing rules that every struct of every era is built from (wire/gateway.md 4).

A struct's hash is `keccak256(typehash ‖ one 32-byte word a field)`; the functions below give the word of a field.
"""

from collections.abc import Iterable
from functools import cached_property

import attrs

from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256

_DOMAIN_TYPEHASH = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
)


@attrs.frozen(slots=False)
class Domain:
    """A domain without salt, as all contracts of the protocol have it. `verifying_contract` is 20 bytes."""

    name: str
    version: str
    chain_id: int
    verifying_contract: bytes

    @cached_property
    def separator(self) -> bytes:
        """The 32-byte domain separator, computed once."""
        return struct_hash(
            _DOMAIN_TYPEHASH,
            keccak256(self.name.encode("utf-8")),
            keccak256(self.version.encode("utf-8")),
            uint_word(self.chain_id),
            address_word(self.verifying_contract),
        )

    def digest(self, struct: bytes) -> bytes:
        """The 32 bytes to sign for a struct's hash: keccak256(0x1901 ‖ separator ‖ struct)."""
        return keccak256(b"\x19\x01" + self.separator + struct)


def typehash(type_string: str) -> bytes:
    """The hash of a struct's type string, with the strings of the structs it uses appended."""
    return keccak256(type_string.encode("ascii"))


def struct_hash(type_hash: bytes, *words: bytes) -> bytes:
    """The hash of a struct from its type hash and the words of its fields; also the hash of an array of words."""
    return keccak256(type_hash + b"".join(words))


def uint_word(value: int) -> bytes:
    """A uint256 (or narrower) as a word. Raises WireError for a number out of range."""
    if not 0 <= value < 2**256:
        raise WireError(f"not a uint256: {value}")
    return value.to_bytes(32, "big")


def address_word(address: bytes) -> bytes:
    """A 20-byte address as a word. Raises WireError for another length."""
    if len(address) != 20:
        raise WireError(f"an address has 20 bytes, not {len(address)}")
    return bytes(12) + address


def bytes_word(value: bytes) -> bytes:
    """Dynamic `bytes` as a word: their hash."""
    return keccak256(value)


def bytes32_array_word(values: Iterable[bytes]) -> bytes:
    """`bytes32[]` as a word: the hash of the concatenation. Raises WireError for an element that has not 32 bytes."""
    words = tuple(values)
    for word in words:
        if len(word) != 32:
            raise WireError(f"a bytes32 has 32 bytes, not {len(word)}")
    return keccak256(b"".join(words))


def address_array_word(addresses: Iterable[bytes]) -> bytes:
    """`address[]` as a word: the hash of the addresses, each padded to 32 bytes on the left."""
    return keccak256(b"".join(address_word(address) for address in addresses))
