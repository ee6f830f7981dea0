"""The gRPC port of the Core double: grpclib's HTTP/2 layer alone, because its streams would cost more than the rest."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.metadata import encode_grpc_message
from grpclib.protocol import AbstractHandler, H2Protocol, Stream
from h2.config import H2Configuration
from h2.exceptions import H2Error
from hyperframe.frame import Frame

MAX_MESSAGE = 104_857_600
"""Bytes of the largest message that a Core takes."""

WINDOW = 16 * 2**20
"""Bytes that a client may send before they are read."""

Answer = tuple[Status, str, bytes]
"""Status, words, encoded reply."""

Answerer = Callable[[str, bytes], Awaitable[Answer]]
"""Method name and request to answer."""


_H2 = H2Configuration(
    client_side=False,
    header_encoding="ascii",
    validate_inbound_headers=True,  # as strict as the Core's own server
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)
_HEAD = [(":status", "200"), ("content-type", "application/grpc")]
_OK = [("grpc-status", "0")]


class Connection(AbstractHandler):
    """Serves the streams of one HTTP/2 connection, each in a task."""

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self._tasks: dict[Stream, asyncio.Task[None]] = {}
        self._flush_is_due = False

    def flush_soon(self, stream: Stream) -> None:
        """Write at the end of this moment, so that all replies of one moment leave as one system call."""
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush, stream)

    def _flush(self, stream: Stream) -> None:
        self._flush_is_due = False
        if not stream.connection.is_closing():
            stream.connection.flush()

    def accept(self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream, dict(headers), release_stream))
        self._tasks[stream] = task

    def cancel(self, stream: Stream) -> None:
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _serve(self, stream: Stream, headers: dict[str, str], release: Callable[[], None]) -> None:
        try:
            size = int.from_bytes((await stream.recv_data(5))[1:], "big")
            if size > MAX_MESSAGE:
                answer: Answer = (Status.OUT_OF_RANGE, f"message of {size} bytes is too large", b"")
            else:
                data = await stream.recv_data(size)
                answer = await self._answer(headers[":path"].rpartition("/")[2], data)
            await _reply(stream, self.flush_soon, *answer)
        except H2Error:
            pass  # the client has gone
        finally:
            self._tasks.pop(stream, None)
            if stream.closable:
                stream.reset_nowait()
            release()


async def _reply(
    stream: Stream, flush_soon: Callable[[Stream], None], status: Status, detail: str, reply: bytes
) -> None:
    """Send headers, message and trailers; without waiting where the message fits a frame and the window."""
    assert stream.id is not None
    await stream.connection.write_ready.wait()
    h2 = stream._h2_connection
    if status is not Status.OK:
        trailers = [("grpc-status", str(status.value)), ("grpc-message", encode_grpc_message(detail))]
        h2.send_headers(stream.id, _HEAD + trailers, end_stream=True)
        flush_soon(stream)
        return
    h2.send_headers(stream.id, _HEAD)
    frame = b"\0" + len(reply).to_bytes(4, "big") + reply
    if len(frame) <= min(h2.local_flow_control_window(stream.id), h2.max_outbound_frame_size):
        h2.send_data(stream.id, frame)
    else:
        stream.connection.flush()
        await stream.send_data(frame)
    h2.send_headers(stream.id, _OK, end_stream=True)
    flush_soon(stream)


def _plain_repr(frame: Frame) -> str:
    return type(frame).__name__


async def serve_grpc(answer: Answerer, host: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
    """Serve `answer` on a port (0: a free one), over TLS with a `context`."""
    # h2 makes the text of every frame that it receives, for a log that nobody reads: 16 kB of hex for a data frame.
    Frame.__repr__ = _plain_repr  # type: ignore[method-assign]
    config = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW).__for_server__()
    return await asyncio.get_running_loop().create_server(
        lambda: H2Protocol(Connection(answer), config, _H2), host, port, ssl=context, backlog=1024
    )
