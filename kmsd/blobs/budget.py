"""The global byte budget for ciphertexts in memory (WK4): reserved before a download, given back after the send.

Fair and free of deadlock: grants go strictly in the order of tickets, a request reserves everything it needs at once,
and nobody waits for more while holding some. A request larger than the whole budget runs alone.
"""

import itertools
from bisect import insort

import attrs
import trio


@attrs.frozen(order=True)
class Ticket:
    """A place in the queue. A request that finds that it needs more keeps its place by asking with its ticket again."""

    number: int


class Reservation:
    """Bytes held. `release` may be called twice."""

    def __init__(self, budget: "ByteBudget", size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes, now that the true size is known; never grows."""
        if size < self.size:
            given, self.size = self.size - size, size
            self._budget._give_back(given)

    def release(self) -> None:
        """Give everything back."""
        self.shrink(0)


@attrs.define(order=True)
class _Waiting:
    ticket: Ticket
    size: int = attrs.field(order=False)
    granted: trio.Event = attrs.field(order=False)


class ByteBudget:
    """`limit` bytes for all requests together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._numbers = itertools.count()
        self._queue: list[_Waiting] = []

    @property
    def waiting(self) -> int:
        """Requests waiting for room."""
        return len(self._queue)

    def ticket(self) -> Ticket:
        """A place behind everybody who has one."""
        return Ticket(next(self._numbers))

    async def reserve(self, size: int, ticket: Ticket) -> Reservation:
        """Hold `size` bytes, waiting in the order of tickets. Cancelled while waiting, it holds nothing."""
        if not self._queue and self._fits(size):
            self.used += size
            return Reservation(self, size)
        waiting = _Waiting(ticket, size, trio.Event())
        insort(self._queue, waiting)
        self._grant()
        try:
            await waiting.granted.wait()
        except trio.Cancelled:
            if waiting.granted.is_set():
                self._give_back(size)
            else:
                self._queue.remove(waiting)
                self._grant()
            raise
        return Reservation(self, size)

    def _fits(self, size: int) -> bool:
        return self.used + size <= self.limit or self.used == 0

    def _give_back(self, size: int) -> None:
        self.used -= size
        self._grant()

    def _grant(self) -> None:
        while self._queue and self._fits(self._queue[0].size):
            first = self._queue.pop(0)
            self.used += first.size
            first.granted.set()
