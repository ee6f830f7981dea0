"""The asyncio side of a Core connection: unary gRPC calls over grpclib's HTTP/2 connections.

Calls use `grpclib.protocol` directly rather than `grpclib.client.Stream`: a request leaves as the chunks it is made of
(a 96 MiB message is never copied whole), a reply is refused by its announced size, and a small call costs less. A
watcher of each connection aborts it when the peer is silent: grpclib's own keep-alive closes politely, which never ends
over TLS or with unsent bytes. What is private in grpclib and used here is guarded by
`tests/core/test_grpclib_canary.py`.
"""

import asyncio
import logging
import ssl
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

import attrs
from grpclib.client import Channel, Handler
from grpclib.config import Configuration
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from grpclib.metadata import decode_grpc_message
from grpclib.protocol import H2Protocol, Stream
from grpclib.utils import Wrapper
from h2.exceptions import H2Error

from kmsd.core.endpoints import Endpoint
from kmsd.ports import StatusCode

log = logging.getLogger("kmsd.core")

MAX_MESSAGE = 104_857_600
"""Bytes of a message either way: the Core's own limit (wire/kms-core.md 7)."""
LARGE = 1_048_576
"""Requests above this many bytes leave one at a time for each shard, so that they never fill memory together."""
STREAMS_PER_CONNECTION = 100
"""Calls open on one connection before another is opened; servers allow some 200, and further ones would wait."""

Chunks = Sequence[bytes]
"""An encoded message in pieces, in order. `bytes` only: grpclib would copy any other buffer."""


@attrs.frozen
class Patience:
    """How long a connection may be silent, in seconds."""

    connect: float = 5.0
    """TCP and TLS together."""
    quiet: float = 2.0
    """With calls open and nothing received for this long, the peer is pinged."""
    ping: float = 6.0
    """A ping without any byte received for this long ends the connection; with `quiet` well within 10 s."""


class RawAnswer(NamedTuple):
    """Status, encoded reply (empty unless OK), words. `local`: the status was made here, the Core did not say it."""

    status: StatusCode
    reply: bytes
    detail: str
    local: bool


class _DeadlineExceeded(Exception):
    """The call's deadline passed."""


class _Unreadable(Exception):
    """The peer's answer is not a unary gRPC reply."""

    def __init__(self, status: StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class _NoCodec(CodecBase):
    """Messages are encoded and decoded by the caller; this only keeps grpclib from looking for protobuf."""

    __content_subtype__ = "proto"

    def encode(self, message: object, message_type: object) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, message_type: object) -> object:
        raise NotImplementedError


class WatchedProtocol(H2Protocol):
    """An HTTP/2 connection that remembers when bytes last came, and can be cut off."""

    transport: asyncio.Transport
    last_received: float
    lost: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.last_received = time.monotonic()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.last_received = time.monotonic()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        super().connection_lost(exc)

    def ping(self) -> None:
        """Send a PING frame."""
        self.connection._connection.ping(struct.pack("!Q", time.monotonic_ns()))
        self.connection.flush()

    def cut(self) -> None:
        """End the connection at once, unsent bytes or TLS notwithstanding; its calls fail."""
        self.transport.abort()


class CoreChannel(Channel):
    """One connection to one endpoint, made when first needed and made again after it broke."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None, patience: Patience) -> None:
        super().__init__(
            endpoint.host,
            endpoint.port,
            codec=_NoCodec(),
            ssl=context if endpoint.tls else None,
            config=Configuration(http2_connection_window_size=16 * 2**20, http2_stream_window_size=16 * 2**20),
        )
        self.endpoint = endpoint
        self.open_calls = 0
        self._patience = patience
        self._watcher: asyncio.Task[None] | None = None
        self._headers = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "kmsd"),
        ]

    def _protocol_factory(self) -> H2Protocol:
        return WatchedProtocol(Handler(), self._config, self._h2_config)

    async def _create_connection(self) -> H2Protocol:
        async with asyncio.timeout(self._patience.connect):
            protocol = await super()._create_connection()
        assert isinstance(protocol, WatchedProtocol)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(protocol))
        return protocol

    async def _watch(self, protocol: WatchedProtocol) -> None:
        """Ping a connection that is silent while calls are open; cut it when nothing comes back."""
        patience = self._patience
        while not protocol.lost:
            quiet = time.monotonic() - protocol.last_received
            if self.open_calls == 0 or quiet < patience.quiet:
                await asyncio.sleep(max(0.05, patience.quiet - quiet) if self.open_calls else patience.quiet)
                continue
            pinged = time.monotonic()
            protocol.ping()
            await asyncio.sleep(patience.ping)
            if not protocol.lost and protocol.last_received < pinged:
                log.warning("core %s does not answer: connection cut after %.0f s", self.endpoint.text, patience.ping)
                protocol.cut()

    def shut(self) -> None:
        """Close for good."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._protocol is not None:
            assert isinstance(self._protocol, WatchedProtocol)
            self._protocol.transport.abort()
        self.close()

    async def unary(self, path: str, chunks: Chunks, deadline: float, turn: asyncio.Lock) -> RawAnswer:
        """Make one call that ends within `deadline` seconds. Whatever happens is an answer; only Cancelled is raised.

        `turn` is held while a large request leaves.
        """
        size = sum(map(len, chunks))
        if size > MAX_MESSAGE:
            detail = f"the request has {size} bytes, the Core takes {MAX_MESSAGE}"
            return RawAnswer(StatusCode.OUT_OF_RANGE, b"", detail, True)
        wrapper = Wrapper()
        timer = asyncio.get_running_loop().call_later(deadline, wrapper.cancel, _DeadlineExceeded())
        self.open_calls += 1
        stream: Stream | None = None
        try:
            with wrapper:
                protocol = await self.__connect__()
                stream = protocol.processor.connection.create_stream(wrapper=wrapper)
                headers = [*self._headers, (":path", path), ("grpc-timeout", f"{max(1, int(deadline * 1000))}m")]
                release = await stream.send_request(headers, _processor=protocol.processor)
                try:
                    prefix = b"\0" + size.to_bytes(4, "big")
                    if size > LARGE:
                        async with turn:
                            await _send_pieces(stream, prefix, chunks)
                    else:
                        await stream.send_data(b"".join((prefix, *chunks)), end_stream=True)
                    return await _receive(stream)
                finally:
                    if stream.closable:
                        stream.reset_nowait()
                    release()
        except _DeadlineExceeded:
            return RawAnswer(StatusCode.DEADLINE_EXCEEDED, b"", f"no answer within {deadline:g} s", True)
        except _Unreadable as error:
            return RawAnswer(error.status, b"", str(error), True)
        except StreamTerminatedError as error:
            # A server may refuse in the middle of a request: its status, if it sent one, says more than the reset.
            answer = _status_so_far(stream) if stream is not None else None
            return answer or RawAnswer(StatusCode.UNAVAILABLE, b"", f"connection lost: {error}", True)
        except TimeoutError:
            detail = f"cannot connect within {self._patience.connect:g} s"
            return RawAnswer(StatusCode.UNAVAILABLE, b"", detail, True)
        except (OSError, H2Error) as error:
            return RawAnswer(StatusCode.UNAVAILABLE, b"", f"{type(error).__name__}: {error}", True)
        except Exception as error:
            log.exception("unexpected fault in a call of %s at %s", path, self.endpoint.text)
            return RawAnswer(StatusCode.UNAVAILABLE, b"", f"{type(error).__name__}: {error}", True)
        finally:
            timer.cancel()
            self.open_calls -= 1


async def _send_pieces(stream: Stream, prefix: bytes, chunks: Chunks) -> None:
    """Send a large message chunk by chunk, without ever joining it."""
    await stream.send_data(prefix)
    last = len(chunks) - 1
    for number, chunk in enumerate(chunks):
        await stream.send_data(chunk, end_stream=number == last)


async def _receive(stream: Stream) -> RawAnswer:
    """Read a unary reply: headers, one message of at most MAX_MESSAGE bytes, trailers."""
    headers = dict(await stream.recv_headers())
    if (answer := _status(headers)) is not None:
        return answer
    prefix = await stream.recv_data(5)
    reply = b""
    if prefix:
        size = int.from_bytes(prefix[1:], "big")
        if prefix[0]:
            raise _Unreadable(StatusCode.INTERNAL, "the reply is compressed though we offered no compression")
        if size > MAX_MESSAGE:
            raise _Unreadable(StatusCode.OUT_OF_RANGE, f"a reply of {size} bytes; at most {MAX_MESSAGE} are taken")
        reply = await stream.recv_data(size)
    answer = _status(dict(await stream.recv_trailers()), trailers=True)
    if answer is None or (answer.status is StatusCode.OK and not prefix):
        raise _Unreadable(StatusCode.UNKNOWN, "the reply ended without a message or without a status")
    return answer if answer.status is not StatusCode.OK else RawAnswer(StatusCode.OK, reply, "", False)


_HTTP_STATUS = {
    "400": StatusCode.INTERNAL,
    "401": StatusCode.UNAUTHENTICATED,
    "403": StatusCode.PERMISSION_DENIED,
    "404": StatusCode.UNIMPLEMENTED,
    "429": StatusCode.UNAVAILABLE,
    "502": StatusCode.UNAVAILABLE,
    "503": StatusCode.UNAVAILABLE,
    "504": StatusCode.UNAVAILABLE,
}
"""gRPC's mapping of HTTP statuses, for proxies that answer in the Core's place; all others are UNKNOWN."""


def _status(headers: dict[str, str], *, trailers: bool = False) -> RawAnswer | None:
    """The answer that headers or trailers carry, if they carry one."""
    http = headers.get(":status", "200")
    if not trailers and http != "200" and "grpc-status" not in headers:
        return RawAnswer(_HTTP_STATUS.get(http, StatusCode.UNKNOWN), b"", f"HTTP status {http}", True)
    number = headers.get("grpc-status")
    if number is None:
        return None
    try:
        status = StatusCode(int(number))
    except ValueError:
        status = StatusCode.UNKNOWN
    return RawAnswer(status, b"", decode_grpc_message(headers.get("grpc-message", "")), False)


def _status_so_far(stream: Stream) -> RawAnswer | None:
    """The status of a stream that was reset, where the server sent one before; never OK."""
    for headers in (stream.trailers, stream.headers):
        if headers is not None and (answer := _status(dict(headers))) is not None and answer.status:
            return answer
    return None


class ChannelPool:
    """Connections to one endpoint for one lane: as many as the open calls need, the least used one first."""

    def __init__(
        self, endpoint: Endpoint, context: ssl.SSLContext | None, patience: Patience, turn: asyncio.Lock, limit: int
    ) -> None:
        self.endpoint = endpoint
        self._context = context
        self._patience = patience
        self._turn = turn
        self._limit = limit
        self._channels: list[CoreChannel] = []

    async def unary(self, path: str, chunks: Chunks, deadline: float) -> RawAnswer:
        """As `CoreChannel.unary`."""
        return await self._pick().unary(path, chunks, deadline, self._turn)

    def _pick(self) -> CoreChannel:
        best = min(self._channels, key=lambda channel: channel.open_calls, default=None)
        if best is None or (best.open_calls >= STREAMS_PER_CONNECTION and len(self._channels) < self._limit):
            best = CoreChannel(self.endpoint, self._context, self._patience)
            self._channels.append(best)
        return best

    def shut(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            channel.shut()
        self._channels.clear()
