"""A real EVM node as a process: anvil, with mining under control and the means to make reorganisations and faults."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from kmsd.sandbox import toolchain
from kmsd.sandbox.ports import free_port
from kmsd.sandbox.process import ChildProcess
from kmsd.sandbox.rpc import RpcClient

START_DEADLINE = 30.0
"""Seconds within which a node must answer."""

BLOCK_GAS_LIMIT = 3_000_000_000
"""Gas of a block: enough for a burst of thousands of requests in one of them."""


class Anvil:
    """One node on 127.0.0.1. Blocking; a start takes about 0.2 s.

    `block_time` is the interval of blocks in seconds (fractions allowed), None for a block per transaction, 0 for
    none but those that `mine` makes. `timestamp` (Unix seconds) is the time of genesis, from which the node's clock
    runs on. `logs` is an existing folder for its output. The HTTP and WebSocket endpoints
    are the same port.

    anvil hashes its whole state for every block. As the fork of another node it does not, which makes blocks of a large
    state ten times as fast; but then `reorganise` leaves in place what the undone blocks had stored (anvil 1.7.1), so a
    fork cannot stand in here.
    """

    def __init__(
        self,
        chain_id: int,
        logs: Path,
        *,
        block_time: float | None = None,
        name: str = "anvil",
        timestamp: int | None = None,
    ) -> None:
        self.chain_id = chain_id
        self.name = name
        self._logs = logs
        self._block_time = block_time
        self._timestamp = timestamp
        self._process: ChildProcess | None = None
        self._rpc: RpcClient | None = None
        self._state = logs / f"{name}-state.json"
        self._miner: _Miner | None = None

    def __enter__(self) -> "Anvil":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port; it stays over restarts."""
        return self.rpc.port

    @property
    def url(self) -> str:
        """The HTTP endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def rpc(self) -> RpcClient:
        """The client of this node. Raises RuntimeError before the first start."""
        if self._rpc is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._rpc

    @property
    def process(self) -> ChildProcess:
        """The node's process, for signals. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def start(self) -> None:
        """Starts the node (again, with the chain that `stop` saved) and waits until it answers.

        Raises RuntimeError with its output if it does not within START_DEADLINE seconds.
        """
        tools = toolchain.prepare()
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            port = self._rpc.port if self._rpc else free_port()
            process = ChildProcess(self.name, [tools.anvil, *self._options(port)], self._logs)
            process.start()
            client = RpcClient(port)
            while time.monotonic() < deadline and process.alive():
                if _answers(client, self.chain_id) and process.alive():
                    self._process, self._rpc = process, client
                    if self._block_time:
                        self._miner = _Miner(port, self._block_time)
                    return
                time.sleep(0.01)
            process.kill()
            self._process = process
        raise RuntimeError(f"{self.name} did not start: {self.process.log_tail()}")

    def stop(self) -> None:
        """Ends the node; its chain is saved for the next start."""
        self._end_mining()
        if self._process is not None:
            self._process.stop()
        if self._rpc is not None:
            self._rpc.close()

    def kill(self) -> None:
        """SIGKILL; its chain is lost but for what an earlier `stop` saved."""
        self._end_mining()
        self.process.kill()
        self.rpc.close()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    def close(self) -> None:
        """Ends the node for good."""
        self._end_mining()
        if self._process is not None:
            self._process.resume()
            self._process.kill()
        if self._rpc is not None:
            self._rpc.close()
        self._state.unlink(missing_ok=True)

    def call(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC call. Raises RpcError."""
        return self.rpc.call(method, *params)

    def block_number(self) -> int:
        """The head's number."""
        return int(self.call("eth_blockNumber"), 16)

    def block_hash(self, number: int) -> str:
        """The hash of a block by number."""
        block_hash: str = self.call("eth_getBlockByNumber", hex(number), False)["hash"]
        return block_hash

    def mine(self, blocks: int = 1) -> None:
        """Makes blocks now; the first one takes all waiting transactions."""
        for _ in range(blocks):
            self.call("evm_mine")

    @contextmanager
    def mining_paused(self) -> Iterator[None]:
        """Makes no blocks inside the block, where they come at an interval."""
        paused = self._miner is not None
        self._end_mining()
        try:
            yield
        finally:
            if paused and self._block_time:
                self._miner = _Miner(self.port, self._block_time)

    def set_automine(self, on: bool) -> None:
        """Whether each transaction makes a block at once."""
        self.call("evm_setAutomine", on)

    def snapshot(self) -> str:
        """Remembers the chain as it is; the answer is for `revert`."""
        snapshot: str = self.call("evm_snapshot")
        return snapshot

    def revert(self, snapshot: str) -> None:
        """Goes back to a snapshot: later blocks are forgotten as by a reorganisation. A snapshot serves once.

        Raises RuntimeError for one that is gone.
        """
        if not self.call("evm_revert", snapshot):
            raise RuntimeError(f"{self.name} has no snapshot {snapshot}")

    def reorganise(self, depth: int) -> None:
        """Replaces the last `depth` blocks by empty ones with other hashes."""
        self.call("anvil_reorg", depth, [])

    def set_balance(self, address: str, wei: int) -> None:
        """Gives an account this balance."""
        self.call("anvil_setBalance", address, hex(wei))

    def drop_transaction(self, transaction_hash: str) -> None:
        """Forgets a waiting transaction."""
        self.call("anvil_dropTransaction", transaction_hash)

    def _options(self, port: int) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(port), "--chain-id", str(self.chain_id), "--accounts", "1"]
        options += ["--gas-limit", str(BLOCK_GAS_LIMIT), "--hardfork", "prague", "--order", "fifo", "--quiet"]
        options += ["--state", str(self._state), "--cache-path", str(self._logs / f"{self.name}-cache")]
        if self._timestamp is not None:
            options += ["--timestamp", str(self._timestamp)]
        if self._block_time is not None:
            options.append("--no-mining")
        return options

    def _end_mining(self) -> None:
        if self._miner is not None:
            self._miner.stop()
            self._miner = None


class _Miner:
    """Makes a block every `interval` seconds, or as fast as the node can make them, from a thread.

    anvil's own interval mining takes its list of transactions at every tick, also while a block is in the making, and
    then works through the outdated lists: with a thousand waiting transactions it makes empty blocks only (measured:
    2,010 waited for 90 s, which one `evm_mine` took in 6 s).
    """

    def __init__(self, port: int, interval: float) -> None:
        self._rpc = RpcClient(port)
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"miner of port {port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more blocks; a call to a node that stands still is left behind after a second."""
        self._ended.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            due = max(due + self._interval, time.monotonic())
            if self._ended.wait(due - time.monotonic()):
                return
            try:
                self._rpc.call("evm_mine")
            except (OSError, http.client.HTTPException):
                self._ended.wait(self._interval)


def _answers(client: RpcClient, chain_id: int) -> bool:
    try:
        return int(client.call("eth_chainId"), 16) == chain_id
    except OSError:
        return False
