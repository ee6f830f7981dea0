"""SIGKILL at random instants under load: while it works, while it starts, one of two, or one that stays dead."""

import os
import random
import time

import pytest
from crash_arena import Arena

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("KMSD_CRASH_KILLS", "100"))
AT_WORK = 2.0
"""Seconds after the asking within which a kill falls."""
AT_START = 3.0
"""Seconds after a start within which a kill falls."""


def kill_at_random(arena: Arena, chance: random.Random) -> None:
    """Ask, kill while it works; every third time kill the successor too, at any instant of its start."""
    arena.ensure()
    arena.ask()
    time.sleep(chance.uniform(0.0, AT_WORK))
    arena.kill()
    if not chance.randrange(3):
        arena.start()
        time.sleep(chance.uniform(0.0, AT_START))
        arena.kill()
    since = time.monotonic()
    arena.start()
    arena.settle("killed at random", "SIGKILL at a random instant", since)


@pytest.mark.guarantee("EV1", "QU1", "QU6", "TX1", "TX2")
@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_instant(arena: Arena, chance: random.Random, number: int) -> None:
    kill_at_random(arena, chance)
