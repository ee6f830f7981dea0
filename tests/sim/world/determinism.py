"""One seed, one run: virtual time that jumps, and trio's scheduler drawing from a seeded generator.

The private names of trio are guarded by a canary in `tests/sim/test_sim_determinism.py`.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import trio
from trio._core import _run
from trio._core._mock_clock import MockClock

T = TypeVar("T")

START = 1_700_000_000.0
"""Unix time at which every simulated world begins."""


def jumping_clock() -> MockClock:
    """trio's MockClock that only jumps: the same, with less to reckon on each look at it."""
    clock: Any = MockClock(autojump_threshold=0)
    clock.virtual = 0.0

    def jump() -> None:
        deadline = _run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if clock.virtual < deadline < float("inf"):
            clock.virtual = deadline

    clock.current_time = lambda: clock.virtual
    clock._autojump = jump
    return cast(MockClock, clock)


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Inside the block trio sorts every batch of runnable tasks by their age and shuffles it by `seed`."""
    before, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        _run._r.setstate(state)


def run(main: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run `main` in virtual time with scheduling drawn from `seed`."""
    with seeded_scheduler(seed):
        return trio.run(main, clock=jumping_clock())


def now() -> float:
    """The world's wall clock in Unix seconds, which is also the database's."""
    return START + trio.current_time()
