"""The Gateway's node behind a server that answers badly on demand, in a thread of its own beside blocking tests."""

import threading
from types import TracebackType
from typing import Any

import trio
from faulty_node import FaultyNode

from kmsd.ports import RpcAnswer, RpcCall, RpcError
from kmsd.sandbox import rpc


class NodeProxy:
    """One more node of the chain whose real node listens on `port`.

    `hangs`, `status` and `refuses` are answers of a sick node; `lags` hides the newest blocks; `omits` leaves out every
    log of a block with an even number. All may be changed at any time, from any thread.
    """

    def __init__(self, port: int) -> None:
        self.lags = 0
        self.omits = False
        self.refuses = False
        self._real = rpc.RpcClient(port, timeout=10.0)
        self._node = FaultyNode(self._answer)
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)

    def __enter__(self) -> "NodeProxy":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        assert self._stop is not None
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(30)
        self._real.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._node.url

    @property
    def requests(self) -> int:
        """HTTP requests so far."""
        return self._node.requests

    def hang(self, on: bool) -> None:
        """Take requests and never answer; connections that hang are cut when it ends."""
        self._node.hangs = on
        if not on:
            assert self._token is not None
            trio.from_thread.run_sync(self._node.cut_connections, trio_token=self._token)

    def err(self, on: bool) -> None:
        """Answer HTTP 503 to everything."""
        self._node.status = 503 if on else 200

    async def _serve(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        async with self._node.serving():
            self._ready.set()
            await self._stop.wait()

    def _answer(self, call: RpcCall) -> RpcAnswer:
        if self.refuses:
            return RpcAnswer(None, RpcError(-32000, "the node is not well"))
        try:
            result: Any = self._real.call(call.method, *call.params)
            if self.lags:
                result = self._as_of_old(call, result)
        except rpc.RpcError as error:
            return RpcAnswer(None, RpcError(error.code, error.message, error.data or None))
        except OSError as error:
            return RpcAnswer(None, RpcError(-32000, f"the real node: {error}"))
        if self.omits and call.method == "eth_getLogs":
            result = [log for log in result if int(log["blockNumber"], 16) % 2]
        return RpcAnswer(result)

    def _as_of_old(self, call: RpcCall, result: Any) -> Any:
        head = int(self._real.call("eth_blockNumber"), 16) - self.lags
        if call.method == "eth_blockNumber":
            return hex(head)
        if call.method == "eth_getBlockByNumber":
            if call.params[0] == "latest":
                return self._real.call(call.method, hex(head), *call.params[1:])
            return None if result is None or int(result["number"], 16) > head else result
        if call.method == "eth_getLogs":
            return [log for log in result if int(log["blockNumber"], 16) <= head]
        return result
