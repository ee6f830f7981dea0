"""The contract ABI: types that read and write themselves.

A type is built from the constants and functions below, or from its text by `parse_type`:

    MATERIAL = struct(SnsMaterial, BYTES32, UINT256, BYTES32, array(ADDRESS))
    decode(array(MATERIAL), data)

Reading accepts what Solidity's own decoder accepts, no more and no less: every offset and length is checked against the
data, a word with dirty padding (address, bool, uintN, bytesN) is refused, while the padding behind `bytes` and bytes
behind the last field are not looked at. Beyond that there is one bound: what comes out is at most a small multiple of
what went in, so that offsets which share a tail cannot blow a few kilobytes up into gigabytes.

eth-abi does the same in about 100 µs for an event where this takes 10; tests compare the two in both directions.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import attrs

from kmsd.wire.errors import WireError

T = TypeVar("T")
R = TypeVar("R", bound=tuple[Any, ...])

_AMPLIFICATION = 4


class Reader:
    """Bytes under decoding. `budget` is how many more bytes of arrays and byte strings may come out of them."""

    __slots__ = ("budget", "data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.budget = _AMPLIFICATION * len(data)

    def follow(self, base: int, at: int) -> int:
        """Where the dynamic content starts whose offset, relative to `base`, is the word at `at`."""
        target = base + int.from_bytes(self.data[at : at + 32], "big")
        if target + 32 > self.size:
            raise WireError(f"the offset at byte {at} points to byte {target} of {self.size}")
        return target

    def take(self, at: int, length: int) -> int:
        """Claim `length` bytes of content from `at` on; the position behind them."""
        end = at + length
        if end > self.size:
            raise WireError(f"content of {length} bytes from byte {at} on runs past the end at {self.size}")
        self.budget -= length
        if self.budget < 0:
            raise WireError(f"the content of {self.size} bytes of data is more than {_AMPLIFICATION} times as long")
        return end


@attrs.frozen
class AbiType(Generic[T]):
    """One ABI type.

    `name` is its canonical text. `size` is what it takes in the head of a tuple: 32 bytes for a dynamic type. `read`
    takes the position of the content; for a static type the caller has checked that `size` bytes are there, for a
    dynamic one that 32 are. `write` gives the content, padded to whole words.
    """

    name: str
    size: int
    dynamic: bool
    read: Callable[[Reader, int], T] = attrs.field(repr=False)
    write: Callable[[T], bytes] = attrs.field(repr=False)


def decode(abi_type: AbiType[T], data: bytes) -> T:
    """Read one value of `abi_type` from `data`, as `abi.encode` of that value alone has it. Raises WireError.

    The parameters of a function or the return values of a view are one tuple *without* the outer offset: read them
    with `decode_fields`.
    """
    return tuple_of(abi_type).read(_checked(abi_type.size, data), 0)[0]  # type: ignore[no-any-return]


def encode(abi_type: AbiType[T], value: T) -> bytes:
    """`abi.encode` of one value. Raises WireError for a value out of range."""
    return tuple_of(abi_type).write((value,))


def decode_fields(fields: AbiType[T], data: bytes) -> T:
    """Read the fields of a struct or tuple that are the whole of `data`: event data, parameters. Raises WireError."""
    return fields.read(_checked(32 if fields.dynamic else fields.size, data), 0)


def encode_fields(fields: AbiType[T], value: T) -> bytes:
    """The reverse of `decode_fields`."""
    return fields.write(value)


def _checked(size: int, data: bytes) -> Reader:
    reader = Reader(data)
    if size > reader.size:
        raise WireError(f"{reader.size} bytes of data, {size} needed")
    return reader


# ---------------------------------------------------------------------------------------------------------------------
# Static types


def uint(bits: int) -> AbiType[int]:
    """`uint8` to `uint256`."""
    return _uint(f"uint{bits}", bits, 2**bits)


def enum8(members: int) -> AbiType[int]:
    """An enum with that many members, which the ABI calls `uint8`. A number beyond them is refused, as on chain."""
    return _uint("uint8", 8, members)


def _uint(name: str, bits: int, limit: int) -> AbiType[int]:
    def read(reader: Reader, at: int) -> int:
        value = int.from_bytes(reader.data[at : at + 32], "big")
        if value >= limit:
            raise WireError(
                f"the word at byte {at} is no {name}{'' if limit == 2**bits else f' below {limit}'}: {value}"
            )
        return value

    def read_word(reader: Reader, at: int) -> int:
        return int.from_bytes(reader.data[at : at + 32], "big")

    def write(value: int) -> bytes:
        if not 0 <= value < limit:
            raise WireError(f"no {name}{'' if limit == 2**bits else f' below {limit}'}: {value}")
        return value.to_bytes(32, "big")

    return AbiType(name, 32, False, read_word if limit == 2**256 else read, write)


def fixed_bytes(length: int) -> AbiType[bytes]:
    """`bytes1` to `bytes32`."""
    name = f"bytes{length}"
    padding = bytes(32 - length)

    def read(reader: Reader, at: int) -> bytes:
        if reader.data[at + length : at + 32] != padding:
            raise WireError(f"the word at byte {at} is no {name}: its padding is not zero")
        return reader.data[at : at + length]

    def write(value: bytes) -> bytes:
        if len(value) != length:
            raise WireError(f"a {name} has {length} bytes, not {len(value)}")
        return value + padding

    return AbiType(name, 32, False, read, write)


def _read_address(reader: Reader, at: int) -> bytes:
    if reader.data[at : at + 12] != _ADDRESS_PADDING:
        raise WireError(f"the word at byte {at} is no address: its padding is not zero")
    return reader.data[at + 12 : at + 32]


def _write_address(value: bytes) -> bytes:
    if len(value) != 20:
        raise WireError(f"an address has 20 bytes, not {len(value)}")
    return _ADDRESS_PADDING + value


def _read_bool(reader: Reader, at: int) -> bool:
    value = int.from_bytes(reader.data[at : at + 32], "big")
    if value > 1:
        raise WireError(f"the word at byte {at} is no bool: {value}")
    return value == 1


def _write_bool(value: bool) -> bytes:
    return int(bool(value)).to_bytes(32, "big")


_ADDRESS_PADDING = bytes(12)

UINT256 = uint(256)
UINT64 = uint(64)
UINT8 = uint(8)
BYTES32 = fixed_bytes(32)
ADDRESS: AbiType[bytes] = AbiType("address", 32, False, _read_address, _write_address)
BOOL: AbiType[bool] = AbiType("bool", 32, False, _read_bool, _write_bool)


# ---------------------------------------------------------------------------------------------------------------------
# Dynamic types


def _read_bytes(reader: Reader, at: int) -> bytes:
    start = at + 32
    return reader.data[start : reader.take(start, int.from_bytes(reader.data[at:start], "big"))]


def _write_bytes(value: bytes) -> bytes:
    return len(value).to_bytes(32, "big") + value + bytes(-len(value) % 32)


def _read_string(reader: Reader, at: int) -> str:
    # Nothing on chain checks that a string is UTF-8, and no event may be lost for a node's odd URL.
    return _read_bytes(reader, at).decode("utf-8", "replace")


def _write_string(value: str) -> bytes:
    return _write_bytes(value.encode("utf-8"))


BYTES: AbiType[bytes] = AbiType("bytes", 32, True, _read_bytes, _write_bytes)
STRING: AbiType[str] = AbiType("string", 32, True, _read_string, _write_string)


def array(element: AbiType[T]) -> AbiType[tuple[T, ...]]:
    """`element[]`, a tuple in memory. An element takes room: Solidity has no empty structs."""
    if not element.size:
        raise WireError("an array of empty structs")
    read_element, size, dynamic = element.read, element.size, element.dynamic

    def read(reader: Reader, at: int) -> tuple[T, ...]:
        base = at + 32
        end = reader.take(base, int.from_bytes(reader.data[at:base], "big") * size)
        if dynamic:
            return tuple([read_element(reader, reader.follow(base, at)) for at in range(base, end, size)])
        return tuple([read_element(reader, at) for at in range(base, end, size)])

    def write(values: tuple[T, ...]) -> bytes:
        contents = [element.write(value) for value in values]
        return len(contents).to_bytes(32, "big") + _lay_out([(dynamic, content) for content in contents])

    return AbiType(f"{element.name}[]", 32, True, read, write)


def struct(record: type[R], *fields: AbiType[Any]) -> AbiType[R]:
    """A struct (or parameter list) that becomes a NamedTuple `record` with one field for each of `fields`."""
    return _tuple_type(record._make, fields)  # type: ignore[attr-defined]


def tuple_of(*fields: AbiType[Any]) -> AbiType[tuple[Any, ...]]:
    """A struct or parameter list without a record of its own."""
    return _tuple_type(tuple, fields)


def _tuple_type(make: Callable[[list[Any]], R], fields: Sequence[AbiType[Any]]) -> AbiType[R]:
    head = sum(field.size for field in fields)
    dynamic = any(field.dynamic for field in fields)
    plan: list[tuple[Callable[[Reader, int], Any], bool, int]] = []
    position = 0
    for field in fields:
        plan.append((field.read, field.dynamic, position))
        position += field.size

    def read(reader: Reader, base: int) -> R:
        if base + head > reader.size:
            raise WireError(f"a struct of {head} bytes at byte {base} runs past the end at {reader.size}")
        return make(
            [
                read_field(reader, reader.follow(base, base + at) if moved else base + at)
                for read_field, moved, at in plan
            ]
        )

    def write(values: R) -> bytes:
        if len(values) != len(fields):
            raise WireError(f"{len(fields)} fields expected, {len(values)} given")
        return _lay_out([(field.dynamic, field.write(v)) for field, v in zip(fields, values, strict=True)])

    name = f"({','.join(field.name for field in fields)})"
    return AbiType(name, 32 if dynamic else head, dynamic, read, write)


def _lay_out(parts: list[tuple[bool, bytes]]) -> bytes:
    """Heads, then tails: a static part stands in the head, a dynamic one behind it with its offset in the head."""
    tail_at = sum(32 if dynamic else len(content) for dynamic, content in parts)
    heads, tails = [], []
    for dynamic, content in parts:
        if dynamic:
            heads.append(tail_at.to_bytes(32, "big"))
            tails.append(content)
            tail_at += len(content)
        else:
            heads.append(content)
    return b"".join(heads + tails)


# ---------------------------------------------------------------------------------------------------------------------
# Types from text


class Parameters(NamedTuple):
    """What stands between the parentheses of a declaration: the type of all, and the names (empty where not given)."""

    type: AbiType[tuple[Any, ...]]
    names: tuple[str, ...]


_ELEMENTARY: dict[str, AbiType[Any]] = {
    "address": ADDRESS,
    "bool": BOOL,
    "bytes": BYTES,
    "string": STRING,
    **{f"uint{bits}": uint(bits) for bits in range(8, 257, 8)},
    **{f"bytes{length}": fixed_bytes(length) for length in range(1, 33)},
}
_MAX_DECLARATION = 4096
_MAX_NESTING = 64
_TOKEN = re.compile(r"\s*([(),]|\[\]|[A-Za-z_$][A-Za-z0-9_$]*)", re.ASCII)


def parse_type(text: str) -> AbiType[Any]:
    """The type that `text` names, such as `(bytes32,address[])[]`. Raises WireError for what is no type or not known.

    Signed integers and arrays of fixed length do not occur in the protocol and are not known.
    """
    tokens = _Tokens(text)
    abi_type = tokens.type()
    tokens.end()
    return abi_type


def parse_parameters(text: str) -> Parameters:
    """The parameters of a declaration such as `(uint256 id,address signer)`; names may be left out."""
    tokens = _Tokens(text)
    parameters = tokens.parameters()
    tokens.end()
    return parameters


class _Tokens:
    """A declaration under parsing."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_DECLARATION or text.count("(") + text.count("[") > _MAX_NESTING:
            raise WireError(f"a declaration longer or deeper than any of a contract: {text[:120]!r}")
        self._text = text
        self._at = 0

    def peek(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        return match[1] if match else ""

    def next(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        if not match:
            raise WireError(f"not a declaration: {self._text[:120]!r} at {self._at}")
        self._at = match.end()
        return match[1]

    def end(self) -> None:
        if self._text[self._at :].strip():
            raise WireError(f"not a declaration: {self._text[:120]!r} at {self._at}")

    def type(self) -> AbiType[Any]:
        if self.peek() == "(":
            found: AbiType[Any] = self.parameters().type
        else:
            name = self.next()
            if name not in _ELEMENTARY:
                raise WireError(f"unknown type {name!r} in {self._text[:120]!r}")
            found = _ELEMENTARY[name]
        while self.peek() == "[]":
            self.next()
            found = array(found)
        return found

    def parameters(self) -> Parameters:
        types: list[AbiType[Any]] = []
        names: list[str] = []
        if self.next() != "(":
            raise WireError(f"not a declaration: {self._text[:120]!r}")
        while self.peek() != ")":
            types.append(self.type())
            names.append(self.next() if self.peek() not in (",", ")", "") else "")
            if self.peek() == ",":
                self.next()
        self.next()
        return Parameters(tuple_of(*types), tuple(names))
