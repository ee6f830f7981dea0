"""One bounded GET in a worker thread over urllib3: a quarter of what httpx costs (models.md 3).

Blocking code: everything here runs in threads, but for `Exchange.abort`, which the event loop calls. Nothing is retried
but a request that met a kept connection which the peer had closed; redirects are the caller's business.
"""

import io
import socket
import ssl
import threading
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from kmsd.blobs.peers import is_public
from kmsd.ports import BlobFault, BlobUnavailable
from kmsd.wire.keccak import Keccak256

PIECE = 65_536
"""Bytes read and hashed at a time."""
DRAINED = 16_384
"""A refusal's body up to this size is read, so that its connection can be kept."""
FORMAT_HEADER = "x-amz-meta-ct-format"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "kmsd"}


class PeerRefused(Exception):
    """The connected peer has an address that buckets may not have; nothing was sent to it."""


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


class Exchange:
    """The connection of one GET, so that the event loop can cut it: its thread then ends at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._aborted = False

    def attach(self, handle: socket.socket | None) -> None:
        """The thread says which connection it is about to wait on (None: no longer any)."""
        with self._lock:
            self._handle = handle
            if self._aborted and handle is not None:
                _cut(handle)

    def abort(self) -> None:
        """Cut the connection, now or as soon as there is one."""
        with self._lock:
            self._aborted = True
            if self._handle is not None:
                _cut(self._handle)

    @property
    def aborted(self) -> bool:
        """Whether `abort` was called."""
        return self._aborted


def _cut(handle: socket.socket) -> None:
    try:
        handle.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


_current = threading.local()
"""`_current.exchange` is the Exchange of this thread's GET."""


class _Watched(HTTPConnection):
    """A connection that the exchange of the moment can cut, in the middle of a TLS handshake too.

    It does so over a duplicate of the descriptor: the socket itself is another thread's, and TLS replaces it.
    """

    refuse_private = False
    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if self.refuse_private and not is_public(str(sock.getpeername()[0])):
            sock.close()
            raise PeerRefused
        self._close_handle()
        self._handle = sock.dup()
        _current.exchange.attach(self._handle)
        return sock

    def request(self, *arguments: Any, **options: Any) -> None:
        _current.exchange.attach(self._handle)
        super().request(*arguments, **options)

    def close(self) -> None:
        super().close()
        self._close_handle()

    def _close_handle(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Guarded(_Watched):
    refuse_private = True


class _GuardedTls(_WatchedTls):
    refuse_private = True


def _pool_class(base: type[HTTPConnectionPool], connection: type[HTTPConnection]) -> type[HTTPConnectionPool]:
    return type(f"{connection.__name__}Pool", (base,), {"ConnectionCls": connection})


def connection_pools(*, refuse_private: bool, kept: int, ca_file: str | None) -> urllib3.PoolManager:
    """Pools of kept connections, at most `kept` a bucket.

    With `refuse_private`, connections to addresses that are not public are refused before anything is sent. `ca_file`
    names authorities (PEM) besides the system's. Raises OSError for a file that cannot be used.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    pools = urllib3.PoolManager(num_pools=32, headers=_HEADERS, maxsize=kept, ssl_context=context)
    plain, tls = (_Guarded, _GuardedTls) if refuse_private else (_Watched, _WatchedTls)
    pools.pool_classes_by_scheme = {
        "http": _pool_class(HTTPConnectionPool, plain),
        "https": _pool_class(HTTPSConnectionPool, tls),
    }
    return pools


def get(
    pools: urllib3.PoolManager, url: str, exchange: Exchange, *, max_bytes: int, connect: float, read: float
) -> Reply:
    """GET `url`; `connect` and `read` are the longest silences in seconds. Raises BlobUnavailable.

    Only a reply of status 200 has a body, of at most `max_bytes` bytes; its keccak-256 is made while it streams.
    """
    _current.exchange = exchange
    try:
        return _get(pools, url, exchange, max_bytes, urllib3.Timeout(connect=connect, read=read))
    except PeerRefused:
        raise BlobUnavailable(BlobFault.FORBIDDEN_ADDRESS) from None
    except (NewConnectionError, ConnectTimeoutError) as error:
        raise BlobUnavailable(BlobFault.CONNECT, type(error).__name__) from None
    except SSLError as error:
        raise BlobUnavailable(BlobFault.TLS, _tls_words(error)) from None
    except ReadTimeoutError:
        raise BlobUnavailable(BlobFault.STALLED, f"{read:g} s") from None
    except LocationParseError:
        raise BlobUnavailable(BlobFault.BAD_URL) from None
    except (HTTPError, OSError, ValueError) as error:
        raise BlobUnavailable(BlobFault.BROKEN, type(error).__name__) from None
    finally:
        exchange.attach(None)
        _current.exchange = None


def _get(pools: urllib3.PoolManager, url: str, exchange: Exchange, max_bytes: int, timeout: urllib3.Timeout) -> Reply:
    response = _ask(pools, url, timeout, exchange)
    try:
        if response.status == 200:
            body, digest = _body(response, max_bytes)
            return Reply(200, body, digest, response.headers.get(FORMAT_HEADER), None, None)
        if 0 <= _announced(response, DRAINED) <= DRAINED:
            response.read(DRAINED)
        location = response.headers.get("location") if response.status in REDIRECTS else None
        return Reply(response.status, b"", b"", None, location, response.headers.get("x-amz-bucket-region"))
    finally:
        if not response.closed:
            response.close()


def _ask(pools: urllib3.PoolManager, url: str, timeout: urllib3.Timeout, exchange: Exchange) -> BaseHTTPResponse:
    """The response's head. A kept connection may have been closed by its peer meanwhile: then a fresh one is tried."""
    for last in (False, True):
        try:
            return pools.urlopen(
                "GET", url, redirect=False, retries=False, timeout=timeout, preload_content=False, decode_content=False
            )
        except ProtocolError:
            if last or exchange.aborted:
                raise
    raise AssertionError("unreachable")


def _body(response: BaseHTTPResponse, max_bytes: int) -> tuple[bytes, bytes]:
    announced = _announced(response, -1)
    if announced > max_bytes:
        raise BlobUnavailable(BlobFault.TOO_LARGE, f"{announced} bytes announced, {max_bytes} allowed", announced)
    keccak = Keccak256()
    buffer = io.BytesIO()
    size = 0
    while piece := response.read1(min(PIECE, max_bytes + 1 - size)):
        size += len(piece)
        if size > max_bytes:
            raise BlobUnavailable(BlobFault.TOO_LARGE, f"more than {max_bytes} bytes")
        keccak.update(piece)
        buffer.write(piece)
    if announced >= 0 and size != announced:
        raise BlobUnavailable(BlobFault.BROKEN, f"{size} of {announced} bytes")
    return buffer.getvalue(), keccak.digest()


def _announced(response: BaseHTTPResponse, default: int) -> int:
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else default


def _tls_words(error: Exception) -> str:
    inner = error.args[0] if error.args else error
    return getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or type(inner).__name__
