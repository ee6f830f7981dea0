"""Signs of life of the siblings' loops: what feeds the watchdog besides the event loop itself.

A loop says `beat` before each piece of work, with the time by which it will have said something again; every wait has a
deadline, so that time is known. A loop that waits for work, for room or for a dependency says `rest`: that is being
alive, however long it takes (decisions.md 27). So what is overdue is stuck, and only a restart helps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import trio

PATIENCE = 180.0
"""Seconds for one piece of work of a loop: many times the deadline of a statement or a request, with their retries."""


class Silent(NamedTuple):
    """A loop that should have given a sign of life `overdue` seconds ago."""

    loop: str
    overdue: float


class Heartbeats:
    """Loops by name, the sibling's name first (`worker claims keygen`), and when each is expected to say something."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def beat(self, loop: str, within: float = PATIENCE) -> None:
        """`loop` is alive, and will say so again within so many seconds."""
        self._due[loop] = trio.current_time() + within

    def rest(self, loop: str) -> None:
        """`loop` waits for something that may take any time: nothing is expected from it until its next beat."""
        self._due.pop(loop, None)

    def forget(self, sibling: str) -> None:
        """The sibling ended, by itself or by an error: its supervisor answers for it now."""
        for loop in [loop for loop in self._due if loop == sibling or loop.startswith(f"{sibling} ")]:
            del self._due[loop]

    def silent(self) -> Sequence[Silent]:
        """The loops that are overdue, longest first."""
        if not self._due:
            return ()
        now = trio.current_time()
        overdue = [Silent(loop, now - due) for loop, due in self._due.items() if due < now]
        return sorted(overdue, key=lambda one: -one.overdue)
