"""Strict and quick decoding of the Core's replies into the generated messages.

betterproto2 takes nearly anything for a message: it stops silently at a truncated end and puts an `int` or None into a
`bytes` field of the wrong wire type. What comes from outside must be understood or refused, so replies are decoded
here: the same messages, a fifth of the time, and one error for everything that is not well formed.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import attrs
import betterproto2

MessageType = TypeVar("MessageType", bound=betterproto2.Message)

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


class Undecodable(ValueError):
    """The bytes are no message of the expected kind."""


@attrs.frozen
class _Field:
    """How a known field is read. `convert` makes its value of bytes (delimited) or an unsigned integer (varint)."""

    name: str
    wire_type: int
    repeated: bool
    convert: Callable[[Any], Any]


def decode(message_type: type[MessageType], data: bytes) -> MessageType:
    """The message in `data`. Fields that it does not know are skipped. Raises Undecodable."""
    fields = _schema(message_type)
    values: dict[str, Any] = {}
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire_type = tag & 7
        value: Any = None
        start = at
        if wire_type == _VARINT:
            value, at = _varint(data, at)
        elif wire_type == _DELIMITED:
            size, start = _varint(data, at)
            at = start + size
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        else:
            raise Undecodable(f"wire type {wire_type} in a {message_type.__name__}")
        if at > end:
            raise Undecodable(f"a {message_type.__name__} is truncated")
        field = fields.get(tag >> 3)
        if field is None:
            if tag >> 3 == 0:
                raise Undecodable(f"field 0 in a {message_type.__name__}")
            continue
        if field.wire_type != wire_type:
            raise Undecodable(f"{message_type.__name__}.{field.name} has wire type {wire_type}")
        value = field.convert(value if wire_type == _VARINT else data[start:at])
        if field.repeated:
            values.setdefault(field.name, []).append(value)
        else:
            values[field.name] = value
    return message_type(**values)


def _metadata(message_type: Any) -> Any:
    return message_type._betterproto


@cache
def _schema(message_type: type[betterproto2.Message]) -> dict[int, _Field]:
    """Field numbers to fields, from what betterproto2 knows of the message."""
    known = _metadata(message_type)
    fields: dict[int, _Field] = {}
    for number, name in known.field_name_by_number.items():
        meta = known.meta_by_field_name[name]
        cls = known.cls_by_field[name]
        wire_type, convert = _converter(meta.proto_type, cls)
        if meta.repeated and wire_type != _DELIMITED:
            raise NotImplementedError(f"{message_type.__name__}.{name}: packed numbers are in no reply")
        fields[number] = _Field(name, wire_type, meta.repeated, convert)
    return fields


def _converter(proto_type: str, cls: Any) -> tuple[int, Callable[[Any], Any]]:
    match proto_type:
        case "bytes":
            return _DELIMITED, bytes
        case "string":
            return _DELIMITED, _text
        case "message":
            return _DELIMITED, lambda data: decode(cls, data)
        case "uint32":
            return _VARINT, lambda value: value & 0xFFFFFFFF
        case "uint64":
            return _VARINT, int
        case "int32":
            return _VARINT, _int32
        case "enum":
            return _VARINT, lambda value: cls(_int32(value))
        case "bool":
            return _VARINT, bool
    raise NotImplementedError(f"protobuf type {proto_type} is in no reply")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"a text is not UTF-8: {error.reason}") from None


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    try:
        byte = data[at]
        if byte < 0x80:
            return byte, at + 1
        value, shift = byte & 0x7F, 7
        while True:
            at += 1
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    raise Undecodable("a varint has more than 64 bits")
                return value, at + 1
            shift += 7
            if shift > 63:
                raise Undecodable("a varint has more than 10 bytes")
    except IndexError:
        raise Undecodable("truncated in a number") from None
