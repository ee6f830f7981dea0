"""The Core restarted, standing still, busy, refusing; buckets dead; the host chain away."""

import time
from collections.abc import Callable, Mapping

import pytest
from crash_arena import Arena

pytestmark = pytest.mark.crash

GROUP = "Core, buckets, host chain"
RATE, SECONDS = 8.0, 60.0


def restarted(arena: Arena) -> None:
    """Killed and started: it has forgotten what it was working on."""
    arena.world.core.kill()
    arena.world.start_core()


def away(arena: Arena) -> None:
    """Killed, and there again after ten seconds."""
    arena.world.core.kill()
    time.sleep(10.0)
    arena.world.start_core()


def standing_still(arena: Arena) -> None:
    """SIGSTOP for ten seconds: connections stay open, calls hang."""
    arena.world.core.pause()
    time.sleep(10.0)
    arena.world.core.resume()


def busy(arena: Arena) -> None:
    """RESOURCE_EXHAUSTED to every send for ten seconds."""
    arena.core(*({"method": name, "count": -1, "status": "RESOURCE_EXHAUSTED"} for name in SENDS))
    time.sleep(10.0)
    arena.core({"reset": True})


def full(arena: Arena) -> None:
    """ABORTED to every send for ten seconds: its store is full."""
    arena.core(*({"method": name, "count": -1, "status": "ABORTED"} for name in SENDS))
    time.sleep(10.0)
    arena.core({"reset": True})


def forgetful(arena: Arena) -> None:
    """Forgets everything it was asked, four times in six seconds."""
    for _ in range(4):
        arena.core({"forget": True})
        time.sleep(1.5)


def deaf(arena: Arena) -> None:
    """Does what sends ask, and answers UNAVAILABLE: replies are lost."""
    arena.core(*({"method": name, "count": 15, "status": "UNAVAILABLE", "perform": True} for name in SENDS))
    time.sleep(5.0)
    arena.core({"reset": True})


def one_bucket(arena: Arena) -> None:
    """One of two buckets takes requests and never answers."""
    arena.world.buckets.set_fault("bucket-1", "silent")
    time.sleep(8.0)
    arena.world.buckets.heal("bucket-1")


def all_buckets(arena: Arena) -> None:
    """No bucket has anything but errors."""
    arena.world.buckets.set_fault(None, "status", status=503)
    time.sleep(8.0)
    arena.world.buckets.heal(None)


def host_chain(arena: Arena) -> None:
    """Nobody can say who may decrypt what."""
    arena.world.host.pause()
    time.sleep(10.0)
    arena.world.host.resume()


SENDS = ("PublicDecrypt", "UserDecrypt")

FAULTS: Mapping[str, Callable[[Arena], None]] = {
    "Core restarted": restarted,
    "Core away for 10 s": away,
    "Core standing still for 10 s (SIGSTOP)": standing_still,
    "Core busy for 10 s": busy,
    "Core's store full for 10 s": full,
    "Core forgets everything, four times": forgetful,
    "replies of 30 sends lost": deaf,
    "one bucket never answers": one_bucket,
    "every bucket answers 503 for 8 s": all_buckets,
    "host chain standing still for 10 s": host_chain,
}


@pytest.mark.guarantee("QU5", "PR2")
@pytest.mark.parametrize("fault", list(FAULTS))
def test_under_load(arena: Arena, fault: str) -> None:
    daemon = arena.ensure()
    pid = daemon.pid
    with arena.load(RATE, SECONDS) as ending:
        time.sleep(1.5)
        FAULTS[fault](arena)
        since = time.monotonic()
        ending.set()
    arena.settle(GROUP, fault, since)
    assert daemon.alive()
    assert daemon.pid == pid
