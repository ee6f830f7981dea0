"""A way to Postgres on which replies get lost: the statement is done, whoever asked for it never hears so."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import trio

CHUNK = 65_536


class LossyPostgres:
    """Forwards connections to the server of `url`.

    `loses` is asked about each piece that the server sends; a piece that it loses is never delivered, and its
    connection is cut. `lost` counts them.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.loses: Callable[[bytes], bool] = lambda reply: False
        self.lost = 0
        self.url = ""

    def lose_next(self, *marks: bytes) -> None:
        """Lose the first piece that holds one of these bytes; a command's tag is in the reply to it."""

        def loses(reply: bytes) -> bool:
            if any(mark in reply for mark in marks):
                self.loses = lambda reply: False
                return True
            return False

        self.loses = loses

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["LossyPostgres"]:
        """Listen on 127.0.0.1 inside the block."""
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            credentials, _, _ = self._parts.netloc.rpartition("@")
            self.url = urlunsplit(self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}"))
            nursery.start_soon(trio.serve_listeners, self._forward, listeners)
            yield self
            nursery.cancel_scope.cancel()

    async def _forward(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._parts.port or 5432)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, server, nursery.cancel_scope)
                async for piece in _pieces(server):
                    if self.loses(piece):
                        self.lost += 1
                        break
                    await client.send_all(piece)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(client)
            await trio.aclose_forcefully(server)


async def _pump(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    async for piece in _pieces(source):
        await target.send_all(piece)
    scope.cancel()


async def _pieces(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    while piece := await stream.receive_some(CHUNK):
        yield bytes(piece)
