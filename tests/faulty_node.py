"""A JSON-RPC server over real sockets that answers well, or badly in the way a test says: HTTP/1.1 and WebSocket.

What it answers comes from `answer(method, params)`, by default a `listener_world.ChainNode`; how it answers is in the
attributes, which a test may change at any time.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h11
import orjson
import trio
import trio_websocket

from kmsd.ports import RpcAnswer, RpcCall

Answer = Callable[[RpcCall], RpcAnswer]


class FaultyNode:
    """One server. Counters: `connections`, `requests` (HTTP), `calls` (methods in order)."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.connections = 0
        self.requests = 0
        self.calls: list[str] = []
        self.headers: dict[str, str] = {}
        self.target = ""
        # How it misbehaves
        self.hangs = False
        self.status = 200
        self.body: bytes | None = None
        self.body_for: Callable[[str], bytes | None] = lambda method: None
        self.batch_limit: int | None = None
        self.refusal_style = "object"
        self.shuffles = False
        self.closes = False
        self.cuts_after: int | None = None
        self.chunked = False
        self.stall_in_body = False
        self._nursery: trio.Nursery | None = None
        self._scopes: list[trio.CancelScope] = []

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator["FaultyNode"]:
        """Serve on 127.0.0.1 inside the block."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            listeners: Sequence[Any] = await trio.open_tcp_listeners(port, host="127.0.0.1")
            bound = listeners[0].socket.getsockname()[1]
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{bound}"
            if tls is not None:
                listeners = [trio.SSLListener(one, tls, https_compatible=True) for one in listeners]
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            yield self
            nursery.cancel_scope.cancel()

    def cut_connections(self) -> None:
        """Close every open connection."""
        for scope in self._scopes:
            scope.cancel()
        self._scopes.clear()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                await self._talk(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                pass
        await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER)
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                body = b""
                self.target = event.target.decode()
                self.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.requests += 1
                await self._reply(http, stream, body)
                if http.our_state is not h11.DONE:
                    return
                http.start_next_cycle()
            else:
                return

    async def _reply(self, http: h11.Connection, stream: trio.abc.Stream, body: bytes) -> None:
        if self.hangs:
            await trio.sleep_forever()
        reply = self.body if self.body is not None else self._json(orjson.loads(body))
        headers = [("Content-Type", "application/json")]
        headers.append(("Transfer-Encoding", "chunked") if self.chunked else ("Content-Length", str(len(reply))))
        if self.closes:
            headers.append(("Connection", "close"))
        await stream.send_all(http.send(h11.Response(status_code=self.status, headers=headers)) or b"")
        if self.cuts_after is not None:
            await stream.send_all(reply[: self.cuts_after])
            raise trio.ClosedResourceError
        if self.stall_in_body:
            await stream.send_all(reply[:10])
            await trio.sleep_forever()
        for start in range(0, len(reply), 50_000):
            await stream.send_all(http.send(h11.Data(data=reply[start : start + 50_000])) or b"")
        await stream.send_all(http.send(h11.EndOfMessage()) or b"")

    def _json(self, asked: Any) -> bytes:
        if isinstance(asked, dict):
            special = self.body_for(asked["method"])
            return special if special is not None else orjson.dumps(self._one(asked))
        if self.batch_limit is not None and len(asked) > self.batch_limit:
            error = {"code": -32600, "message": "batch too large"}
            if self.refusal_style == "object":
                return orjson.dumps({"jsonrpc": "2.0", "id": None, "error": error})
            return orjson.dumps([{"jsonrpc": "2.0", "id": asked[0]["id"], "error": error}])
        for one in asked:
            if (special := self.body_for(one["method"])) is not None:
                return special
        answers = [self._one(one) for one in asked]
        return orjson.dumps(answers[::-1] if self.shuffles else answers)

    def _one(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(asked["method"])
        result, error = self.answer(RpcCall(asked["method"], asked["params"]))
        if error is None:
            return {"jsonrpc": "2.0", "id": asked["id"], "result": result}
        words = {"code": error.code, "message": error.message}
        return {
            "jsonrpc": "2.0",
            "id": asked["id"],
            "error": words if error.data is None else {**words, "data": error.data},
        }


class FaultySocket:
    """A WebSocket endpoint with `newHeads`; `push` sends a header to all, `mute` stops every answer."""

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        self.url = ""
        self.mute = False
        self.raw_reply: str | None = None
        self.connections: list[Any] = []
        self.connected = trio.Event()
        self.asked: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FaultySocket"]:
        """Serve on 127.0.0.1 inside the block."""
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_websocket.serve_websocket, self._serve, "127.0.0.1", 0, None)
            self.url = f"ws://127.0.0.1:{server.port}/v3/secret-key-of-the-operator"
            yield self
            nursery.cancel_scope.cancel()

    async def push(self, header: Any) -> None:
        """Send a head to every subscriber."""
        message = {"jsonrpc": "2.0", "method": "eth_subscription", "params": {"subscription": "0xs", "result": header}}
        for connection in self.connections:
            await connection.send_message(orjson.dumps(message).decode())

    async def cut(self) -> None:
        """Close every connection."""
        for connection in self.connections:
            await connection.aclose()
        self.connections.clear()

    async def _serve(self, request: Any) -> None:
        connection = await request.accept()
        try:
            while True:
                asked = orjson.loads(await connection.get_message())
                self.asked.append(asked["method"])
                if self.mute:
                    continue
                if self.raw_reply is not None:
                    await connection.send_message(self.raw_reply)
                    continue
                result = {"eth_chainId": hex(self.chain_id), "eth_subscribe": "0xs", "eth_blockNumber": "0x1"}
                reply = {"jsonrpc": "2.0", "id": asked["id"], "result": result[asked["method"]]}
                await connection.send_message(orjson.dumps(reply).decode())
                if asked["method"] == "eth_subscribe":
                    self.connections.append(connection)
                    self.connected.set()
        except trio_websocket.ConnectionClosed:
            pass
