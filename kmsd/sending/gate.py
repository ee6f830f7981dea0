"""The gate of a lane: closed by a mistake that would fail every response, opened by itself when it is over (TX6)."""

import logging

import trio

from kmsd.chain.outcomes import Refusal
from kmsd.observe.health import Health

log = logging.getLogger("kmsd.sender")

ALERT = "sender lane paused"
FIRST_TRIAL = 2.0
"""Seconds until the first trial after closing; half as long again each time, up to LONGEST_TRIAL."""
LONGEST_TRIAL = 20.0


class Gate:
    """Open; closed; or on trial: one response may be tried (asked of the node, not sent) to see whether it is over."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._interval = FIRST_TRIAL
        self._trial_at = 0.0
        self.refusal: Refusal | None = None
        self.needed = 0
        """wei that the wallet must have before a lane without funds is tried again."""

    @property
    def is_open(self) -> bool:
        """True when everything may be sent."""
        return self.refusal is None

    @property
    def lacks_funds(self) -> bool:
        """True while it is closed for want of funds."""
        return self.refusal is Refusal.NO_FUNDS

    @property
    def trial_in(self) -> float:
        """Seconds until the next trial; 0 when it may be made now."""
        return max(0.0, self._trial_at - trio.current_time())

    def close(self, refusal: Refusal, words: str, needed: int = 0) -> None:
        """Pause the lane, or keep it paused after a trial that failed."""
        if self.refusal is None:
            self._interval = FIRST_TRIAL
            self._trial_at = trio.current_time() + self._interval
        elif self.trial_in == 0.0:  # a trial failed; refusals of what was under way meanwhile say nothing new
            self._interval = min(LONGEST_TRIAL, self._interval * 1.5)
            self._trial_at = trio.current_time() + self._interval
        self.refusal = refusal
        self.needed = max(needed, self.needed)
        self._health.alert(ALERT, f"{words}. Nothing is lost: sending resumes by itself when this is put right")

    def open(self) -> None:
        """Resume: what it was closed for is over."""
        if self.refusal is not None:
            log.warning("the sender resumes: %s is over", self.refusal.value)
            self.refusal = None
            self.needed = 0
            self._health.clear(ALERT)
