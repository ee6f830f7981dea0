"""How fast a throttled service is asked: close to what it was seen to allow, and faster again once it allows more.

Pure but for waiting; instants are those of trio's clock, in seconds.
"""

import math
from collections import deque

import trio

SEEN = 1.0
"""Seconds of answers that tell what the service allows."""
SHORTEST = 0.2
"""The same, at least: what a service that was idle lets through at once says little."""
BACK_OFF = 0.9
"""Share of that at which calls start after a throttled one."""
GROWTH = 0.1
"""The pace grows by this share a second for each second since the last throttled call: 1.5 s undo a BACK_OFF, 7 s make
it twelve times as fast."""
LEAST = 2.0
"""Calls a second that are tried whatever the service says."""
MANY = 10_000
"""Answers remembered, and calls a second from which on there is no pace to keep."""


class Pace:
    """Calls a second: any number until the service throttles one."""

    def __init__(self) -> None:
        self.rate = math.inf
        self._turn = trio.Lock()
        self._next_start = -math.inf
        self._slowed_at = -math.inf
        self._grown_at = -math.inf
        self._answered: deque[float] = deque(maxlen=MANY)

    async def turn(self) -> None:
        """Wait until the next call may start: one after the other, so that a new pace holds for all that wait."""
        async with self._turn:
            await trio.sleep_until(self._next_start)
            self._next_start = trio.current_time() + 1.0 / self.rate

    def answered(self) -> None:
        """A call was served."""
        now = trio.current_time()
        self._answered.append(now)
        if self.rate is not math.inf:
            self.rate *= 1.0 + GROWTH * (now - self._slowed_at) * (now - self._grown_at)
            self._grown_at = now
            if self.rate > MANY:
                self.rate = math.inf

    def throttled(self, asked_at: float) -> None:
        """A call that started at `asked_at` was throttled. All that were under way at once slow down once."""
        if asked_at < self._slowed_at:
            return
        now = trio.current_time()
        while self._answered and self._answered[0] <= now - SEEN:
            self._answered.popleft()
        seen = max(SHORTEST, now - self._answered[0]) if self._answered else SEEN
        self.rate = max(LEAST, BACK_OFF * min(self.rate, len(self._answered) / seen))
        self._slowed_at = self._grown_at = now
        self._next_start = now + 1.0 / self.rate
