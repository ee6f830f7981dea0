"""Descriptors of what a contract offers: events, functions, custom errors, each with its codec.

An era of the protocol is a set of these (see `kmsd.wire.v0_11`). Topics and selectors are computed from the canonical
signature, so they cannot disagree with the types that are decoded.
"""

import re
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs

from kmsd.wire import abi
from kmsd.wire.abi import AbiType
from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256

R = TypeVar("R", bound=tuple[Any, ...])
V = TypeVar("V")


class LogLike(Protocol):
    """What decoding needs of a log: 32-byte topics and the data."""

    @property
    def topics(self) -> Sequence[bytes]: ...

    @property
    def data(self) -> bytes: ...


@attrs.frozen
class Event(Generic[R]):
    """An event: `contract` is the name of its emitter, `record` the NamedTuple that it becomes.

    The indexed fields come first in the record, as they do in every event of the protocol.
    """

    contract: str
    name: str
    record: type[R]
    indexed: tuple[AbiType[Any], ...]
    fields: AbiType[tuple[Any, ...]]
    signature: str
    topic: bytes

    def decode(self, log: LogLike) -> R:
        """The record of a log of this event. Raises WireError for another topic, their number, or bad data."""
        topics = log.topics
        if len(topics) != 1 + len(self.indexed):
            raise WireError(f"{self.name} has {1 + len(self.indexed)} topics, not {len(topics)}")
        if topics[0] != self.topic:
            raise WireError(f"topic 0x{topics[0][:32].hex()} is not that of {self.name}")
        values: list[Any] = []
        for kind, topic in zip(self.indexed, topics[1:], strict=True):
            if len(topic) != 32:
                raise WireError(f"a topic has 32 bytes, not {len(topic)}")
            values.append(kind.read(abi.Reader(topic), 0))
        fields: tuple[Any, ...] = abi.decode_fields(self.fields, log.data)
        values += fields
        return self.record._make(values)  # type: ignore[attr-defined, no-any-return]

    def encode(self, record: R) -> tuple[tuple[bytes, ...], bytes]:
        """Topics and data of the log that the contract would emit. Raises WireError for a value out of range."""
        split = len(self.indexed)
        topics = tuple(kind.write(value) for kind, value in zip(self.indexed, record[:split], strict=True))
        return (self.topic, *topics), abi.encode_fields(self.fields, record[split:])


def event(
    contract: str, name: str, record: type[R], *fields: AbiType[Any], indexed: Sequence[AbiType[Any]] = ()
) -> Event[R]:
    """Describe an event; `indexed` fields precede `fields` in signature and record."""
    data = abi.tuple_of(*fields)
    signature = name + abi.tuple_of(*indexed, *fields).name
    return Event(contract, name, record, tuple(indexed), data, signature, keccak256(signature.encode("ascii")))


@attrs.frozen
class Function(Generic[R, V]):
    """A function: `record` holds its arguments. `returns` is the type of its return values as one tuple."""

    name: str
    arguments: AbiType[R]
    returns: AbiType[Any]
    single: bool
    signature: str
    selector: bytes

    def encode(self, *arguments: Any) -> bytes:
        """Calldata: selector and arguments. Raises WireError for a value out of range."""
        return self.selector + self.arguments.write(arguments)  # type: ignore[arg-type]

    def decode(self, calldata: bytes) -> R:
        """The arguments in `calldata`. Raises WireError for another selector or bad arguments."""
        if calldata[:4] != self.selector:
            raise WireError(f"calldata with selector 0x{calldata[:4].hex()} does not call {self.name}")
        return abi.decode_fields(self.arguments, calldata[4:])

    def decode_return(self, data: bytes) -> V:
        """What the function returned: a single value alone, several as their record. Raises WireError."""
        if not data and self.returns.size:
            raise WireError(f"{self.name} returned nothing: is there a contract at this address?")
        values = abi.decode_fields(self.returns, data)
        return values[0] if self.single else values  # type: ignore[no-any-return]

    def encode_return(self, value: V) -> bytes:
        """Return data as a node gives it, for doubles. Raises WireError for a value out of range."""
        return abi.encode_fields(self.returns, (value,) if self.single else value)


def transaction(name: str, arguments: AbiType[R]) -> Function[R, tuple[()]]:
    """Describe a function that is called by transaction, so that its return values are not seen."""
    return _function(name, arguments, abi.tuple_of(), single=False)


def view(name: str, arguments: AbiType[R], returns: AbiType[V]) -> Function[R, V]:
    """Describe a view that returns one value."""
    return _function(name, arguments, abi.tuple_of(returns), single=True)


def view_returning_many(name: str, arguments: AbiType[R], returns: AbiType[V]) -> Function[R, V]:
    """Describe a view with several return values, which `returns` (a struct type) makes one record of."""
    return _function(name, arguments, returns, single=False)


def _function(name: str, arguments: AbiType[R], returns: AbiType[Any], *, single: bool) -> Function[R, V]:
    signature = name + arguments.name
    return Function(name, arguments, returns, single, signature, keccak256(signature.encode("ascii"))[:4])


def declared(declaration: str, returns: str = "()") -> Function[tuple[Any, ...], Any]:
    """Describe a function from its declaration, such as `allow(bytes32 handle, address account)`, for a rare use.

    Return values come as a tuple of all. Raises WireError for text that is no declaration.
    """
    name, arguments = _parse_declaration(declaration)
    return _function(name, arguments.type, abi.parse_parameters(returns).type, single=False)


_DECLARATION = re.compile(r"([A-Za-z_$][A-Za-z0-9_$]*)\s*(\(.*\))", re.ASCII)


@attrs.frozen
class CustomError:
    """A custom error with the names of its arguments."""

    name: str
    arguments: AbiType[tuple[Any, ...]]
    argument_names: tuple[str, ...]
    signature: str
    selector: bytes

    def encode(self, *arguments: Any) -> bytes:
        """Revert data, for doubles. Raises WireError for a value out of range."""
        return self.selector + self.arguments.write(arguments)


def custom_error(declaration: str) -> CustomError:
    """Describe an error from its declaration, such as `NotKmsSigner(address signer)`."""
    name, (arguments, names) = _parse_declaration(declaration)
    signature = name + arguments.name
    return CustomError(name, arguments, names, signature, keccak256(signature.encode("ascii"))[:4])


def _parse_declaration(declaration: str) -> tuple[str, abi.Parameters]:
    match = _DECLARATION.fullmatch(declaration)
    if not match:
        raise WireError(f"not a declaration: {declaration[:120]!r}")
    return match[1], abi.parse_parameters(match[2])
