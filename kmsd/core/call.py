"""One unary gRPC call as a state machine on a grpclib HTTP/2 connection. No I/O and no waiting in here.

grpclib's `EventsProcessor` feeds a `Call` in the place of its own `Stream`: headers, data, trailers, the end, and room
in the flow-control window. So a call needs no task of its own, a request leaves as the chunks that it is made of (a
message of 96 MiB is never copied whole), and a reply is refused by its announced size. What is private in grpclib and
used here is guarded by `tests/core/test_core_grpclib_canary.py`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio
from grpclib.metadata import decode_grpc_message
from grpclib.protocol import EventsProcessor
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from kmsd.ports import StatusCode

MAX_MESSAGE = 104_857_600
"""Bytes of a message either way: the Core's own limit (wire/kms-core.md 7)."""
LARGE = 1_048_576
"""A request above this many bytes is not joined, and leaves alone: no second one of its shard beside it."""

Chunks = Sequence[bytes]
"""An encoded message in pieces, in order."""
Headers = list[tuple[str, str]]


class RawAnswer(NamedTuple):
    """Status, encoded reply (empty unless OK), words. `local`: the status was made here, the Core did not say it."""

    status: StatusCode
    reply: bytes
    detail: str
    local: bool


class Carrier(Protocol):
    """The connection under a call (`kmsd.core.link.Link`)."""

    h2: H2Connection
    processor: EventsProcessor

    def has_room(self) -> bool:
        """Whether more bytes may be handed over for sending now."""

    def wait_for_room(self, call: "Call") -> None:
        """`call.pump()` when there is room again."""

    def flush(self) -> None:
        """Hand over what h2 has to send."""

    def write(self, data: bytes | memoryview) -> None:
        """Hand over bytes for sending, behind those that were handed over before."""


class _Ignored:
    """Takes the place of an asyncio.Event that nobody waits for."""

    def set(self) -> None:
        pass


_IGNORED = _Ignored()


class Call:
    """One call. `done` is set once `answer` is there; `sent` once the request has left completely or the call is over.

    The owner releases it in the end, however it ended.
    """

    def __init__(self, headers: Headers, chunks: Chunks) -> None:
        size = sum(map(len, chunks))
        prefix = b"\0" + size.to_bytes(4, "big")
        self.done = trio.Event()
        self.sent = trio.Event()
        self.answer: RawAnswer | None = None
        self.refused = False
        """The peer refused the stream without looking at it."""
        self._request_headers = headers
        self._out: deque[bytes] = deque((prefix, *chunks) if size > LARGE else (b"".join((prefix, *chunks)),))
        self._offset = 0
        self._in: list[bytes] = []
        self._in_size = 0
        self._link: Carrier | None = None
        self._release: Callable[[], None] | None = None
        # What grpclib's EventsProcessor expects of a stream.
        self.id: int | None = None
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self.headers_received = _IGNORED
        self.trailers_received = _IGNORED
        self.data_received = 0
        self.window_updated = self
        self.buffer = self

    @property
    def started(self) -> bool:
        """Whether the call has a stream."""
        return self.id is not None

    def start(self, link: Carrier) -> None:
        """Open a stream and send what may be sent. Raises TooManyStreamsError if the peer takes no more streams now."""
        stream_id = link.h2.get_next_available_stream_id()
        link.h2.send_headers(stream_id, self._request_headers)
        self.id = stream_id
        self._link = link
        self._release = link.processor.register(self)  # type: ignore[arg-type]  # in the place of a Stream
        self.pump()

    def pump(self) -> None:
        """Send as much of the request as flow control and the connection allow; called again when they allow more."""
        link, stream_id = self._link, self.id
        if link is None or stream_id is None or not self._out or self.answer is not None:
            return
        h2 = link.h2
        try:
            while self._out:
                if not link.has_room():
                    link.wait_for_room(self)
                    break
                limit = min(h2.local_flow_control_window(stream_id), h2.max_outbound_frame_size)
                if limit <= 0:
                    break
                chunk = self._out[0]
                piece = memoryview(chunk)[self._offset : self._offset + limit]
                self._offset += len(piece)
                if self._offset == len(chunk):
                    self._out.popleft()
                    self._offset = 0
                if self._out:
                    _write_data(link, stream_id, piece)
                else:
                    h2.send_data(stream_id, piece, end_stream=True)
                    link.flush()
        except H2Error as error:
            self.fail(StatusCode.UNAVAILABLE, f"the request could not be sent: {type(error).__name__}: {error}")
        if not self._out:
            self.sent.set()

    def fail(self, status: StatusCode, detail: str) -> None:
        """End the call with a status of our own, unless it has ended."""
        self._finish(RawAnswer(status, b"", detail, True))

    def release(self) -> None:
        """Give the stream back; reset it at the peer if it is still open. Call exactly once, when nobody waits."""
        link, release = self._link, self._release
        self._out.clear()
        if link is None or release is None:
            return
        self._release = None
        stream = link.h2.streams.get(self.id) if self.id is not None else None
        if stream is not None and not stream.closed:
            try:
                link.h2.reset_stream(stream.stream_id, ErrorCodes.CANCEL)
            except H2Error:
                pass  # the connection is closed
            link.flush()
        release()

    # -----------------------------------------------------------------------------------------------------------------
    # Called by grpclib's EventsProcessor

    def set(self) -> None:
        """As `window_updated`: the peer's window has room."""
        self.pump()

    def add(self, data: bytes, ack_size: int) -> None:
        """As `buffer`: a piece of the reply."""
        assert self._link is not None
        assert self.id is not None
        self._link.processor.connection.ack(self.id, ack_size)
        if self.answer is not None:
            return
        if self._in_size == 0 and not _is_grpc(self.headers):
            return  # somebody else's words, a proxy's page perhaps: the status will say what it means
        self._in.append(data)
        self._in_size += len(data)
        if self._in_size >= 5 and len(self._in) <= 5:
            announced = int.from_bytes(b"".join(self._in)[1:5], "big")
            if announced > MAX_MESSAGE:
                self.fail(StatusCode.OUT_OF_RANGE, f"a reply of {announced} bytes; at most {MAX_MESSAGE} are taken")
        if self._in_size > MAX_MESSAGE + 5:
            self.fail(StatusCode.INTERNAL, "the reply is longer than it announced")

    def eof(self) -> None:
        """As `buffer`: nothing follows. `__ended__` says the same."""

    def unacked_size(self) -> int:
        """As `buffer`: bytes not yet acknowledged; none, as `add` acknowledges at once."""
        return 0

    def __ended__(self) -> None:
        """The peer has said everything."""
        self._finish(self._evaluate())

    def __terminated__(self, reason: str) -> None:
        """The stream or the connection broke. A status that came before says more than that."""
        for headers in (self.trailers, self.headers):
            if headers is not None and (answer := _status(dict(headers))) is not None and answer.status:
                self._finish(answer)
                return
        self.fail(StatusCode.UNAVAILABLE, f"connection lost: {reason}")

    # -----------------------------------------------------------------------------------------------------------------

    def _finish(self, answer: RawAnswer) -> None:
        if self.answer is None:
            self.answer = answer
            self._in.clear()
            self.sent.set()
            self.done.set()

    def _evaluate(self) -> RawAnswer:
        if self.headers is None:
            return RawAnswer(StatusCode.UNKNOWN, b"", "the reply has no headers", True)
        answer = _status(dict(self.headers))
        if answer is None and not _is_grpc(self.headers):
            return RawAnswer(StatusCode.UNKNOWN, b"", "the reply is not gRPC", True)
        if answer is None and self.trailers is not None:
            answer = _status(dict(self.trailers))
        if answer is None:
            return RawAnswer(StatusCode.UNKNOWN, b"", "the reply ended without a status", True)
        if answer.status is not StatusCode.OK:
            return answer
        while len(self._in) > 1 and len(self._in[0]) < 5:
            self._in[:2] = [self._in[0] + self._in[1]]
        prefix, rest = (self._in[0][:5], self._in[0][5:]) if self._in else (b"", b"")
        if len(prefix) < 5 or int.from_bytes(prefix[1:], "big") != self._in_size - 5:
            return RawAnswer(StatusCode.INTERNAL, b"", "the reply is not one whole message", True)
        if prefix[0]:
            return RawAnswer(StatusCode.INTERNAL, b"", "the reply is compressed, which was not offered", True)
        self._in[0] = rest
        return RawAnswer(StatusCode.OK, rest if len(self._in) == 1 else b"".join(self._in), "", False)


def _write_data(link: Carrier, stream_id: int, piece: memoryview) -> None:
    """A DATA frame with more to come, as h2 would write it, but for its objects and its copies of the piece."""
    link.flush()
    h2, size = link.h2, len(piece)
    h2.outbound_flow_control_window -= size
    h2.streams[stream_id].outbound_flow_control_window -= size
    link.write((size << 8).to_bytes(4, "big") + b"\0" + stream_id.to_bytes(4, "big"))
    link.write(piece)


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


def _is_grpc(headers: Headers | None) -> bool:
    return headers is not None and any(
        name == "content-type" and value.startswith("application/grpc") for name, value in headers
    )


def _status(headers: dict[str, str]) -> RawAnswer | None:
    """The answer that headers or trailers carry, if they carry one."""
    number = headers.get("grpc-status")
    if number is None:
        http = headers.get(":status", "200")
        if http == "200":
            return None
        return RawAnswer(_HTTP_STATUS.get(http, StatusCode.UNKNOWN), b"", f"HTTP status {http}", True)
    try:
        status = StatusCode(int(number))
    except ValueError:
        status = StatusCode.UNKNOWN
    return RawAnswer(status, b"", decode_grpc_message(headers.get("grpc-message", "")), False)
