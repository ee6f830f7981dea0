"""Connections to a Core: trio's sockets and TLS under grpclib's HTTP/2 protocol.

grpclib's `H2Protocol` does no I/O of its own: it is given bytes and writes to a transport. Here the transport is an
outbox that a trio task empties. So a call crosses no border between event loops, everything that calls write in the
same moment leaves as one system call, and a connection can be cut at once, over TLS as well.
"""

import logging
import ssl
import struct
from collections import deque
from typing import Any

import attrs
import trio
from grpclib.client import Handler
from grpclib.config import Configuration
from grpclib.protocol import EventsProcessor, H2Protocol
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import AlternativeServiceAvailable, InformationalResponseReceived, UnknownFrameReceived
from h2.exceptions import H2Error, TooManyStreamsError

from kmsd.core.call import Call, Chunks, Headers, RawAnswer
from kmsd.core.endpoints import Endpoint
from kmsd.ports import StatusCode

log = logging.getLogger("kmsd.core")

STREAMS_PER_CONNECTION = 100
"""Calls open on one connection before another is opened; servers allow some 200, and further ones would wait."""
OUTBOX = 262_144
"""Bytes that wait for the socket before calls have to wait for room."""
WINDOW = 16 * 1024 * 1024
"""Bytes of replies that the Core may send before we have read them."""
RECONNECT = 0.05
"""Seconds after the loss of a connection before the next one is made."""
RECEIVE = 262_144
"""Bytes read at once."""

_H2 = H2Configuration(
    client_side=True,
    header_encoding="ascii",
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)
_TO_IGNORE = (UnknownFrameReceived, AlternativeServiceAvailable, InformationalResponseReceived)
"""Events that HTTP/2 wants ignored; grpclib raises on what it does not know."""
_CONFIGURATION = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW).__for_client__()


@attrs.frozen
class Patience:
    """How long a connection may be silent, in seconds."""

    connect: float = 5.0
    """TCP and TLS together."""
    quiet: float = 2.0
    """With calls open and nothing received for this long, the peer is pinged."""
    ping: float = 5.0
    """A ping without any byte received for this long ends the connection; with `quiet` well within 10 s."""


class _Link:
    """A connection that is up: grpclib's protocol, and its transport (the methods that grpclib calls on one)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.last_received = trio.current_time()
        self.scope = trio.CancelScope()
        self.greeted = trio.Event()
        self.began = False
        self._outbox: list[bytes] = []
        self._buffered = 0
        self._wake = trio.Event()
        self._waiting_for_room: list[Call] = []
        self._protocol = H2Protocol(Handler(), _CONFIGURATION, _H2)
        self._protocol.connection_made(self)  # type: ignore[arg-type]  # a transport in all that grpclib uses of it
        self.h2: H2Connection = self._protocol.connection._connection
        self.processor: EventsProcessor = self._protocol.processor
        for event in _TO_IGNORE:
            self.processor.processors.setdefault(event, lambda event: None)

    async def run(self, channel: "Channel", patience: Patience) -> None:
        """Carry bytes until the connection breaks, is cut, or is silent for too long; then see `lost`."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    nursery.start_soon(self._greet, channel, patience)
                    await self._receive()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    def lost(self) -> None:
        """Fail the calls that are open on it."""
        self._protocol.connection_lost(None)

    async def _receive(self) -> None:
        try:
            while data := await self.stream.receive_some(RECEIVE):
                self.last_received = trio.current_time()
                self._protocol.data_received(bytes(data))
                if not self.is_closing():
                    self.greeted.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass
        except Exception:
            # grpclib stumbles over a few sequences that a server should not send: one connection's trouble.
            log.exception("a Core sent what grpclib cannot read: connection cut")

    async def _send(self) -> None:
        try:
            while True:
                if not self._outbox:
                    self._wake = trio.Event()
                    await self._wake.wait()
                data = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
                self._outbox.clear()
                self._buffered = 0
                if self._waiting_for_room:
                    # What they write now is sent after `data`; so the socket never idles.
                    waiting, self._waiting_for_room = self._waiting_for_room, []
                    for call in waiting:
                        call.pump()
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.scope.cancel()

    async def _greet(self, channel: "Channel", patience: Patience) -> None:
        """Wait for the peer's first bytes, its settings: only then is it known to live, and how many calls it takes."""
        with trio.move_on_after(patience.connect):
            await self.greeted.wait()
        if not self.greeted.is_set():
            self.scope.cancel()
            return
        channel.begin(self)
        await self._watch(channel, patience)

    async def _watch(self, channel: "Channel", patience: Patience) -> None:
        """Ping a connection that is silent while calls are open; cut it when nothing comes back."""
        while True:
            quiet = trio.current_time() - self.last_received
            if channel.open_calls == 0 or quiet < patience.quiet:
                await trio.sleep(patience.quiet - quiet if quiet < patience.quiet else patience.quiet)
                continue
            pinged = trio.current_time()
            self.h2.ping(struct.pack("!Q", int(pinged * 1e6)))
            self.flush()
            await trio.sleep(patience.ping)
            if self.last_received < pinged:
                log.warning("core %s is silent: connection cut", channel.endpoint.text)
                self.scope.cancel()
                return

    # The connection under a call (`kmsd.core.call.Link`)

    def has_room(self) -> bool:
        return self._buffered < OUTBOX

    def wait_for_room(self, call: Call) -> None:
        self._waiting_for_room.append(call)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.write(data)

    # A transport for grpclib

    def write(self, data: bytes) -> None:
        self._outbox.append(data)
        self._buffered += len(data)
        self._wake.set()

    def is_closing(self) -> bool:
        return self.scope.cancel_called

    def close(self) -> None:
        self.scope.cancel()

    def get_extra_info(self, name: str) -> Any:
        return None


class Channel:
    """One connection to one endpoint: made when a call needs it, and again after it broke.

    Calls wait here while it is being made, or while the peer takes no more streams; in order.
    """

    def __init__(
        self, endpoint: Endpoint, context: ssl.SSLContext | None, patience: Patience, nursery: trio.Nursery
    ) -> None:
        self.endpoint = endpoint
        self.open_calls = 0
        self._context = context if endpoint.tls else None
        self._patience = patience
        self._nursery = nursery
        self._link: _Link | None = None
        self._running = False
        self._waiting: deque[Call] = deque()
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._pseudo_headers = [
            (":method", "POST"),
            (":scheme", "https" if endpoint.tls else "http"),
            (":authority", f"{host}:{endpoint.port}"),
        ]

    def headers(self, path: str, deadline: float) -> Headers:
        """Headers of a call in the order that HTTP/2 wants, pseudo-headers first."""
        return [
            *self._pseudo_headers,
            (":path", path),
            ("te", "trailers"),
            ("grpc-timeout", f"{min(99_999_999, max(1, int(deadline * 1000)))}m"),
            ("content-type", "application/grpc"),
            ("user-agent", "kmsd"),
        ]

    def submit(self, call: Call) -> None:
        """Start `call`, or let it wait its turn. It ends by itself; release it here in any case."""
        self.open_calls += 1
        self._waiting.append(call)
        if self._link is not None:
            self._start_waiting(self._link)
        elif not self._running:
            self._running = True
            self._nursery.start_soon(self._run)

    def release(self, call: Call) -> None:
        """The call is over, or nobody wants it any more."""
        self.open_calls -= 1
        if not call.started and call in self._waiting:
            self._waiting.remove(call)
        call.release()
        if self._waiting and self._link is not None:
            self._start_waiting(self._link)

    def _start_waiting(self, link: _Link) -> None:
        while self._waiting and not link.is_closing():
            call = self._waiting[0]
            try:
                call.start(link)
            except TooManyStreamsError:
                return
            except H2Error as error:
                call.fail(StatusCode.UNAVAILABLE, f"{type(error).__name__}: {error}")
            self._waiting.popleft()

    def begin(self, link: _Link) -> None:
        """The connection is up: start what waits."""
        link.began = True
        self._link = link
        self._start_waiting(link)

    async def _run(self) -> None:
        """Connect, start what waits, carry bytes until the connection ends; again if something waits then."""
        try:
            while self._waiting:
                try:
                    stream = await self._connect()
                except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                    self._fail_waiting(f"cannot connect: {_words(error, self._patience)}")
                    return
                link = _Link(stream)
                try:
                    await link.run(self, self._patience)
                finally:
                    self._link = None
                    link.lost()
                if not link.began:
                    self._fail_waiting("cannot connect: something listens there, but it takes no HTTP/2 calls from us")
                    return
                await trio.sleep(RECONNECT)
        finally:
            self._running = False
            self._fail_waiting("kmsd is ending")

    async def _connect(self) -> trio.abc.Stream:
        """A connected stream, TLS included. Raises OSError (ssl.SSLError is one), BrokenResourceError, TooSlowError."""
        with trio.fail_after(self._patience.connect):
            stream = await trio.open_tcp_stream(self.endpoint.host, self.endpoint.port)
            if self._context is None:
                return stream
            secured = trio.SSLStream(stream, self._context, server_hostname=self.endpoint.host, https_compatible=True)
            try:
                await secured.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(secured)
                raise
            return secured

    def _fail_waiting(self, detail: str) -> None:
        for call in self._waiting:
            call.fail(StatusCode.UNAVAILABLE, detail)
        self._waiting.clear()


def _words(error: BaseException, patience: Patience) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no connection within {patience.connect:g} s"
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}"


class ChannelPool:
    """Connections to one endpoint for one lane: as many as the open calls need, the least used one first."""

    def __init__(
        self,
        endpoint: Endpoint,
        context: ssl.SSLContext | None,
        patience: Patience,
        nursery: trio.Nursery,
        limit: int,
    ) -> None:
        self.endpoint = endpoint
        self._context = context
        self._patience = patience
        self._nursery = nursery
        self._limit = limit
        self._channels: list[Channel] = []

    async def unary(self, path: str, chunks: Chunks, deadline: float, turn: trio.Lock | None = None) -> RawAnswer:
        """Make one call that ends within `deadline` seconds. Whatever happens is an answer; only Cancelled is raised.

        With `turn`, the request leaves while that is held: one large request at a time.
        """
        with trio.move_on_after(deadline):
            return await self._call(path, chunks, deadline, turn)
        return RawAnswer(StatusCode.DEADLINE_EXCEEDED, b"", f"no answer within {deadline:g} s", True)

    async def _call(self, path: str, chunks: Chunks, deadline: float, turn: trio.Lock | None) -> RawAnswer:
        channel = self._pick()
        call = Call(channel.headers(path, deadline), chunks)
        try:
            if turn is None:
                channel.submit(call)
            else:
                async with turn:
                    channel.submit(call)
                    await call.sent.wait()
            await call.done.wait()
        finally:
            channel.release(call)
        assert call.answer is not None
        return call.answer

    def _pick(self) -> Channel:
        best = min(self._channels, key=lambda channel: channel.open_calls, default=None)
        if best is None or (best.open_calls >= STREAMS_PER_CONNECTION and len(self._channels) < self._limit):
            best = Channel(self.endpoint, self._context, self._patience, self._nursery)
            self._channels.append(best)
        return best
