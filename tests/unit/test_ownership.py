"""This daemon as an owner of leases: it enrols, beats, enrols again when declared dead, and leaves for good (QU1, PR1).

And the end of the process: what is still open after leaving does not keep it alive.
"""

import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing

from kmsd.ownership import BEAT_INTERVAL, Ownership
from kmsd.ports import DependencyDown


class Owners:
    """The store's side. `away` makes every verb fail; who is not in `alive` was declared dead."""

    def __init__(self) -> None:
        self.alive: list[int] = []
        self.enrolled = 0
        self.beats = 0
        self.away = False
        self.slow = 0.0

    async def enrol(self, name: str, roles: Any) -> int:
        self._answer()
        self.enrolled += 1
        self.alive.append(self.enrolled)
        return self.enrolled

    async def beat(self, owner: int) -> bool:
        self._answer()
        self.beats += 1
        return owner in self.alive

    async def leave(self, owner: int) -> int:
        self._answer()
        await trio.sleep(self.slow)
        self.alive.remove(owner)
        return 3

    def _answer(self) -> None:
        if self.away:
            raise DependencyDown("database", "away")


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that jumps when every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


def ownership(store: Owners) -> Ownership:
    return Ownership(store, "kmsd", ["worker"])  # type: ignore[arg-type]


async def test_it_enrols_when_the_database_is_there_and_beats(autojump_clock: object, nursery: trio.Nursery) -> None:
    store = Owners()
    store.away = True
    mine = ownership(store)
    nursery.start_soon(mine.run)
    await trio.sleep(10)
    assert mine.current is None
    store.away = False
    assert await mine.epoch() == 1
    await trio.sleep(4 * BEAT_INTERVAL + 0.1)
    assert store.beats >= 4


@pytest.mark.guarantee("QU1")
async def test_declared_dead_it_is_another_owner(autojump_clock: object, nursery: trio.Nursery) -> None:
    store = Owners()
    mine = ownership(store)
    nursery.start_soon(mine.run)
    assert await mine.epoch() == 1
    store.alive.clear()
    await trio.sleep(2 * BEAT_INTERVAL)
    assert await mine.epoch() == 2


@pytest.mark.guarantee("PR1")
async def test_who_has_left_does_not_come_back(autojump_clock: object, nursery: trio.Nursery) -> None:
    """The heartbeat goes on until the process ends; it must not enrol again while or after leases are given back."""
    store = Owners()
    store.slow = 2 * BEAT_INTERVAL
    mine = ownership(store)
    nursery.start_soon(mine.run)
    await mine.epoch()
    assert await mine.leave() == 3
    await trio.sleep(10 * BEAT_INTERVAL)
    assert store.alive == []
    assert store.enrolled == 1


@pytest.mark.guarantee("PR1")
@pytest.mark.parametrize("status", [0, 75])
def test_what_hangs_after_leaving_does_not_keep_the_process(status: int) -> None:
    program = (
        "import threading; from kmsd import nursery; nursery.FAREWELL = 0.2; "
        f"nursery._end_soon({status}); threading.Event().wait(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == status
    assert "exiting without" in done.stderr
