"""How many decryptions may be in flight at one Core: additive increase, multiplicative decrease on busy answers.

`Aimd` is the pure decision, `Window` the fair queue before it. A decryption holds a slot from before its send until its
result is there; ceremonies take none.
"""

from contextlib import AbstractAsyncContextManager

import attrs
import trio

START = 64
"""Requests in flight before anything is known about a Core."""
DEFAULT_MAXIMUM = 1000


@attrs.define
class Aimd:
    """The limit as a function of what the Core said.

    Until the first busy answer every accepted send of a full window adds one (doubling each round), afterwards one is
    added a round. A busy answer halves, once a round: answers to calls begun before the last cut say nothing new.
    """

    maximum: int
    limit: float = float(START)
    slow_start: bool = True
    last_cut: float = float("-inf")

    def __attrs_post_init__(self) -> None:
        if self.maximum < 1:
            raise ValueError("the largest window must be at least 1")
        self.limit = min(self.limit, float(self.maximum))

    @property
    def size(self) -> int:
        """The limit in whole requests, at least 1."""
        return max(1, int(self.limit))

    def accepted(self, in_flight: int) -> None:
        """A send was accepted while `in_flight` requests were there. A window that is not used does not grow."""
        if in_flight * 4 >= self.size * 3:
            self.limit = min(float(self.maximum), self.limit + (1.0 if self.slow_start else 1.0 / self.limit))

    def busy(self, began: float, now: float) -> bool:
        """A call that began at `began` was answered busy at `now` (seconds, one clock). True when the limit was cut."""
        if began < self.last_cut:
            return False
        self.last_cut = now
        self.slow_start = False
        self.limit = max(1.0, self.limit / 2)
        return True


class _Slot(AbstractAsyncContextManager[None]):
    """One place under a limiter, while entered."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            await self._limiter.acquire_on_behalf_of(self)

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release_on_behalf_of(self)


class Window:
    """First come, first served slots under an `Aimd` limit. `busy_answers` counts busy answers for the metrics."""

    def __init__(self, maximum: int = DEFAULT_MAXIMUM) -> None:
        self._aimd = Aimd(maximum)
        self._limiter = trio.CapacityLimiter(self._aimd.size)
        self.busy_answers = 0

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return self._aimd.size

    @property
    def in_flight(self) -> int:
        """Slots taken; above `limit` for a while after a cut."""
        return int(self._limiter.borrowed_tokens)

    @property
    def waiting(self) -> int:
        """Tasks waiting for a slot."""
        return self._limiter.statistics().tasks_waiting

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Hold one slot; waits in order of arrival."""
        return _Slot(self._limiter)

    def accepted(self) -> None:
        """A send was accepted."""
        self._aimd.accepted(self.in_flight)
        self._apply()

    def busy(self, began: float) -> None:
        """A call that began at trio time `began` was answered busy."""
        self.busy_answers += 1
        self._aimd.busy(began, trio.current_time())
        self._apply()

    def _apply(self) -> None:
        if self._limiter.total_tokens != self._aimd.size:
            self._limiter.total_tokens = self._aimd.size
