"""The ABI: what is refused and what is not, and that no few bytes can ask for many."""

import tracemalloc
from typing import NamedTuple

import pytest

from kmsd.wire import abi
from kmsd.wire.abi import ADDRESS, BOOL, BYTES, BYTES32, STRING, UINT8, UINT256, AbiType, array, struct, tuple_of
from kmsd.wire.errors import WireError


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Pair(NamedTuple):
    number: int
    data: bytes


PAIR = struct(Pair, UINT256, BYTES)


@pytest.mark.parametrize(
    ("abi_type", "data"),
    [
        (UINT8, word(256)),
        (UINT8, word(2**255)),
        (BOOL, word(2)),
        (ADDRESS, word(2**160)),
        (ADDRESS, b"\1" + bytes(31)),
        (abi.fixed_bytes(4), b"abcd" + bytes(27) + b"\1"),
        (abi.enum8(2), word(2)),
        (UINT256, bytes(31)),
        (BYTES32, b""),
    ],
)
def test_dirty_or_short_words_are_refused(abi_type: AbiType[object], data: bytes) -> None:
    with pytest.raises(WireError):
        abi.decode(abi_type, data)


@pytest.mark.parametrize("offset", [0x21, 0x40, 2**32, 2**64, 2**255, 2**256 - 1, 2**256 - 32])
def test_wild_offsets_are_refused(offset: int) -> None:
    with pytest.raises(WireError, match="points to byte"):
        abi.decode(BYTES, word(offset) + word(0))


@pytest.mark.parametrize("length", [33, 64, 2**31, 2**32, 2**63, 2**64, 2**256 - 1])
@pytest.mark.parametrize("abi_type", [BYTES, STRING, array(UINT256), array(BYTES), array(PAIR)])
def test_wild_lengths_are_refused(abi_type: AbiType[object], length: int) -> None:
    with pytest.raises(WireError, match="runs past the end"):
        abi.decode(abi_type, word(32) + word(length) + bytes(32))


def test_what_solidity_does_not_look_at_is_accepted() -> None:
    assert abi.decode(BYTES, word(32) + word(3) + b"abc") == b"abc"  # no padding at all
    assert abi.decode(BYTES, word(32) + word(3) + b"abc" + b"\xff" * 29) == b"abc"  # dirty padding
    assert abi.decode(UINT256, word(7) + b"left over") == 7
    assert abi.decode(BYTES, word(96) + bytes(64) + word(1) + b"x") == b"x"  # a gap before the tail
    shared = abi.decode_fields(tuple_of(BYTES, BYTES), word(64) + word(64) + word(1) + b"x" + bytes(31))
    assert shared == (b"x", b"x")
    assert abi.decode(STRING, word(32) + word(2) + b"\xff!") == "\N{REPLACEMENT CHARACTER}!"


def test_a_struct_may_lie_anywhere_but_must_fit() -> None:
    assert abi.decode(PAIR, abi.encode(PAIR, Pair(5, b"abc"))) == Pair(5, b"abc")
    with pytest.raises(WireError, match="a struct of 64 bytes"):
        abi.decode(PAIR, word(32) + word(5))
    with pytest.raises(WireError, match="a struct of 64 bytes"):
        abi.decode_fields(PAIR, word(5))


def test_shared_tails_cannot_blow_up() -> None:
    """Offsets of an array that all point to one long tail: 256 kB of data that would be 1 GB of content."""
    count = 4096
    tail = word(100_000) + bytes(100_000 + (-100_000 % 32))
    bomb = word(32) + word(count) + word(32 * count) * count + tail
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="more than 4 times as long"):
            abi.decode(array(BYTES), bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000

    nested = word(32) + word(count) + word(32 * count) * count + word(count) + word(32 * count) * count + word(0)
    with pytest.raises(WireError, match="more than 4 times as long"):
        abi.decode(array(array(BYTES)), nested)


def test_canonical_data_never_meets_the_bound() -> None:
    value = tuple(tuple(bytes(n % 3) for n in range(200)) for _ in range(50))
    assert abi.decode(array(array(BYTES)), abi.encode(array(array(BYTES)), value)) == value


@pytest.mark.parametrize(
    ("abi_type", "value"),
    [
        (UINT8, 256),
        (UINT256, -1),
        (UINT256, 2**256),
        (ADDRESS, bytes(19)),
        (BYTES32, bytes(33)),
        (abi.enum8(2), 2),
        (PAIR, (1,)),
        (tuple_of(UINT8, UINT8), (1, 2, 3)),
    ],
)
def test_values_out_of_range_are_not_written(abi_type: AbiType[object], value: object) -> None:
    with pytest.raises(WireError):
        abi.encode(abi_type, value)


@pytest.mark.parametrize(
    "text",
    ["", "uint", "uint7", "int256", "uint256[2]", "bytes33", "(uint256", "uint256)", "a b c", "[]", "(,)", "()[]"],
)
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(WireError):
        abi.parse_type(text)


@pytest.mark.parametrize("text", ["", "uint256", "(uint256) x", "[uint256]"])
def test_what_is_no_parameter_list(text: str) -> None:
    with pytest.raises(WireError):
        abi.parse_parameters(text)


def test_declarations_are_bounded() -> None:
    with pytest.raises(WireError, match="longer or deeper"):
        abi.parse_type("(" * 10_000)
    with pytest.raises(WireError, match="longer or deeper"):
        abi.parse_type("uint256" + "[]" * 1000)


def test_types_from_text() -> None:
    assert abi.parse_type(" ( bytes32 , address[] )[] ").name == "(bytes32,address[])[]"
    parameters = abi.parse_parameters("(uint256 id, (uint256,address)[] pairs, bool)")
    assert parameters.type.name == "(uint256,(uint256,address)[],bool)"
    assert parameters.names == ("id", "pairs", "")
    assert abi.parse_parameters("()").type.name == "()"
