"""HTTP/1.1 to one endpoint of a node: a bounded pool of kept connections, deadlines, bounded bodies.

Why not a general HTTP client: a daemon's daily bread is small POSTs to few endpoints. Over h11 one costs 0.2 ms of CPU
where httpx takes 0.9 ms, and a hook on every new connection is the only way to check the chain id on *each* reconnect
(guarantee EV8), the silent ones after an idle period included.
"""

import os
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import h11
import trio

CONNECT_TIMEOUT = 5.0
"""Seconds for address look-up, TCP and TLS."""
READ_TIMEOUT = 20.0
"""Seconds of silence while an answer is awaited; the caller's total deadline is usually shorter."""
MAX_BODY = 32 * 1024 * 1024
"""Bytes of the largest answer that is taken; more logs than that are asked for in shorter ranges."""
MAX_CONNECTIONS = 8
"""Connections to one endpoint; further requests wait for one."""
KEEP_IDLE = 50.0
"""Seconds after which an idle connection is not used again: many balancers close theirs after 60."""

_CHUNK = 65536
_MAX_HEAD = 65536


class HttpFault(Exception):
    """No usable HTTP answer. The words hold no part of the URL."""


class Reply(NamedTuple):
    """Status and complete body of an answer."""

    status: int
    body: bytes


Post = Callable[[bytes], Awaitable[Reply]]
"""Send one body over one certain connection."""


@cache
def default_tls() -> ssl.SSLContext:
    """The system's trust store, loaded once (it takes 20 ms)."""
    return ssl.create_default_context()


class _Connection:
    """One kept connection; one request at a time."""

    def __init__(self, stream: trio.abc.Stream, endpoint: "HttpEndpoint") -> None:
        self._stream = stream
        self._endpoint = endpoint
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self.used_at = trio.current_time()
        self.requests = 0
        self.answering = False

    @property
    def reusable(self) -> bool:
        """True when the last answer is complete and the peer wants to go on."""
        return self._http.our_state is h11.IDLE

    async def post(self, body: bytes) -> Reply:
        """POST `body`; raises OSError, trio.BrokenResourceError, h11.RemoteProtocolError or HttpFault."""
        self.requests += 1
        self.answering = False
        http, endpoint = self._http, self._endpoint
        length = (b"Content-Length", str(len(body)).encode())
        request = h11.Request(method=b"POST", target=endpoint.target, headers=[*endpoint.headers, length])
        head = http.send(request) or b""
        await self._stream.send_all(head + (http.send(h11.Data(data=body)) or b""))
        http.send(h11.EndOfMessage())
        status = 0
        parts: list[bytes] = []
        size = 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                with trio.fail_after(READ_TIMEOUT):
                    received = await self._stream.receive_some(_CHUNK)
                self.answering = self.answering or bool(received)
                http.receive_data(bytes(received))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > endpoint.max_body:
                    raise HttpFault(f"answer larger than {endpoint.max_body} bytes")
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("closed before the answer")
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        self.used_at = trio.current_time()
        return Reply(status, parts[0] if len(parts) == 1 else b"".join(parts))

    async def close(self) -> None:
        """Close without waiting for the peer."""
        await trio.aclose_forcefully(self._stream)


class HttpEndpoint:
    """One URL with its connections.

    `greet` is awaited with each new connection's own `post` before anything else is sent over it; what it raises is
    raised to the request that needed the connection.
    """

    def __init__(
        self,
        url: str,
        *,
        greet: Callable[[Post], Awaitable[None]] | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_body: int = MAX_BODY,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raises ValueError for a URL that is not http or https with a host; the words do not hold the URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("unusable URL of a node") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL of a node must begin with http:// or https:// and name a host")
        self._host = parts.hostname
        self._is_tls = parts.scheme == "https"
        self._port = port or (443 if self._is_tls else 80)
        self._tls = tls
        self._greet = greet
        self._slots = trio.Semaphore(max_connections)
        self._idle: list[_Connection] = []
        self.max_body = max_body
        self.target = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode("ascii", "strict")
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        host = shown_host if port is None else f"{shown_host}:{port}"
        self.headers = [
            (b"Host", host.encode("ascii")),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json"),
            (b"User-Agent", b"kmsd"),
        ]
        if parts.username is not None:
            userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers.append((b"Authorization", b"Basic " + b64encode(userinfo.encode())))

    async def post(self, body: bytes) -> Reply:
        """POST `body` over a kept or a new connection, with a deadline set by the caller's cancel scope.

        A kept connection that turns out to be closed by the peer before a byte of the answer is replaced by a new one
        once; every method kmsd calls may be repeated. Raises HttpFault.
        """
        async with self._slots:
            while (connection := self._kept()) is not None:
                try:
                    return await self._over(connection, body)
                except _Stale:
                    continue
            connection = await self._connect()
            if self._greet is not None and not await self._greeted(connection, self._greet):
                connection = await self._connect()
            try:
                return await self._over(connection, body)
            except _Stale:
                raise HttpFault("connection closed before the answer") from None

    async def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            await self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        return self._idle.pop() if self._idle else None

    async def _over(self, connection: _Connection, body: bytes) -> Reply:
        """Use `connection` once and keep it if that is possible; closes it on any exception."""
        kept = False
        try:
            if trio.current_time() - connection.used_at > KEEP_IDLE:
                raise _Stale
            reply = await connection.post(body)
            kept = connection.reusable
            if kept:
                self._idle.append(connection)
            return reply
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError) as error:
            if connection.answering:
                raise HttpFault(f"connection broken during the answer ({type(error).__name__})") from None
            raise _Stale from None
        except trio.TooSlowError:
            raise HttpFault(f"silent for {READ_TIMEOUT:.0f} s") from None
        finally:
            if not kept:
                await connection.close()

    async def _greeted(self, connection: _Connection, greet: Callable[[Post], Awaitable[None]]) -> bool:
        """Greet over `connection`; False when the endpoint closes connections after one answer. Closes it on errors."""
        usable = False
        try:
            await greet(connection.post)
            usable = connection.reusable
            return usable
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise HttpFault(f"connection broken ({type(error).__name__})") from None
        except trio.TooSlowError:
            raise HttpFault(f"silent for {READ_TIMEOUT:.0f} s") from None
        finally:
            if not usable:
                await connection.close()

    async def _connect(self) -> _Connection:
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                stream: trio.abc.Stream = await trio.open_tcp_stream(self._host, self._port)
                if self._is_tls:
                    stream = await self._secure(stream)
        except trio.TooSlowError:
            raise HttpFault(f"no connection within {CONNECT_TIMEOUT:.0f} s") from None
        except ssl.SSLError as error:
            raise HttpFault(f"TLS failure ({error.reason or type(error).__name__})") from None
        except OSError as error:
            raise HttpFault(f"cannot connect ({_reason(error)})") from None
        return _Connection(stream, self)

    async def _secure(self, tcp: trio.abc.Stream) -> trio.abc.Stream:
        stream = trio.SSLStream(tcp, self._tls or default_tls(), server_hostname=self._host, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError):
                cause = error.__cause__
                if isinstance(cause, ssl.SSLError):
                    raise cause from None
                raise OSError("TLS handshake broken off") from None
            raise
        return stream


class _Stale(Exception):
    """A connection ended before a byte of the answer."""


def _reason(error: OSError) -> str:
    """Words for a connection error, without the addresses that trio and resolvers put in."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup) and isinstance(cause.exceptions[0], OSError):
        error = cause.exceptions[0]
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__
