"""A connection to a Core that is up: trio's stream under grpclib's HTTP/2 protocol.

grpclib's `H2Protocol` does no I/O of its own: it is given bytes and writes to a transport. Here the transport is an
outbox that a trio task empties. So a call crosses no border between event loops, everything that calls write in the
same moment leaves as one system call, and a connection can be cut at once, over TLS as well.
"""

import logging
import ssl
import struct
from typing import Any, Protocol

import attrs
import trio
from grpclib.client import Handler
from grpclib.config import Configuration
from grpclib.protocol import EventsProcessor, H2Protocol
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    AlternativeServiceAvailable,
    InformationalResponseReceived,
    StreamReset,
    UnknownFrameReceived,
)

from kmsd.core.call import Call
from kmsd.core.compression import RepeatingDecoder, RepeatingEncoder
from kmsd.core.endpoints import Endpoint
from kmsd.core.replies import ReplyReader

log = logging.getLogger("kmsd.core")

OUTBOX = 262_144
"""Bytes that wait for the socket before calls have to wait for room."""
WINDOW = 16 * 1024 * 1024
"""Bytes of replies that the Core may send before we have read them."""
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


class Owner(Protocol):
    """Whose connection it is."""

    endpoint: Endpoint
    open_calls: int

    def begin(self, link: "Link") -> None:
        """The peer has greeted: calls may start."""


class Link:
    """A connection that is up: grpclib's protocol, and its transport (the methods that grpclib calls on one)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.last_received = trio.current_time()
        self.scope = trio.CancelScope()
        self.greeted = trio.Event()
        self.began = False
        self._outbox: list[bytes | memoryview] = []
        self._buffered = 0
        self._wake = trio.Event()
        self._waiting_for_room: list[Call] = []
        self._protocol = H2Protocol(Handler(), _CONFIGURATION, _H2)
        self._protocol.connection_made(self)  # type: ignore[arg-type]  # a transport in all that grpclib uses of it
        self.h2: H2Connection = self._protocol.connection._connection
        self.h2.encoder = RepeatingEncoder()
        self.h2.decoder = RepeatingDecoder(self.h2.DEFAULT_MAX_HEADER_LIST_SIZE)
        self.processor: EventsProcessor = self._protocol.processor
        self._reader = ReplyReader(self._protocol)
        for event in _TO_IGNORE:
            self.processor.processors.setdefault(event, lambda event: None)
        self.processor.processors[StreamReset] = self._reset

    async def run(self, owner: Owner, patience: Patience) -> None:
        """Carry bytes until the connection breaks, is cut, or is silent for too long; then see `lost`."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    nursery.start_soon(self._greet, owner, patience)
                    await self._receive()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    def lost(self) -> None:
        """Fail the calls that are open on it."""
        self._protocol.connection_lost(None)

    def _reset(self, event: StreamReset) -> None:
        """A stream was reset. One that was refused was not looked at, and may be offered again (RFC 9113, 8.7)."""
        call: Any = self.processor.streams.get(event.stream_id or 0)
        if isinstance(call, Call) and event.remote_reset and event.error_code == ErrorCodes.REFUSED_STREAM:
            call.refused = True
        self.processor.process_stream_reset(event)

    async def _receive(self) -> None:
        try:
            while data := await self.stream.receive_some(RECEIVE):
                self.last_received = trio.current_time()
                self._reader.feed(bytes(data))
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
                data = b"".join(self._outbox)
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

    async def _greet(self, owner: Owner, patience: Patience) -> None:
        """Wait for the peer's first bytes, its settings: only then is it known to live, and how many calls it takes."""
        with trio.move_on_after(patience.connect):
            await self.greeted.wait()
        if not self.greeted.is_set():
            self.scope.cancel()
            return
        self.began = True
        owner.begin(self)
        await self._watch(owner, patience)

    async def _watch(self, owner: Owner, patience: Patience) -> None:
        """Ping a connection that is silent while calls are open; cut it when nothing comes back."""
        while True:
            quiet = trio.current_time() - self.last_received
            if owner.open_calls == 0 or quiet < patience.quiet:
                await trio.sleep(patience.quiet - quiet if quiet < patience.quiet else patience.quiet)
                continue
            pinged = trio.current_time()
            self.h2.ping(struct.pack("!Q", int(pinged * 1e6)))
            self.flush()
            await trio.sleep(patience.ping)
            if self.last_received < pinged:
                log.warning("core %s is silent: connection cut", owner.endpoint.text)
                self.scope.cancel()
                return

    # The connection under a call (`kmsd.core.call.Carrier`)

    def has_room(self) -> bool:
        return self._buffered < OUTBOX

    def wait_for_room(self, call: Call) -> None:
        self._waiting_for_room.append(call)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.write(data)

    # A transport for grpclib

    def write(self, data: bytes | memoryview) -> None:
        self._outbox.append(data)
        self._buffered += len(data)
        self._wake.set()

    def is_closing(self) -> bool:
        return self.scope.cancel_called

    def close(self) -> None:
        self.scope.cancel()

    def get_extra_info(self, name: str) -> Any:
        return None
