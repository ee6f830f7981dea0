"""Our ABI against eth-abi, the reference: random types and values in both directions, and damaged encodings."""

from typing import Any

import eth_abi
import pytest
from eth_abi.exceptions import DecodingError
from hypothesis import strategies as st
from wire_strategies import TYPES, Fuzz, mutated, split, values

from kmsd.wire import abi
from kmsd.wire.errors import WireError

pytestmark = pytest.mark.fuzz

TYPED_VALUES = TYPES.flatmap(lambda name: st.tuples(st.just(name), values(name)))
"""Text of a type and a value of it."""


def reference(name: str, value: Any) -> Any:
    """A value of ours as eth-abi gives it: addresses are lower-case text there."""
    if name.endswith("[]"):
        return tuple(reference(name[:-2], item) for item in value)
    if name.startswith("("):
        return tuple(reference(member, item) for member, item in zip(split(name[1:-1]), value, strict=True))
    return f"0x{value.hex()}" if name == "address" else value


def test_same_bytes_as_eth_abi(fuzz: Fuzz) -> None:
    def check(given: tuple[str, Any]) -> None:
        name, value = given
        ours = abi.parse_type(name)
        assert ours.name == name
        encoded = eth_abi.encode([name], [value])
        assert abi.encode(ours, value) == encoded
        assert abi.decode(ours, encoded) == value

    fuzz(TYPED_VALUES, check)


def test_same_verdict_as_eth_abi_on_damaged_bytes(fuzz: Fuzz) -> None:
    """Where eth-abi reads a value, so do we, the same one.

    The other way round eth-abi is stricter about what Solidity does not look at: the padding behind `bytes`, UTF-8.
    """

    def check(given: tuple[str, bytes]) -> None:
        name, data = given
        try:
            (expected,) = eth_abi.decode([name], data)
        except (DecodingError, UnicodeDecodeError, OverflowError):
            expected = None
        found, refusal = None, ""
        try:
            found = abi.decode(abi.parse_type(name), data)
        except WireError as error:
            refusal = str(error)
        if expected is not None:
            assert "times as long" in refusal or reference(name, found) == expected

    damaged = TYPED_VALUES.flatmap(
        lambda given: st.tuples(st.just(given[0]), mutated(st.just(eth_abi.encode([given[0]], [given[1]]))))
    )
    fuzz(damaged, check)
