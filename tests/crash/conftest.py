"""The crash suite's world, and what of the suite runs when: the long form only with `-m crash` (`make crash`)."""

import os
import random
from collections.abc import Iterator

import crash_arena
import crash_table
import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long form out unless it was asked for."""
    if "crash" in (config.option.markexpr or ""):
        crash_table.start_recording()
        return
    long = [item for item in items if item.get_closest_marker("crash") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item.get_closest_marker("crash") is None]


@pytest.fixture(scope="module")
def arena() -> Iterator[crash_arena.Arena]:
    """A world of the module's own, with a key and one daemon that runs."""
    with crash_arena.arena() as ring:
        yield ring


@pytest.fixture
def chance() -> random.Random:
    """Chance with a seed that is printed when a test fails; KMSD_CRASH_SEED repeats it."""
    seed = int(os.environ.get("KMSD_CRASH_SEED") or random.randrange(2**32))
    print(f"KMSD_CRASH_SEED={seed}")
    return random.Random(seed)
