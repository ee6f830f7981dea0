"""Connections to the endpoints of a Core: made when calls need them, as many as they need."""

import os
import ssl
from collections import deque

import trio
from h2.exceptions import H2Error, TooManyStreamsError

from kmsd.core.call import Call, Chunks, Headers, RawAnswer
from kmsd.core.endpoints import Endpoint
from kmsd.core.link import Link, Patience
from kmsd.ports import StatusCode

STREAMS_PER_CONNECTION = 100
"""Calls open on one connection before another is opened; servers allow some 200, and further ones would wait."""
RECONNECT = 0.05
"""Seconds after the loss of a connection before the next one is made."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds before a stream that was refused unseen is offered again, doubling; the call's deadline ends it."""


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
        self._link: Link | None = None
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

    def _start_waiting(self, link: Link) -> None:
        while self._waiting and not link.is_closing():
            call = self._waiting[0]
            try:
                call.start(link)
            except TooManyStreamsError:
                return
            except H2Error as error:
                call.fail(StatusCode.UNAVAILABLE, f"{type(error).__name__}: {error}")
            self._waiting.popleft()

    def begin(self, link: Link) -> None:
        """The connection is up: start what waits."""
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
                link = Link(stream)
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
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup) and isinstance(cause.exceptions[0], OSError):
        error = cause.exceptions[0]  # trio names the addresses that it tried, this one says why they failed
    elif isinstance(error, trio.BrokenResourceError) and cause is not None:
        error = cause
    if (
        isinstance(error, OSError)
        and not isinstance(error, ssl.SSLError)
        and error.errno is not None
        and error.errno > 0
    ):
        return os.strerror(error.errno)
    return f"{type(error).__name__}: {error}"


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
        """The answer; a stream that the peer refused unseen (it counts later than we do) is offered again."""
        ends = trio.current_time() + deadline
        pause = FIRST_PAUSE
        while True:
            call = await self._offer(path, chunks, ends - trio.current_time(), turn)
            assert call.answer is not None
            if not call.refused:
                return call.answer
            await trio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2.0 * pause)

    async def _offer(self, path: str, chunks: Chunks, deadline: float, turn: trio.Lock | None) -> Call:
        """One stream, from its headers to its end."""
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
        return call

    def _pick(self) -> Channel:
        best = min(self._channels, key=lambda channel: channel.open_calls, default=None)
        if best is None or (best.open_calls >= STREAMS_PER_CONNECTION and len(self._channels) < self._limit):
            best = Channel(self.endpoint, self._context, self._patience, self._nursery)
            self._channels.append(best)
        return best
