"""What may be wrong with a bucket: each fault as data, and how the bucket answers a GET under it."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import attrs

_CHUNK = 65536
_SLICES_A_SECOND = 20


class Reply(NamedTuple):
    """The healthy answer: the body, and the word of the format header (None: no such header)."""

    body: bytes
    format: str | None


class Exchange(Protocol):
    """One request that waits for its answer."""

    def head(self, status: int, size: int | None, headers: Mapping[str, str]) -> None:
        """Sends the status line and headers; a `size` of None announces a chunked body."""

    async def write(self, data: bytes) -> None:
        """Sends bytes and waits while the peer takes none."""

    def reset(self) -> None:
        """Cuts the connection with RST."""

    def close(self) -> None:
        """Ends the connection after what was written."""


def _frozen(keys: Iterable[str] | None) -> frozenset[str] | None:
    return None if keys is None else frozenset(keys)


def _known(_: object, attribute: "attrs.Attribute[Any]", kind: str) -> None:
    if kind not in BEHAVIOURS:
        raise ValueError(f"unknown fault {kind!r}; known are {', '.join(BEHAVIOURS)}")


def _positive(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be above zero")


@attrs.frozen
class Fault:
    """One fault of a bucket. `kind` is a key of BEHAVIOURS.

    It hits only the `keys` (None: all of them) and vanishes after `times` answers (None: stays). `status` is an HTTP
    status, `bytes_per_second` a rate, `after_bytes` how much of the body still arrives, `size` the length of a made-up
    body in bytes, `location` a URL, `format` the word of the format header.
    """

    kind: str = attrs.field(validator=_known)
    keys: frozenset[str] | None = attrs.field(default=None, converter=_frozen)
    times: int | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    status: int = 500
    bytes_per_second: float = attrs.field(default=1000.0, validator=_positive)
    after_bytes: int = 0
    size: int = attrs.field(default=1 << 30, validator=_positive)
    location: str = ""
    format: str = "unheard_of"

    def hits(self, key: str) -> bool:
        """Whether a GET of `key` meets this fault."""
        return self.keys is None or key in self.keys


async def _status(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    body = b"<Error><Code>fault</Code></Error>"
    exchange.head(fault.status, len(body), {"content-type": "application/xml"})
    await exchange.write(body)


async def _slow(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, len(reply.body), format_header(reply.format))
    step = max(1, int(fault.bytes_per_second / _SLICES_A_SECOND))
    for start in range(0, len(reply.body), step):
        await exchange.write(reply.body[start : start + step])
        await asyncio.sleep(step / fault.bytes_per_second)


async def _stall(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, len(reply.body), format_header(reply.format))
    await exchange.write(reply.body[: fault.after_bytes])
    await _for_ever()


async def _silent(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    await _for_ever()


async def _wrong_bytes(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    wrong = reply.body[:-1] + bytes((reply.body[-1] ^ 1,)) if reply.body else b"\0"
    exchange.head(200, len(wrong), format_header(reply.format))
    await exchange.write(wrong)


async def _oversize_announced(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, fault.size, format_header(reply.format))
    for start in range(0, fault.size, _CHUNK):
        await exchange.write(bytes(min(_CHUNK, fault.size - start)))


async def _oversize_streamed(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, None, format_header(reply.format))
    for start in range(0, fault.size, _CHUNK):
        await exchange.write(_chunk(bytes(min(_CHUNK, fault.size - start))))
    await exchange.write(_chunk(b""))


async def _chunked(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, None, format_header(reply.format))
    for start in range(0, len(reply.body), _CHUNK):
        await exchange.write(_chunk(reply.body[start : start + _CHUNK]))
    await exchange.write(_chunk(b""))


async def _gzip(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    packed = await asyncio.to_thread(gzip.compress, bytes(fault.size))
    exchange.head(200, len(packed), {"content-encoding": "gzip", **format_header(reply.format)})
    await exchange.write(packed)


async def _redirect(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(302, 0, {"location": fault.location})


async def _reset(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    if fault.after_bytes:
        exchange.head(200, len(reply.body), format_header(reply.format))
        await exchange.write(reply.body[: fault.after_bytes])
    exchange.reset()


async def _truncated(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, len(reply.body), format_header(reply.format))
    await exchange.write(reply.body[: fault.after_bytes])
    exchange.close()


async def _no_format(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, len(reply.body), {})
    await exchange.write(reply.body)


async def _format(exchange: Exchange, fault: Fault, reply: Reply) -> None:
    exchange.head(200, len(reply.body), format_header(fault.format))
    await exchange.write(reply.body)


BEHAVIOURS: dict[str, Callable[[Exchange, Fault, Reply], Awaitable[None]]] = {
    "status": _status,
    "slow": _slow,
    "stall": _stall,
    "silent": _silent,
    "wrong_bytes": _wrong_bytes,
    "oversize_announced": _oversize_announced,
    "oversize_streamed": _oversize_streamed,
    "chunked": _chunked,
    "gzip": _gzip,
    "redirect": _redirect,
    "reset": _reset,
    "truncated": _truncated,
    "no_format": _no_format,
    "format": _format,
}
"""Kind of a fault → its answer.

status: any HTTP status. slow: the right body, `bytes_per_second`. stall: headers and `after_bytes`, then nothing.
silent: accepts and never answers. wrong_bytes: the last bit differs. oversize_announced: `size` zeros with a
Content-Length. oversize_streamed: the same in chunks, without one. chunked: the right body in chunks. gzip: `size`
zeros compressed. redirect: 302 to `location`. reset: RST after `after_bytes` of the body (0: before any header).
truncated: a clean end after `after_bytes`. no_format, format: the right body, the header missing or `format`.
"""


def format_header(word: str | None) -> dict[str, str]:
    """The header that names a ciphertext's format."""
    return {} if word is None else {"x-amz-meta-Ct-Format": word}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
