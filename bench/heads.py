"""When a chain's blocks were there, as a WebSocket of our own heard it: where block → broadcast begins."""

import threading
import time

import trio

from kmsd.chain.subscription import subscribe_heads


class HeadClock:
    """`seen` has the instants (Unix seconds) of blocks by number, heard in a thread of its own until `stop`."""

    def __init__(self, url: str, chain_id: int) -> None:
        self.seen: dict[int, float] = {}
        self._url, self._chain_id = url, chain_id
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._listen,), name="head clock", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        """Ends the thread."""
        if self._token is not None:
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(5)

    async def _listen(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with subscribe_heads(self._url, self._chain_id, "head clock") as heads:
                self._ready.set()
                async for head in heads:
                    self.seen.setdefault(head.number, time.time())
