"""SIGKILL at every named place of the code, under load, and a start after it."""

import random
import signal
import time
from collections.abc import Callable, Mapping

import pytest
from crash_arena import Arena

from kmsd.failpoints import PLACES

pytestmark = pytest.mark.crash

GROUP = "killed at a place"
REFUSAL = {"method": "PublicDecrypt", "count": 1, "status": "INVALID_ARGUMENT"}
FAULT_OF_PASSING = {"method": "PublicDecrypt", "count": 3, "status": "UNAVAILABLE"}
PUSH_SECONDS = 3.0
"""Seconds without the expected death after which more is asked for."""


def decryptions(arena: Arena) -> None:
    """Twenty decryptions."""
    arena.ask()


def ceremonies(arena: Arena) -> None:
    """A CRS and a reshare besides."""
    arena.requester.crsgen()
    arena.requester.key_reshare(arena.auditor.observer.active_keys[0])
    arena.ask()


def refusals(arena: Arena) -> None:
    """One of them the Core refuses for good."""
    arena.core(REFUSAL)
    arena.ask()


def retries(arena: Arena) -> None:
    """Three of them the Core cannot take at once."""
    arena.core(FAULT_OF_PASSING)
    arena.ask()


def reorganisation(arena: Arena) -> None:
    """Requests, and the newest blocks anew."""
    arena.ask()
    arena.reorganise(3)


RECIPES: Mapping[str, Callable[[Arena], None]] = dict.fromkeys(PLACES, decryptions) | {
    "worker.before_ceremony_send": ceremonies,
    "worker.after_ceremony_send": ceremonies,
    "worker.after_ceremony_result": ceremonies,
    "worker.before_finished": ceremonies,
    "worker.after_finished": ceremonies,
    "worker.before_failed": refusals,
    "worker.after_failed": refusals,
    "worker.before_try_again": retries,
    "worker.after_try_again": retries,
    "store.rewind_written": reorganisation,
}
"""Place → what leads the daemon there."""


def kill_at(arena: Arena, place: str, passage: int) -> None:
    """Start with the failpoint, ask until it killed the daemon, start without, audit."""
    arena.kill()
    daemon = arena.start(failpoint=f"{place}:{passage}")
    recipe = RECIPES[place]
    rounds = 0
    for _ in range(20):
        recipe(arena)
        rounds += 1
        deadline = time.monotonic() + PUSH_SECONDS
        while daemon.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not daemon.alive():
            break
    assert daemon.returncode == -signal.SIGKILL, f"never came to {place}: {daemon.log_tail()}"
    arena.core({"reset": True})
    since = time.monotonic()
    arena.start()
    arena.settle(GROUP, f"SIGKILL at `{place}`", since, failures=rounds if recipe is refusals else 0)


@pytest.mark.guarantee("EV1", "QU1", "TX1")
@pytest.mark.parametrize("place", list(PLACES))
def test_killed_there_nothing_is_lost_or_doubled(arena: Arena, place: str, chance: random.Random) -> None:
    kill_at(arena, place, chance.randint(1, 3))
