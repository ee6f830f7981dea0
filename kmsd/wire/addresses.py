"""Addresses: 20 bytes in memory, EIP-55 text towards operators and the Core."""

from functools import lru_cache

from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256

ZERO_ADDRESS = bytes(20)

_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


@lru_cache(maxsize=4096)
def to_checksum(address: bytes) -> str:
    """EIP-55 text (`0x` and 40 digits, mixed case) of a 20-byte address. Raises WireError for another length."""
    if len(address) != 20:
        raise WireError(f"an address has 20 bytes, not {len(address)}")
    digits = address.hex()
    case = keccak256(digits.encode("ascii")).hex()
    return "0x" + "".join(
        digit.upper() if nibble >= "8" else digit for digit, nibble in zip(digits, case[:40], strict=True)
    )


def parse_address(text: str) -> bytes:
    """The 20 bytes of an address given as `0x` and 40 hex digits, all lower case or with a right EIP-55 checksum.

    Raises WireError otherwise. All upper case is taken for a wrong checksum.
    """
    if len(text) != 42 or not text.startswith("0x") or not _HEX_DIGITS.issuperset(text[2:]):
        raise WireError(f"not an address (0x and 40 hex digits): {text[:64]!r}")
    address = bytes.fromhex(text[2:])
    if text != text.lower() and text != to_checksum(address):
        raise WireError(f"wrong EIP-55 checksum in address {text}; expected {to_checksum(address)}")
    return address
