"""Wake-ups: bounded memory channels that say *there is work of this kind*, coalesced to one slot each (rule 1).

Postgres is the truth; losing a wake-up costs one polling interval and nothing else.
"""

import math

import trio

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS


class WakeUp:
    """A one-slot channel: any number of `ring()`s before a `wait()` are one."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[None](1)

    def ring(self) -> None:
        """Say that there is work; never blocks."""
        try:
            self._send.send_nowait(None)
        except trio.WouldBlock:
            pass

    async def wait(self, timeout: float = math.inf) -> bool:
        """Wait for a ring for at most `timeout` seconds; True when it rang."""
        try:
            self._receive.receive_nowait()
            return True
        except trio.WouldBlock:
            pass
        with trio.move_on_after(timeout):
            await self._receive.receive()
            return True
        return False


class WakeUps:
    """One wake-up for the requests of each kind, and one for the responses of each kind that has some."""

    def __init__(self) -> None:
        self.requests: dict[Kind, WakeUp] = {kind: WakeUp() for kind in OPERATIONS}
        self.responses: dict[Kind, WakeUp] = {
            kind: WakeUp() for kind, operation in OPERATIONS.items() if operation.response is not None
        }

    def ring(self, kind: Kind, *, is_response: bool) -> None:
        """Ring for one kind; responses of kinds that have none are ignored."""
        wake_up = (self.responses if is_response else self.requests).get(kind)
        if wake_up is not None:
            wake_up.ring()
