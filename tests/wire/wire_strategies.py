"""Strategies for hypothesis: ABI types with values, and bytes that were valid once."""

from collections.abc import Callable
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy


class Fuzz(Protocol):
    """The fixture `fuzz`: runs `check` on values of `strategy` until the time of the test is over."""

    def __call__(self, strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None: ...


UINTS = st.sampled_from(("uint8", "uint16", "uint64", "uint128", "uint256"))
ELEMENTARY = st.one_of(
    UINTS, st.sampled_from(("address", "bool", "bytes", "string", "bytes1", "bytes4", "bytes20", "bytes32"))
)
TYPES: SearchStrategy[str] = st.recursive(
    ELEMENTARY,
    lambda inner: st.one_of(
        inner.map(lambda name: f"{name}[]"),
        st.lists(inner, min_size=1, max_size=4).map(lambda names: f"({','.join(names)})"),
    ),
    max_leaves=8,
)
"""The text of a type as the protocol's contracts could have it."""

ADDRESSES = st.binary(min_size=20, max_size=20)
WORDS = st.binary(min_size=32, max_size=32)


def split(inner: str) -> list[str]:
    """The members of a tuple type from the text between its parentheses."""
    members, depth, start = [], 0, 0
    for at, character in enumerate(inner):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            members.append(inner[start:at])
            start = at + 1
    return [*members, inner[start:]] if inner else []


def values(name: str) -> SearchStrategy[Any]:
    """Values of a type, arrays and structs as tuples."""
    if name.endswith("[]"):
        return st.lists(values(name[:-2]), max_size=4).map(tuple)
    if name.startswith("("):
        return st.tuples(*map(values, split(name[1:-1])))
    if name.startswith("uint"):
        limit = 2 ** int(name[4:])
        return st.one_of(st.integers(0, limit - 1), st.sampled_from((0, 1, limit - 1)))
    if name == "address":
        return ADDRESSES
    if name == "bool":
        return st.booleans()
    if name == "string":
        return st.text(max_size=70)
    if name == "bytes":
        return st.binary(max_size=100)
    length = int(name.removeprefix("bytes"))
    return st.binary(min_size=length, max_size=length)


@st.composite
def mutated(draw: DrawFn, valid: SearchStrategy[bytes], word: int = 32) -> bytes:
    """Valid bytes after up to four accidents: cut, flipped, overwritten with wild numbers, spliced, repeated."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 200))
        accident = draw(st.sampled_from(("cut", "flip", "number", "splice", "repeat", "insert", "delete")))
        aligned = at - at % word
        if accident == "cut":
            del data[at:]
        elif accident == "flip" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        elif accident == "number":
            number = draw(wild_numbers(len(data), 8 * word))
            data[aligned : aligned + word] = number.to_bytes(word, "big" if word == 32 else "little")
        elif accident == "splice":
            source = draw(st.integers(0, len(data)))
            data[aligned : aligned + length] = data[source - source % word :][:length]
        elif accident == "repeat":
            data[at:at] = data[aligned : aligned + length]
        elif accident == "insert":
            data[at:at] = draw(st.binary(max_size=64))
        elif accident == "delete":
            del data[at : at + length]
    return bytes(data)


def wild_numbers(size: int, bits: int) -> SearchStrategy[int]:
    """Offsets, lengths and counts that a careless decoder trusts."""
    top = 2**bits
    edges = (0, 1, 31, 32, 33, size, size - 1, size - 32, size + 1, 2**31, 2**32, 2**63, top // 2, top - 32, top - 1)
    return st.one_of(
        st.sampled_from([n for n in edges if 0 <= n < top]),
        st.integers(0, max(size // 32, 1)).map(lambda n: 32 * n),
        st.integers(0, top - 1),
    )


def content_bytes(value: Any) -> int:
    """How much a decoded value holds: 32 for a number, its length for bytes or text, the sum for what has members."""
    if isinstance(value, bytes | str):
        return 32 + len(value)
    if isinstance(value, tuple | list):
        return 32 + sum(map(content_bytes, value))
    if isinstance(value, dict):
        return 32 + sum(content_bytes(k) + content_bytes(v) for k, v in value.items())
    return 32
