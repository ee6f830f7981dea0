"""Supervision of the siblings: restart with back-off, escalate when a sibling keeps failing (rule 6 of the design)."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from kmsd.ports import DependencyDown, Entropy

log = logging.getLogger("kmsd.supervise")

MAX_FAILURES = 5
"""Unexpected exceptions of one sibling within FAILURE_PERIOD that take the daemon down (decisions.md 27)."""
FAILURE_PERIOD = 600.0
"""Seconds over which unexpected exceptions are counted."""
LONGEST_BACK_OFF, LONGEST_WAIT = 30.0, 3.0
"""Most seconds before the restart of a sibling that failed, and of one that only waits for a dependency."""


class Fatal(Exception):
    """Ends the daemon with `exit_status` and one line that says why."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def only_dependencies(error: BaseException) -> bool:
    """True when `error`, or every member of the group that it is, is a dependency being down."""
    if isinstance(error, BaseExceptionGroup):
        return all(only_dependencies(member) for member in error.exceptions)
    return isinstance(error, DependencyDown)


def find_fatal(error: BaseException) -> Fatal | None:
    """The first Fatal inside `error`, which may be a group of groups."""
    if isinstance(error, Fatal):
        return error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            if (found := find_fatal(member)) is not None:
                return found
    return None


def restart_delay(failures: int, entropy: Entropy, longest: float = LONGEST_BACK_OFF) -> float:
    """Seconds before restart number `failures` (1, 2, …): doubling from 0.5 s to `longest`, with jitter of a half."""
    return float(min(longest, 0.5 * 2 ** min(failures - 1, 10)) * (0.5 + 0.5 * entropy.random()))


async def supervise(name: str, sibling: Callable[[], Awaitable[None]], entropy: Entropy) -> None:
    """Run `sibling` until it returns; restart it after an exception.

    Dependencies that are down restart it without ever adding up to an exit (PR2). Raises Fatal when unexpected
    exceptions come MAX_FAILURES times within FAILURE_PERIOD, or when the sibling raises Fatal itself.
    """
    failures: deque[float] = deque()
    restarts = 0
    while True:
        started = trio.current_time()
        try:
            await sibling()
            return
        except Exception as error:
            if (fatal := find_fatal(error)) is not None:
                raise fatal from error
            now = trio.current_time()
            restarts = 1 if now - started > 60.0 else restarts + 1
            waits = only_dependencies(error)
            if waits:
                log.warning("%s waits for a dependency: %s", name, _words(error))
            else:
                log.exception("%s failed unexpectedly and is restarted", name)
                failures.append(now)
                while failures and now - failures[0] > FAILURE_PERIOD:
                    failures.popleft()
                if len(failures) >= MAX_FAILURES:
                    raise Fatal(
                        f"{name} failed {len(failures)} times in {FAILURE_PERIOD:.0f} s, last: {_words(error)}"
                    ) from error
            await trio.sleep(restart_delay(restarts, entropy, LONGEST_WAIT if waits else LONGEST_BACK_OFF))


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_words(member) for member in error.exceptions)
    return f"{type(error).__name__}: {error}"
