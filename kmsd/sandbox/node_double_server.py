"""The node double behind HTTP, in this process or as its own: `python -m kmsd.sandbox.node_double_server --help`."""

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import trio

from kmsd.sandbox.node_double import ChainDouble
from kmsd.sandbox.node_double_contracts import Execution
from kmsd.sandbox.node_double_pool import RpcFailure, Rules

SYNC_PATIENCE = 2.0
"""Seconds that eth_sendRawTransactionSync waits where the caller names none."""


class NodeDoubleServer:
    """Answers JSON-RPC over HTTP/1.1 on 127.0.0.1 and makes blocks every `interval` seconds (None: only when told).

    Besides the methods of the chain: eth_sendRawTransactionSync, and for directors `double_mine`, `double_setBaseFee`,
    `double_setBalance`, `double_dropPool`, `double_reorganise`, `double_setInterval`, `double_calls`.
    """

    def __init__(self, chain: ChainDouble, interval: float | None) -> None:
        self.chain = chain
        self.interval = interval
        self._mined = trio.Event()
        self._interval_changed = trio.Event()
        self._directions: Mapping[str, Callable[..., Any]] = {
            "double_mine": self._mine,
            "double_setBaseFee": lambda fee: setattr(self.chain, "base_fee", int(fee)),
            "double_setBalance": lambda a, wei: self.chain.balances.__setitem__(bytes.fromhex(a[2:]), int(wei)),
            "double_dropPool": lambda: self.chain.drop_pool(),
            "double_reorganise": lambda depth, forget=True: self.chain.reorganise(depth, forget=forget),
            "double_setInterval": self._set_interval,
            "double_calls": lambda: dict(self.chain.calls),
        }

    async def run(self, port: int = 0, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve for ever; `task_status` gets the URL."""
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        bound: int = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._make_blocks)
            nursery.start_soon(functools.partial(trio.serve_listeners, self._connection, listeners))
            task_status.started(f"http://127.0.0.1:{bound}")

    def _mine(self, count: int = 1) -> None:
        self.chain.mine(count)
        self._mined.set()
        self._mined = trio.Event()

    def _set_interval(self, seconds: float | None) -> None:
        self.interval = seconds
        self._interval_changed.set()
        self._interval_changed = trio.Event()

    async def _make_blocks(self) -> None:
        due = trio.current_time()
        while True:
            if self.interval is None:
                await self._interval_changed.wait()
                due = trio.current_time()
                continue
            due = max(due + self.interval, trio.current_time())
            await trio.sleep_until(due)
            self._mine()

    async def _connection(self, stream: trio.SocketStream) -> None:
        buffer = bytearray()
        try:
            while True:
                body = await _read_body(stream, buffer)
                if body is None:
                    return
                answer = orjson.dumps(await self._answer(orjson.loads(body)))
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
                await stream.send_all(head.encode("ascii") + answer)
        except (trio.BrokenResourceError, orjson.JSONDecodeError, ValueError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, request: Any) -> Any:
        if isinstance(request, list):
            return [await self._answer(one) for one in request]
        method, params = request.get("method"), request.get("params") or ()
        try:
            if method == "eth_sendRawTransactionSync":
                return {"jsonrpc": "2.0", "id": request.get("id"), "result": await self._send_sync(*params)}
            if method in self._directions:
                return {"jsonrpc": "2.0", "id": request.get("id"), "result": self._directions[method](*params)}
        except RpcFailure as failure:
            error = {"code": failure.code, "message": failure.message}
            return {"jsonrpc": "2.0", "id": request.get("id"), "error": error}
        return self.chain.answer(request)

    async def _send_sync(self, raw: str, patience_ms: int | None = None) -> Any:
        tx_hash = self.chain.rpc("eth_sendRawTransaction", (raw,))
        with trio.move_on_after(patience_ms / 1000 if patience_ms is not None else SYNC_PATIENCE):
            while (receipt := self.chain.rpc("eth_getTransactionReceipt", (tx_hash,))) is None:
                await self._mined.wait()
            return receipt
        raise RpcFailure(4, "the transaction was added to the mempool but was not processed in time", tx_hash)


async def _read_body(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    """The body of the next request; None when the client is gone."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        chunk = await stream.receive_some(65536)
        if not chunk:
            return None
        buffer += chunk
    head = bytes(buffer[:end]).lower()
    at = head.find(b"content-length:")
    size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    while len(buffer) < end + 4 + size:
        chunk = await stream.receive_some(262144)
        if not chunk:
            return None
        buffer += chunk
    body = bytes(buffer[end + 4 : end + 4 + size])
    del buffer[: end + 4 + size]
    return body


def main() -> None:
    """Serve one chain until the process is ended; the first line of output is its URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chain-id", type=int, default=31337)
    parser.add_argument("--rules", choices=[rules.value for rules in Rules], default=Rules.GETH.value)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between blocks")
    parser.add_argument("--gas", type=int, default=250_000, help="gas that every call uses")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()

    def contracts(sender: bytes, to: bytes, data: bytes, gas: int | None) -> Execution:
        return Execution(gas=options.gas if data else 21_000)

    async def serve() -> None:
        server = NodeDoubleServer(ChainDouble(options.chain_id, Rules(options.rules), contracts), options.interval)
        async with trio.open_nursery() as nursery:
            url = await nursery.start(server.run, options.port)
            print(url, flush=True)

    trio.run(serve)


if __name__ == "__main__":
    main()
