"""GETs over kept connections against a server that answers exactly what a test says."""

from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import pytest
import trio

from kmsd.blobs.http_get import BucketConnections, Reply
from kmsd.ports import BlobFault, BlobUnavailable
from kmsd.wire.keccak import keccak256

BODY = bytes(range(256)) * 400
CLOSE = object()


class Server:
    """Answers each request of a connection with the next script, in the pieces that it is made of."""

    def __init__(self, scripts: Sequence[Sequence[object]]) -> None:
        self._scripts = list(scripts)
        self.connections = 0
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/a/b"
        task_status.started()
        await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        async with stream:
            received = b""
            try:
                while piece := await stream.receive_some(65536):
                    received += piece
                    if b"\r\n\r\n" not in received:
                        continue
                    self.requests.append(received)
                    received = b""
                    for part in self._scripts.pop(0):
                        if part is CLOSE:
                            return
                        assert isinstance(part, bytes)
                        await stream.send_all(part)
                        await trio.lowlevel.checkpoint()
            except trio.BrokenResourceError:
                pass


@pytest.fixture
async def connections() -> AsyncIterator[BucketConnections]:
    opened = BucketConnections(kept=4, ca_file=None, connect=5.0, read=5.0)
    yield opened
    await opened.close()


def plain(body: bytes, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(
    connections: BucketConnections, server: Server, *, max_bytes: int = 1_000_000, private: bool = False
) -> Reply:
    return await connections.get(urlsplit(server.url), max_bytes=max_bytes, refuse_private=private)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-amz-meta-Ct-Format: f\r\n\r\n"
WHOLE = plain(BODY, "x-amz-meta-Ct-Format: f")


@pytest.mark.parametrize(
    "script",
    [
        [WHOLE],
        [WHOLE[:10], WHOLE[10:40], WHOLE[40:90], WHOLE[90:60_000], WHOLE[60_000:]],
        [b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE],
        [CHUNKED, b"%x\r\n" % len(BODY), BODY, b"\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX-AMZ-meta-ct-format: f\r\n\r\n", BODY, CLOSE],
        [b"HTTP/1.0 200 OK\r\nx-amz-meta-ct-format: f\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY, CLOSE],
    ],
)
async def test_object_comes_whole_however_it_is_framed(
    script: Sequence[object], connections: BucketConnections, nursery: trio.Nursery
) -> None:
    server = Server([script])
    await nursery.start(server.serve)
    reply = await ask(connections, server)
    assert (reply.status, reply.body, reply.keccak, reply.format) == (200, BODY, keccak256(BODY), "f")
    assert server.requests[0].startswith(b"GET /a/b HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_connection_is_kept_and_replaced_when_its_peer_closed_it(
    connections: BucketConnections, nursery: trio.Nursery
) -> None:
    server = Server([[WHOLE], [b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone"], [WHOLE, CLOSE], [WHOLE]])
    await nursery.start(server.serve)
    assert [(await ask(connections, server)).status for _ in range(3)] == [200, 404, 200]
    assert server.connections == 1
    assert (await ask(connections, server)).body == BODY
    assert server.connections == 2


async def test_connection_that_says_close_is_not_kept(connections: BucketConnections, nursery: trio.Nursery) -> None:
    server = Server([[plain(BODY, "Connection: close")], [WHOLE]])
    await nursery.start(server.serve)
    await ask(connections, server)
    await ask(connections, server)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ([plain(BODY)[:-1], CLOSE], BlobFault.BROKEN),
        ([plain(BODY)[:20], CLOSE], BlobFault.BROKEN),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd"], BlobFault.BROKEN),
        ([CHUNKED, b"5\r\nab", CLOSE], BlobFault.BROKEN),
        ([b"SSH-2.0-OpenSSH\r\n\r\n"], BlobFault.BROKEN),
        ([CLOSE], BlobFault.BROKEN),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"], BlobFault.TOO_LARGE),
        ([CHUNKED, b"f4241\r\n" + bytes(1_000_001)], BlobFault.TOO_LARGE),
    ],
)
async def test_what_is_not_the_whole_object_is_a_fault(
    script: Sequence[object], fault: BlobFault, connections: BucketConnections, nursery: trio.Nursery
) -> None:
    server = Server([script])
    await nursery.start(server.serve)
    with pytest.raises(BlobUnavailable) as caught:
        await ask(connections, server)
    assert caught.value.fault is fault


async def test_silence_is_a_stall(nursery: trio.Nursery) -> None:
    server = Server([[WHOLE[:1000]]])
    await nursery.start(server.serve)
    connections = BucketConnections(kept=1, ca_file=None, connect=5.0, read=0.05)
    with pytest.raises(BlobUnavailable) as caught:
        await ask(connections, server)
    assert caught.value.fault is BlobFault.STALLED


async def test_private_peer_hears_nothing(connections: BucketConnections, nursery: trio.Nursery) -> None:
    server = Server([[WHOLE]])
    await nursery.start(server.serve)
    with pytest.raises(BlobUnavailable) as caught:
        await ask(connections, server, private=True)
    assert caught.value.fault is BlobFault.FORBIDDEN_ADDRESS
    assert not server.requests


async def test_redirect_and_region_are_told(connections: BucketConnections, nursery: trio.Nursery) -> None:
    moved = b"HTTP/1.1 301 Moved\r\nLocation: /c\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n"
    server = Server([[moved]])
    await nursery.start(server.serve)
    assert await ask(connections, server) == Reply(301, b"", b"", None, "/c", "eu-west-1")
