"""What the Core double reads from requests. Decryptions are parsed by hand: only what is needed of each ciphertext."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import attrs
from grpclib.const import Status

from kmsd.core.decoding import Undecodable, decode
from kmsd.core.pb.kms import v1 as kms
from kmsd.sandbox.ciphertexts import HEADER_BYTES
from kmsd.sandbox.core_double_store import Refusal
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError


class Malformed(Exception):
    """The bytes are no protobuf message of the expected kind; a Core answers INTERNAL."""


class Invalid(Exception):
    """The message is well formed but a Core refuses it; INVALID_ARGUMENT."""


@attrs.frozen
class Ciphertext:
    """The beginning of a ciphertext (HEADER_BYTES at most), and its declared type, handle and format."""

    head: bytes
    fhe_type: int
    handle: bytes
    format: int


@attrs.frozen
class Decryption:
    """A public or user decryption request. `client` and `enc_key` are empty for a public one."""

    request_id: int
    ciphertexts: tuple[Ciphertext, ...]
    key_id: int
    domain: Domain
    client: bytes
    enc_key: bytes
    context_id: int | None
    epoch_id: int | None


def parse_decryption(data: bytes, *, user: bool) -> Decryption:
    """Parse a PublicDecryptionRequest or (`user`) UserDecryptionRequest. Raises Malformed or Invalid."""
    ids: dict[int, bytes] = {}
    ciphertexts: list[Ciphertext] = []
    domain_at, context_at, epoch_at = (6, 8, 9) if user else (4, 6, 7)
    others: dict[int, bytes] = {}
    for number, start, end in _fields(data, 0, len(data)):
        if number == 2:
            ciphertexts.append(_ciphertext(data, start, end))
        elif number in (1, 3, context_at, epoch_at):
            ids[number] = data[start:end]
        else:
            others[number] = data[start:end]
    request_id, key_id = _nested_id(ids.get(1)), _nested_id(ids.get(3))
    if request_id is None or key_id is None:
        raise Invalid("request id and key id are needed")
    if not ciphertexts:
        raise Invalid("no ciphertexts")
    if domain_at not in others:
        raise Invalid("no domain")
    domain = parse_domain(others[domain_at])
    client = b""
    if user:
        client = _checksummed(others.get(4, b""))
        if client == domain.verifying_contract:
            raise Invalid("the client is the verifying contract")
        if any(len(ciphertext.handle) > 32 for ciphertext in ciphertexts):
            raise Invalid("a handle has more than 32 bytes")
        if len(others.get(5, b"")) not in (869, 1576):
            raise Invalid("the encryption key cannot be decoded")
    return Decryption(
        request_id,
        tuple(ciphertexts),
        key_id,
        domain,
        client,
        others.get(5, b"") if user else b"",
        _nested_id(ids.get(context_at)),
        _nested_id(ids.get(epoch_at)),
    )


@lru_cache(maxsize=64)
def parse_domain(data: bytes) -> Domain:
    """An Eip712DomainMsg as the Core takes it. Raises Malformed or Invalid."""
    try:
        message = decode(kms.Eip712DomainMsg, data)
    except Undecodable as error:
        raise Malformed(str(error)) from error
    return domain_of(message)


def domain_of(message: kms.Eip712DomainMsg | None) -> Domain:
    """A domain from its message. Raises Invalid for what the Core refuses."""
    if message is None:
        raise Invalid("no domain")
    if len(message.chain_id) > 32:
        raise Invalid("the chain id has more than 32 bytes")
    if message.salt is not None and len(message.salt) != 32:
        raise Invalid("the salt has not 32 bytes")
    contract = _checksummed(message.verifying_contract.encode())
    return Domain(message.name, message.version, int.from_bytes(message.chain_id, "big"), contract)


def parse_id(text: str) -> int:
    """An id as the Core takes it: 64 hex digits, not zero; white space, `0x` and upper case are tolerated."""
    digits = text.strip().removeprefix("0x")
    try:
        number = int(digits, 16) if len(digits) == 64 and digits.isalnum() else 0
    except ValueError:
        number = 0
    if number == 0:
        raise Invalid("malformed id")
    return number


def id_of(message: kms.RequestId | None) -> int:
    """The id of a mandatory RequestId field."""
    if message is None:
        raise Invalid("an id is missing")
    return parse_id(message.request_id)


def _checksummed(text: bytes) -> bytes:
    try:
        address = parse_address(text.decode())
    except (WireError, UnicodeDecodeError):
        raise Invalid("not an address") from None
    if to_checksum(address).encode() != text:
        raise Invalid("not in EIP-55 form")
    return address


def _nested_id(data: bytes | None) -> int | None:
    if data is None:
        return None
    for number, start, end in _fields(data, 0, len(data)):
        if number == 1:
            return parse_id(data[start:end].decode("utf-8", "replace"))
    raise Invalid("empty id")


def _ciphertext(data: bytes, start: int, end: int) -> Ciphertext:
    head, fhe_type, handle, ciphertext_format = b"", 0, b"", 0
    for number, first, last in _fields(data, start, end):
        if number == 1:
            head = data[first : min(last, first + HEADER_BYTES)]
        elif number == 2:
            fhe_type = _signed(_varint(data, first)[0])
        elif number == 3:
            handle = data[first:last]
        elif number == 4:
            ciphertext_format = _varint(data, first)[0]
    return Ciphertext(head, fhe_type, handle, ciphertext_format)


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each field's payload; a varint's payload is its own bytes."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at)
        elif kind == 0:
            size = _varint(data, at)[1] - at
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise Malformed(f"wire type {kind}")
        if at + size > end:
            raise Malformed("truncated")
        yield tag >> 3, at, at + size
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("bad varint")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# ---------------------------------------------------------------------------------------------------------------------
# Messages of ceremonies


def parse(message_type: type[Any], data: bytes) -> Any:
    """The message, or Malformed."""
    try:
        return decode(message_type, data)
    except Undecodable as error:
        raise Malformed(str(error)) from error


def checked(read: Callable[[], Any]) -> Any:
    """What `read` gives; Invalid becomes the Core's INVALID_ARGUMENT."""
    try:
        return read()
    except Invalid as error:
        raise Refusal(Status.INVALID_ARGUMENT, str(error)) from error


def id_and_domain(request: Any) -> tuple[int, Domain]:
    """The two that every ceremony needs. Raises Refusal."""
    found: tuple[int, Domain] = checked(lambda: (id_of(request.request_id), domain_of(request.domain)))
    return found


def optional_id(message: kms.RequestId | None) -> int | None:
    """A context or epoch id, which a Core takes for its own fault when it is malformed."""
    if message is None:
        return None
    try:
        return parse_id(message.request_id)
    except Invalid as error:
        raise Refusal(Status.INTERNAL, str(error)) from error


def saved_domain(domain: Domain) -> list[str]:
    """A domain as JSON has it in the state file."""
    return [domain.name, domain.version, str(domain.chain_id), domain.verifying_contract.hex()]


def loaded_domain(saved: list[str]) -> Domain:
    """The domain that was saved."""
    return Domain(saved[0], saved[1], int(saved[2]), bytes.fromhex(saved[3]))
