"""Faults of the Core double, set while it runs, and the small HTTP port that sets them.

`POST /faults` takes one JSON object, or a list of them:

    {"method": "PublicDecrypt", "count": 3, "status": "RESOURCE_EXHAUSTED"}    answer that, do nothing
    {"method": "PublicDecrypt", "count": 1, "status": "UNAVAILABLE", "perform": true}   do it, then answer that
    {"method": "GetKeyGenResult", "count": 1, "hang": true}                    never answer
    {"method": "UserDecrypt", "count": 1, "hang": true, "perform": true}       do it, then never answer (a lost reply)
    {"method": "Init", "count": 1, "delay_ms": 500}                            answer late
    {"method": "PublicDecrypt", "count": 1, "burn": "NOT_FOUND"}               refuse, and burn the id
    {"method": "GetPublicDecryptionResult", "count": 1, "result": "wrong signer"}   spoil the result (see SPOILERS)
    {"method": "GetPublicDecryptionResult", "count": 1, "result": "garbage"}   OK with bytes that are no message
    {"method": "GetPublicDecryptionResult", "count": 1, "result": "huge"}      with 96 MiB more in an unknown field
    {"forget": true}      as a restart: decryptions and preprocessings are forgotten (centralized: keygens too)
    {"fail_running": true}   every running operation fails: its poll is INTERNAL
    {"reset": true}       no faults any more

`count` is 1 if absent; -1 means for ever. `method` "*" is every method. `GET /stats` tells what was called and what the
double holds; `POST /settings` changes `latency_ms`, `jitter_ms`, `long_poll`, `rate_tokens`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from grpclib.const import Status

from kmsd.core.pb.kms import v1 as kms


@attrs.define
class Fault:
    """One fault that waits for its calls."""

    method: str
    count: int = 1
    status: Status | None = None
    perform: bool = False
    hang: bool = False
    delay_ms: float = 0.0
    burn: Status | None = None
    result: str | None = None

    @classmethod
    def parse(cls, data: dict[str, Any]) -> "Fault":
        """From JSON. Raises ValueError for names that do not exist."""
        known = {field.name for field in attrs.fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
        values = dict(data)
        for key in ("status", "burn"):
            if values.get(key) is not None:
                if values[key] not in Status.__members__:
                    raise ValueError(f"no gRPC status {values[key]!r}")
                values[key] = Status[values[key]]
        spoiler = values.get("result")
        if spoiler not in (None, "garbage", "huge", *SPOILERS):
            raise ValueError(f"no spoiler {spoiler!r}; there are garbage, huge, {', '.join(SPOILERS)}")
        return cls(**values)


class Faults:
    """All faults that are set."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def set(self, fault: Fault) -> None:
        """Add a fault behind those that are there."""
        self._faults.append(fault)

    def reset(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def next(self, method: str) -> Fault | None:
        """The fault that this call of `method` meets."""
        for fault in self._faults:
            if fault.method in (method, "*"):
                if fault.count > 0:
                    fault.count -= 1
                    if fault.count == 0:
                        self._faults.remove(fault)
                return fault
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Spoilers: change a reply before (True) or after (False) it is signed


def _wrong_request_id(reply: Any) -> None:
    other = kms.RequestId(request_id="01" + "f" * 62)
    if isinstance(reply, kms.PublicDecryptionResponse):
        assert reply.payload is not None
        reply.payload.request_id = other
    elif isinstance(reply, kms.KeyGenPreprocResult):
        reply.preprocessing_id = other
    else:
        reply.request_id = other


def _values(reply: Any) -> list[Any]:
    if isinstance(reply, kms.PublicDecryptionResponse):
        assert reply.payload is not None
        return reply.payload.plaintexts
    if isinstance(reply, kms.UserDecryptionResponse):
        assert reply.payload is not None
        return reply.payload.signcrypted_ciphertexts
    found: list[Any] = reply.key_digests
    return found


def _extra_value(reply: Any) -> None:
    _values(reply).append(_values(reply)[-1])


def _missing_value(reply: Any) -> None:
    _values(reply).pop()


def _reversed_values(reply: Any) -> None:
    _values(reply).reverse()


def _wrong_handle(reply: Any) -> None:
    share = reply.payload.signcrypted_ciphertexts[0]
    share.external_handle = bytes((share.external_handle[0] ^ 1,)) + share.external_handle[1:]


def _unknown_type(reply: Any) -> None:
    value = _values(reply)[0]
    if isinstance(value, kms.KeyDigest):
        value.key_type = "CompressedXofKeySet"
    else:
        value.fhe_type = 99


def _wide_plaintext(reply: Any) -> None:
    reply.payload.plaintexts[0].bytes = b"\xff" * 33


def _corrupt_digest(reply: Any) -> None:
    if isinstance(reply, kms.UserDecryptionResponse):
        assert reply.payload is not None
        reply.payload.digest = bytes(32)
    elif isinstance(reply, kms.CrsGenResult):
        reply.crs_digest = reply.crs_digest[:31]
    else:
        reply.key_digests[0].digest = b""


def _wrong_bits(reply: Any) -> None:
    reply.max_num_bits += 1


def _nonsense_party(reply: Any) -> None:
    reply.payload.party_id = 0


def _no_payload(reply: Any) -> None:
    reply.payload = None


def _foreign_extra_data(reply: Any) -> None:
    reply.extra_data = b"\x01stranger"


def _bad_signature(reply: Any) -> None:
    reply.external_signature = reply.external_signature[:64] + b"\x02"


def _short_signature(reply: Any) -> None:
    reply.external_signature = reply.external_signature[:64]


def _wrong_signer(reply: Any) -> None:
    """Another key's signature: a different r and s recover to a stranger."""
    signature = reply.external_signature
    reply.external_signature = signature[:64] + bytes((55 - signature[64],))


SPOILERS: dict[str, tuple[Callable[[Any], None], bool]] = {
    "wrong request id": (_wrong_request_id, True),
    "extra value": (_extra_value, True),
    "missing value": (_missing_value, True),
    "wrong handle order": (_reversed_values, True),
    "wrong handle": (_wrong_handle, True),
    "unknown type": (_unknown_type, False),
    "wide plaintext": (_wide_plaintext, False),
    "corrupt digest": (_corrupt_digest, False),
    "wrong bits": (_wrong_bits, False),
    "nonsense party": (_nonsense_party, True),
    "no payload": (_no_payload, False),
    "foreign extra data": (_foreign_extra_data, False),
    "bad signature": (_bad_signature, False),
    "short signature": (_short_signature, False),
    "wrong signer": (_wrong_signer, False),
}
"""Name: (what it does to a reply, whether the signature is made afterwards)."""


# ---------------------------------------------------------------------------------------------------------------------
# The control port

Answerer = Callable[[str, str, Any], Awaitable[tuple[int, Any]]]
"""(method, path, JSON body or None) to (HTTP status, JSON answer)."""


async def serve_control(host: str, port: int, answer: Answerer) -> asyncio.Server:
    """Serve JSON over HTTP/1.1, one request a connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10.0):
                request = (await reader.readline()).decode("latin-1").split()
                size = 0
                while (line := (await reader.readline()).strip()) != b"":
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        size = int(value)
                body = json.loads(await reader.readexactly(min(size, 1 << 20))) if size else None
                status, reply = await answer(request[0], request[1], body)
        except Exception as error:
            status, reply = 400, {"error": f"{type(error).__name__}: {error}"}
        data = json.dumps(reply).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
        writer.write(head.encode() + b"connection: close\r\n\r\n" + data)
        try:
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError:
            pass

    return await asyncio.start_server(handle, host, port)
