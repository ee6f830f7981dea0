"""Strategies for hypothesis: ABI types with values, and bytes that were valid once."""

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


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


def mutated(valid: SearchStrategy[bytes], word: int = 32) -> SearchStrategy[bytes]:
    """Valid bytes after some accidents (or none)."""
    return st.builds(lambda data, seed: accidents(data, Random(seed), word), valid, st.integers(0, 2**64 - 1))


def accidents(data: bytes, chance: Random, word: int = 32) -> bytes:
    """`data` cut, flipped, overwritten with wild numbers, spliced or repeated, up to four times.

    `word` is the size of the numbers in it: 32 bytes big-endian (ABI) or 8 little-endian (bincode).
    """
    damaged = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 4))):
        at = chance.randint(0, len(damaged))
        aligned = at - at % word
        length = chance.randint(0, 200)
        match chance.choice(("cut", "flip", "number", "number", "splice", "repeat", "insert", "delete")):
            case "cut":
                del damaged[at:]
            case "flip" if at < len(damaged):
                damaged[at] ^= chance.randint(1, 255)
            case "number":
                number = wild_number(len(damaged), 8 * word, chance)
                damaged[aligned : aligned + word] = number.to_bytes(word, "big" if word == 32 else "little")
            case "splice":
                source = chance.randint(0, len(damaged))
                damaged[aligned : aligned + length] = damaged[source - source % word :][:length]
            case "repeat":
                damaged[at:at] = damaged[aligned : aligned + length]
            case "insert":
                damaged[at:at] = chance.randbytes(length)
            case "delete":
                del damaged[at : at + length]
    return bytes(damaged)


def wild_number(size: int, bits: int, chance: Random) -> int:
    """An offset, length or count that a careless decoder trusts, in data of `size` bytes."""
    top = 2**bits
    edges = (0, 1, 31, 32, 33, size, size - 1, size - 32, size + 1, 2**31, 2**32, 2**63, top // 2, top - 32, top - 1)
    aligned = 32 * chance.randint(0, max(size // 32, 1))
    return chance.choice((aligned, aligned, chance.choice(edges), chance.getrandbits(bits))) % top


def content_bytes(value: Any) -> int:
    """How much a decoded value holds: 32 for a number, its length for bytes or text, the sum for what has members."""
    if isinstance(value, bytes | str):
        return 32 + len(value)
    if isinstance(value, tuple | list):
        return 32 + sum(map(content_bytes, value))
    if isinstance(value, dict):
        return 32 + sum(content_bytes(k) + content_bytes(v) for k, v in value.items())
    return 32
