"""Pure decisions about a shard's endpoints: when to use the backup, and when to stop asking an unusable Core.

Both are told facts with their times (seconds, one clock) and hold no timer of their own.
"""

import attrs

RETURN_AFTER = 3
"""Good health answers of the primary in a row before a shard returns to it."""
PAUSE_FIRST = 5.0
"""Seconds of the first pause of an operation; doubled while the Core stays unusable."""
PAUSE_LONGEST = 60.0


@attrs.define
class Route:
    """Which of a shard's endpoints calls go to: 0 the primary, 1 the backup.

    The primary is left when a transport fault was followed by a failed health probe while the backup's probe was
    answered; it is preferred again after RETURN_AFTER answered probes in a row. A request that the other endpoint does
    not know is sent again by the table (NOT_FOUND on a poll).
    """

    has_backup: bool
    active: int = 0
    good_probes: int = 0

    def probed(self, primary_answers: bool, backup_answers: bool) -> bool:
        """Take in one round of probes; True when `active` changed."""
        self.good_probes = self.good_probes + 1 if primary_answers else 0
        before = self.active
        if self.active == 0 and not primary_answers and backup_answers and self.has_backup:
            self.active = 1
        elif self.active == 1 and (self.good_probes >= RETURN_AFTER or (primary_answers and not backup_answers)):
            self.active = 0
        return self.active != before


@attrs.define
class Pause:
    """One operation at one shard that the Core said it cannot do at all (FAILED_PRECONDITION, UNIMPLEMENTED, …).

    While paused, calls are answered without asking. After the pause one call goes through as a trial; its answer ends
    the pause or doubles it. So a Core that becomes usable is used again without anybody's help.
    """

    reason: str = ""
    delay: float = 0.0
    until: float = 0.0
    trial_began: float = float("inf")

    @property
    def is_on(self) -> bool:
        """True from an unusable answer until a usable one."""
        return self.delay > 0.0

    def admits(self, now: float) -> bool:
        """May a call go out at `now`? Taking the trial closes the door behind it for as long as the pause was."""
        if not self.is_on:
            return True
        if now < self.until:
            return False
        self.trial_began = now
        self.until = now + self.delay
        return True

    def unusable(self, reason: str, began: float, now: float) -> bool:
        """A call that began at `began` was told that the Core is not usable. True when that is news.

        Calls that were under way when the pause began do not lengthen it; only the trial does.
        """
        self.reason = reason
        if self.is_on and began < self.trial_began:
            return False
        is_news = not self.is_on
        self.delay = min(PAUSE_LONGEST, self.delay * 2) if self.is_on else PAUSE_FIRST
        self.until = now + self.delay
        self.trial_began = float("inf")
        return is_news

    def usable(self, began: float) -> bool:
        """A call that began at `began` got any other answer of the Core. True when that ends the pause."""
        if not self.is_on or began < self.trial_began:
            return False
        self.delay, self.until, self.trial_began, self.reason = 0.0, 0.0, float("inf"), ""
        return True
