"""One bounded GET over a kept connection, on the event loop.

The reply that buckets give as a rule, status 200 with a Content-Length, is read straight into one buffer of that size;
every other reply (chunked, without a length, refusals, redirects) goes through h11. In a worker thread over urllib3 a
GET of 99 kB cost several times as much: two crossings and a fight for the GIL (docs/performance.md).
Nothing is retried but a request that met a kept connection which its peer had closed; redirects are the caller's.
"""

import re
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, quote

import h11
import trio

from kmsd.blobs.peers import is_public
from kmsd.ports import BlobFault, BlobUnavailable
from kmsd.wire.keccak import keccak256

DEFAULT_PORTS = {"http": 80, "https": 443}
RECEIVE = 65_536
"""Bytes of a piece where the length of the body is not known."""
BUFFER = 131_072
"""Bytes into which a GET receives; a reply that fits is copied out of them once. As many buffers as `kept` are kept."""
MAX_HEAD = 65_536
"""Bytes of a reply's head."""
DRAINED = 16_384
"""A refusal's body up to this size is read, so that its connection can be kept."""
KEEP_IDLE = 20.0
"""Seconds after which an idle connection is not used again."""
MAX_IDLE_ORIGINS = 64
"""Buckets to which idle connections are kept; past it those of the one that was used longest ago are closed."""
INLINE_HASH = 262_144
"""Bytes up to which a body is hashed on the event loop: about a millisecond. Larger ones go to a thread."""
FORMAT_HEADER = "x-amz-meta-ct-format"
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_ODD = re.compile(rb"[^!#-;=?-\[\]_a-z~]")
_HEADERS = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "kmsd"))
_TEXT = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS).encode() + b"\r\n"
_PLAIN_OK = b"HTTP/1.1 200 "
_BREAKS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError)
"""How a connection ends on us."""


class Reply(NamedTuple):
    """What one GET gave: the object, or where it is said to be (`location`, never followed here).

    `region` is the `x-amz-bucket-region` of a refusal, where S3 says that the bucket lives elsewhere.
    """

    status: int
    body: bytes
    keccak: bytes
    format: str | None
    location: str | None
    region: str | None


class _Stale(Exception):
    """A kept connection had been closed by its peer: not a byte of an answer came."""


class _Connection:
    """One connection, one GET at a time. `reusable` after a reply that ended where it said and lets us go on."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self.used_at = trio.current_time()
        self.reusable = False
        self.answered = False

    async def get(self, buffer: bytearray, host: bytes, target: bytes, max_bytes: int, silence: float) -> Reply:
        """GET `target`, receiving into `buffer` of BUFFER bytes; `silence` is the longest silence in seconds.

        Raises BlobUnavailable and what _BREAKS lists.
        """
        self.reusable = self.answered = False
        with trio.CancelScope() as patience:
            patience.deadline = trio.current_time() + silence
            await self.stream.send_all(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + _TEXT)
            room, filled, end = memoryview(buffer), 0, -1
            while end < 0 and filled < MAX_HEAD:
                filled += await self._receive_into(room[filled:], patience, silence)
                end = buffer.find(b"\r\n\r\n", 0, filled)
            head = _plain_head(bytes(room[:end])) if end >= 0 and buffer.startswith(_PLAIN_OK) else None
            if head is None:
                return await self._other(host, target, bytes(room[:filled]), max_bytes, patience, silence)
            size, ct_format, closes = head
            _must_fit(size, max_bytes)
            start = end + 4
            if filled - start > size:
                raise BlobUnavailable(BlobFault.BROKEN, f"more than the announced {size} bytes")
            if start + size <= BUFFER:
                await self._fill(room[: start + size], filled, patience, silence)
                body = bytes(room[start : start + size])
            else:
                large = bytearray(size)
                large[: filled - start] = room[start:filled]
                await self._fill(memoryview(large), filled - start, patience, silence)
                body = bytes(large)
            self.reusable = not closes
            return Reply(200, body, b"", ct_format, None, None)
        raise BlobUnavailable(BlobFault.STALLED, f"{silence:g} s")

    async def _fill(self, room: memoryview, filled: int, patience: trio.CancelScope, silence: float) -> None:
        """Receive until `room` is full."""
        while filled < len(room):
            filled += await self._receive_into(room[filled:], patience, silence)

    async def _receive_into(self, room: memoryview, patience: trio.CancelScope, silence: float) -> int:
        """At least one more byte into `room`; how many. Raises BrokenResourceError at the end of the stream."""
        if self._socket is not None:
            count = await self._socket.recv_into(room)
        else:
            piece = await self.stream.receive_some(len(room))
            count = len(piece)
            room[:count] = piece
        if not count:
            raise trio.BrokenResourceError
        self.answered = True
        patience.deadline = trio.current_time() + silence
        return count

    async def _other(
        self,
        host: bytes,
        target: bytes,
        received: bytes,
        max_bytes: int,
        patience: trio.CancelScope,
        silence: float,
    ) -> Reply:
        """Any reply but the plain one, of which `received` came already."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        http.send(h11.Request(method="GET", target=target, headers=[("Host", host.decode()), *_HEADERS]))
        http.send(h11.EndOfMessage())
        http.receive_data(received)
        response: h11.Response | None = None
        parts: list[bytes] = []
        size = 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                piece = await self.stream.receive_some(RECEIVE)
                self.answered = self.answered or bool(piece)
                patience.deadline = trio.current_time() + silence
                http.receive_data(bytes(piece))
            elif isinstance(event, h11.Response):
                response = event
                announced = _content_length(_fields(event.headers))
                if event.status_code == 200 and announced is not None:
                    _must_fit(announced, max_bytes)
                if event.status_code != 200 and (announced is None or announced > DRAINED):
                    break
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > max_bytes and response is not None and response.status_code == 200:
                    raise BlobUnavailable(BlobFault.TOO_LARGE, f"more than {max_bytes} bytes")
            elif isinstance(event, h11.EndOfMessage):
                self.reusable = http.our_state is h11.DONE and http.their_state is h11.DONE
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError
        assert response is not None
        fields, status = _fields(response.headers), response.status_code
        if status == 200:
            return Reply(200, b"".join(parts), b"", fields.get(FORMAT_HEADER), None, None)
        location = fields.get("location") if status in REDIRECTS else None
        return Reply(status, b"", b"", None, location, fields.get("x-amz-bucket-region"))


class BucketConnections:
    """Connections to buckets, at most `kept` idle ones each; `connect` and `read` are the longest silences in seconds.

    `ca_file` names authorities (PEM) besides the system's. Raises OSError for a file that cannot be used.
    """

    def __init__(self, *, kept: int, ca_file: str | None, connect: float, read: float) -> None:
        self._kept = kept
        self._connect_patience = connect
        self._read_patience = read
        self._context = ssl.create_default_context()
        if ca_file is not None:
            self._context.load_verify_locations(cafile=ca_file)
        self._idle: dict[tuple[str, str, bool], list[_Connection]] = {}
        self._buffers: list[bytearray] = []

    async def get(self, url: SplitResult, *, max_bytes: int, refuse_private: bool) -> Reply:
        """GET `url`, http or https with a host. Raises BlobUnavailable.

        Only a reply of status 200 has a body, of at most `max_bytes` bytes, and its keccak-256. With `refuse_private`
        a peer whose address is not public is left before anything is sent to it.
        """
        origin = (url.scheme, url.netloc, refuse_private)
        host, target = url.netloc.encode(), _target(url)
        while True:
            connection = self._take(origin)
            is_kept = connection is not None
            if connection is None:
                connection = await self._connect(url, refuse_private)
            try:
                reply = await self._over(connection, origin, host, target, max_bytes)
            except _Stale:
                if is_kept:
                    continue
                raise BlobUnavailable(BlobFault.BROKEN, "closed before the answer") from None
            return reply._replace(keccak=await _hash(reply.body)) if reply.status == 200 else reply

    async def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            await self._close_all(self._idle.popitem()[1])

    async def _over(
        self, connection: _Connection, origin: tuple[str, str, bool], host: bytes, target: bytes, max_bytes: int
    ) -> Reply:
        """GET over `connection` and keep it if that is possible; else it is closed, whatever comes out."""
        buffer = self._buffers.pop() if self._buffers else bytearray(BUFFER)
        try:
            return await connection.get(buffer, host, target, max_bytes, self._read_patience)
        except _BREAKS as error:
            connection.reusable = False
            if not connection.answered:
                raise _Stale from None
            raise BlobUnavailable(BlobFault.BROKEN, type(error).__name__) from None
        finally:
            if len(self._buffers) < self._kept:
                self._buffers.append(buffer)
            if connection.reusable:
                await self._keep(origin, connection)
            else:
                await trio.aclose_forcefully(connection.stream)

    def _take(self, origin: tuple[str, str, bool]) -> _Connection | None:
        """The idle connection that was used last, if it is young enough."""
        idle = self._idle.get(origin)
        if idle and trio.current_time() - idle[-1].used_at < KEEP_IDLE:
            return idle.pop()
        return None

    async def _keep(self, origin: tuple[str, str, bool], connection: _Connection) -> None:
        connection.used_at = now = trio.current_time()
        idle = self._idle.pop(origin, [])
        self._idle[origin] = idle  # the last in the dict is the one that was used last
        old: list[_Connection] = []
        while idle and now - idle[0].used_at >= KEEP_IDLE:
            old.append(idle.pop(0))
        idle.append(connection)
        if len(idle) > self._kept:
            old.append(idle.pop(0))
        if len(self._idle) > MAX_IDLE_ORIGINS:
            old += self._idle.pop(next(iter(self._idle)))
        await self._close_all(old)

    async def _close_all(self, connections: list[_Connection]) -> None:
        for connection in connections:
            await trio.aclose_forcefully(connection.stream)

    async def _connect(self, url: SplitResult, refuse_private: bool) -> _Connection:
        assert url.hostname is not None
        try:
            with trio.fail_after(self._connect_patience):
                tcp = await trio.open_tcp_stream(url.hostname, url.port or DEFAULT_PORTS[url.scheme])
                if refuse_private and not is_public(str(tcp.socket.getpeername()[0])):
                    await trio.aclose_forcefully(tcp)
                    raise BlobUnavailable(BlobFault.FORBIDDEN_ADDRESS)
                return _Connection(tcp if url.scheme == "http" else await self._secure(tcp, url.hostname))
        except trio.TooSlowError:
            raise BlobUnavailable(BlobFault.CONNECT, f"{self._connect_patience:g} s") from None
        except ssl.SSLError as error:
            raise BlobUnavailable(BlobFault.TLS, _tls_words(error)) from None
        except (OSError, UnicodeError) as error:
            raise BlobUnavailable(BlobFault.CONNECT, type(error).__name__) from None

    async def _secure(self, tcp: trio.SocketStream, hostname: str) -> trio.abc.Stream:
        stream = trio.SSLStream(tcp, self._context, server_hostname=hostname, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError):
                raise (error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else ssl.SSLError()) from None
            raise
        return stream


async def _hash(body: bytes) -> bytes:
    return keccak256(body) if len(body) <= INLINE_HASH else await trio.to_thread.run_sync(keccak256, body)


def _target(url: SplitResult) -> bytes:
    """What the request line asks for; characters that no URI has are percent-encoded."""
    target = ((url.path or "/") + (f"?{url.query}" if url.query else "")).encode()
    return quote(target, safe="/%:=&?~+!$,;'@()*[]").encode() if _ODD.search(target) else target


def _plain_head(head: bytes) -> tuple[int, str | None, bool] | None:
    """Length, format header, and whether the peer closes afterwards; None for a head that is left to h11."""
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name in fields or line[:1] in b" \t":
            return None
        fields[name] = value.strip(b" \t")
    length = fields.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 15 or b"transfer-encoding" in fields:
        return None
    ct_format = fields.get(FORMAT_HEADER.encode())
    closes = b"close" in fields.get(b"connection", b"").lower()
    return int(length), ct_format.decode("latin-1") if ct_format is not None else None, closes


def _fields(headers: h11._headers.Headers) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("latin-1") for name, value in headers}


def _content_length(fields: dict[str, str]) -> int | None:
    length = fields.get("content-length", "")
    return int(length) if length.isdigit() and len(length) < 16 else None


def _must_fit(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise BlobUnavailable(BlobFault.TOO_LARGE, f"{size} bytes announced, {max_bytes} allowed", size)


def _tls_words(error: ssl.SSLError) -> str:
    inner = error.args[0] if error.args else error
    for one in (error, inner):
        if words := getattr(one, "verify_message", "") or getattr(one, "reason", ""):
            return str(words)
    return type(error).__name__
