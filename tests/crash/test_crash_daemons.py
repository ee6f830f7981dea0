"""Several daemons on one database: added and killed under load, with all roles and with the roles split."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest
from crash_arena import Arena

pytestmark = pytest.mark.crash

GROUP = "several daemons"
RATE, SECONDS = 12.0, 45.0

SPLIT: Mapping[str, Sequence[str]] = {
    "reader": ("listener", "gc"),
    "worker-1": ("worker",),
    "worker-2": ("worker", "gc"),
    "sender-1": ("sender",),
    "sender-2": ("sender", "gc"),
}
"""Instance name → roles, as docs/scaling.md spreads them over machines."""


@pytest.fixture
def alone(arena: Arena) -> Iterator[Arena]:
    """The arena without a daemon, before and after."""
    arena.kill()
    yield arena
    for name in list(arena.daemons):
        arena.kill(name)


@pytest.mark.guarantee("QU1", "QU2", "TX4")
def test_two_daemons_ten_kills(alone: Arena, chance: random.Random) -> None:
    """Both with all roles, one wallet: killed in turn, and started again after a while, while requests come in."""
    arena = alone
    names = ("one", "two")
    for name in names:
        arena.start(name)
    arena.serving(*names)
    with arena.load(RATE, SECONDS) as ending:
        for number in range(10):
            victim = names[number % 2]
            time.sleep(chance.uniform(0.5, 3.0))
            arena.kill(victim)
            time.sleep(chance.uniform(0.0, 1.5))
            arena.start(victim)
        ending.set()
    arena.settle(GROUP, "two daemons, ten kills in turn under load", time.monotonic())


@pytest.mark.guarantee("QU1", "TX4")
def test_one_of_two_stays_dead(alone: Arena) -> None:
    """The one with the wallet and with rows in hand is killed and never comes back: the other takes all over."""
    arena = alone
    arena.start("one")
    arena.ask(2, 2)
    arena.until(arena.auditor.is_done, "the first daemon has the wallet")
    arena.start("two")
    arena.serving("two")
    for _ in range(3):
        arena.ask()
    time.sleep(0.7)
    arena.kill("one")
    arena.settle(GROUP, "one of two daemons killed for good, with rows and the wallet in hand", time.monotonic())


@pytest.mark.guarantee("QU1", "QU3", "TX4")
def test_roles_on_daemons_of_their_own(alone: Arena, chance: random.Random) -> None:
    """Five daemons with the roles split: each kind of request is served, then each daemon is killed once under load."""
    arena = alone
    for name, roles in SPLIT.items():
        arena.start(name, roles=roles)
    arena.serving(*SPLIT)
    since = time.monotonic()
    arena.requester.crsgen()
    arena.requester.keygen()
    arena.ask()
    arena.settle(GROUP, "roles split over five daemons, no fault", since)
    with arena.load(RATE, SECONDS) as ending:
        for name, roles in SPLIT.items():
            time.sleep(chance.uniform(0.5, 2.0))
            arena.kill(name)
            time.sleep(chance.uniform(0.0, 1.0))
            arena.start(name, roles=roles)
        ending.set()
    arena.settle(GROUP, "roles split over five daemons, each killed once under load", time.monotonic())


@pytest.mark.guarantee("PR1")
def test_daemons_come_and_go_by_sigterm(alone: Arena) -> None:
    """A deployment that rolls: a second comes, the first leaves with exit 0, again and again, under load."""
    arena = alone
    arena.start("one")
    with arena.load(RATE, SECONDS) as ending:
        for number in range(3):
            leaving, coming = ("one", "two") if number % 2 == 0 else ("two", "one")
            arena.start(coming)
            arena.serving(leaving, coming)
            assert arena.stop(leaving) == 0
        ending.set()
    arena.settle(GROUP, "three daemons relieved by SIGTERM under load", time.monotonic())
