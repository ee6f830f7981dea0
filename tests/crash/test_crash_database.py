"""Postgres away, restarted, standing still, its connections cut, while requests come in."""

import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from crash_arena import Arena, cut_connections

pytestmark = pytest.mark.crash

GROUP = "Postgres"
RATE, SECONDS = 8.0, 60.0


def stopped(arena: Arena) -> None:
    """Shut down, and there again after half a minute."""
    arena.world.postgres.stop()
    time.sleep(30.0)
    arena.world.postgres.start()


def restarted(arena: Arena) -> None:
    """An immediate shutdown: connections cut, recovery at the start."""
    arena.world.postgres.restart(immediate=True)


def killed(arena: Arena) -> None:
    """SIGKILL to every process of the server."""
    arena.world.postgres.kill()
    arena.world.postgres.start()


def cut_often(arena: Arena) -> None:
    """Every connection ended by the server, twenty times in five seconds."""
    for _ in range(20):
        cut_connections(arena)
        time.sleep(0.25)


def standing_still(arena: Arena) -> None:
    """Connections stay open, nothing answers for twenty seconds: longer than any statement may take."""
    arena.world.postgres.pause()
    time.sleep(20.0)
    arena.world.postgres.resume()


FAULTS: Mapping[str, Callable[[Arena], None]] = {
    "Postgres stopped for 30 s": stopped,
    "Postgres restarted at once (immediate)": restarted,
    "Postgres killed and started": killed,
    "all connections cut 20 times in 5 s": cut_often,
    "Postgres standing still for 20 s (SIGSTOP)": standing_still,
}


@pytest.fixture
def running(arena: Arena) -> Iterator[Arena]:
    """The arena with its daemon, which must be the same afterwards: no outage ends it (PR2)."""
    daemon = arena.ensure()
    arena.serving("kmsd")
    pid = daemon.pid
    yield arena
    assert daemon.alive(), daemon.log_tail()
    assert daemon.pid == pid


@pytest.mark.guarantee("EV2", "QU6", "PR2")
@pytest.mark.parametrize("fault", list(FAULTS))
def test_under_load(running: Arena, fault: str) -> None:
    arena = running
    with arena.load(RATE, SECONDS) as ending:
        time.sleep(1.5)
        FAULTS[fault](arena)
        since = time.monotonic()
        ending.set()
    arena.settle(GROUP, fault, since)


@pytest.mark.guarantee("PR1", "QU1")
def test_sigterm_while_postgres_is_away(arena: Arena) -> None:
    """Exit 75 in the time of the grace; the next start takes the rows back and finishes them."""
    arena.ensure()
    arena.serving("kmsd")
    arena.ask()
    time.sleep(0.5)
    arena.world.postgres.stop(immediate=True)
    assert arena.stop() == 75
    arena.world.postgres.start()
    since = time.monotonic()
    arena.start()
    arena.settle(GROUP, "SIGTERM while Postgres is away (exit 75), then both started", since)
