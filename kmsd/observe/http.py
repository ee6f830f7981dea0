"""A small HTTP server on trio for the monitoring endpoint: one request a connection, answers from memory (PR3).

Connections are bounded in number and in time, so that a scraper that hangs or a port scan costs nothing. Handlers are
plain functions: they can neither wait nor ask anybody.
"""

import errno
import http
import logging
from collections.abc import Callable, Mapping, Sequence

import attrs
import h11
import trio

log = logging.getLogger("kmsd.monitoring")

MAX_CONNECTIONS = 64
"""Connections served at the same time; further ones are closed at once."""
DEADLINE = 10.0
"""Seconds for a whole exchange: request line, headers, answer."""
MAX_HEADERS = 16_384
"""Bytes of a request's head."""
READ_SIZE = 4_096


class CannotListen(Exception):
    """The address cannot be bound; the words name it and say what to do."""


@attrs.frozen
class Answer:
    """Status, type and body of one answer, and headers beside those that every answer has."""

    status: int
    content_type: str
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


Handler = Callable[[], Answer]


def json_answer(text: str, status: int = 200) -> Answer:
    """An answer whose body is JSON text."""
    return Answer(status, "application/json", text.encode())


async def listen(address: str) -> Sequence[trio.SocketListener]:
    """Listeners on `host:port` (IPv6 in brackets; port 0: a free one). Raises CannotListen."""
    host, _, port = address.rpartition(":")
    try:
        return await trio.open_tcp_listeners(int(port), host=host.strip("[]"))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "another program (another kmsd?) has it; stop that one or choose another address"
        elif error.errno == errno.EACCES:
            remedy = "ports below 1024 need a privilege; choose a higher one"
        else:
            remedy = "is this an address of this machine?"
        reason = error.strerror or str(error)
        raise CannotListen(f"monitoring_endpoint: cannot listen on {address}: {reason}; {remedy}") from None


class HttpServer:
    """Serves `routes` (path → handler) for any method, as the reference does."""

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._routes = routes
        self.open_connections = 0

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._connection, list(listeners))

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self.open_connections >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self.open_connections += 1
        try:
            with trio.move_on_after(DEADLINE):
                await self._exchange(stream)
        except trio.BrokenResourceError:
            pass
        finally:
            self.open_connections -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await trio.aclose_forcefully(stream)

    async def _exchange(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADERS)
        request: h11.Request | None = None
        try:
            while request is None:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(READ_SIZE))
                elif isinstance(event, h11.Request):
                    request = event
                else:
                    return
            answer = self._answer(request)
        except h11.RemoteProtocolError as error:
            answer = Answer(error.error_status_hint, "text/plain; charset=utf-8", b"malformed request\n")
        if connection.our_state is h11.SEND_RESPONSE or connection.our_state is h11.IDLE:
            await stream.send_all(
                _encoded(connection, answer, head_only=request is not None and request.method == b"HEAD")
            )
            await stream.send_eof()

    def _answer(self, request: h11.Request) -> Answer:
        path = request.target.split(b"?", 1)[0].decode("ascii", "replace")
        handler = self._routes.get(path)
        if handler is None:
            known = " ".join(sorted(self._routes))
            return Answer(404, "text/plain; charset=utf-8", f"here are: {known}\n".encode())
        try:
            return handler()
        except Exception:
            log.exception("%s could not be answered", path)
            return Answer(500, "text/plain; charset=utf-8", b"internal error, see the log\n")


def _encoded(connection: h11.Connection, answer: Answer, *, head_only: bool) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *answer.headers,
    ]
    reason = http.HTTPStatus(answer.status).phrase.encode()
    head = connection.send(h11.Response(status_code=answer.status, headers=headers, reason=reason)) or b""
    return head if head_only else head + answer.body
