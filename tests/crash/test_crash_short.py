"""The crash suite in short, for every run of the tests: some places, some random instants, one restart of Postgres."""

import random
import time

import pytest
from crash_arena import Arena
from test_crash_database import restarted
from test_crash_failpoints import RECIPES, kill_at
from test_crash_kills import kill_at_random

from kmsd.failpoints import PLACES

SOME_PLACES = ("store.range_written", "worker.after_send", "sender.journaled")
RANDOM_KILLS = 3


def test_the_suite_knows_a_way_to_every_place_of_the_code() -> None:
    assert RECIPES.keys() == PLACES.keys()


@pytest.mark.guarantee("EV1", "EV2", "QU1", "QU6", "TX1", "TX2", "PR2")
def test_nothing_is_lost_or_doubled(arena: Arena, chance: random.Random) -> None:
    for place in SOME_PLACES:
        kill_at(arena, place, 1)
    for _ in range(RANDOM_KILLS):
        kill_at_random(arena, chance)
    arena.ask()
    time.sleep(chance.uniform(0.0, 1.0))
    restarted(arena)
    arena.settle("Postgres", "Postgres restarted at once (immediate)", time.monotonic())
