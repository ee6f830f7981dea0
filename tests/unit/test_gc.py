"""When gc looks for what: dead owners every second, rows of nobody now and then, old decryptions at its interval."""

import itertools
import math

import pytest
import trio
import trio.testing

from kmsd.config import Settings
from kmsd.gc import RECLAIM_INTERVAL, UNOWNED_INTERVAL, Gc
from kmsd.observe.heartbeats import Heartbeats
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.ports import OwnerCount
from kmsd.wakeups import WakeUps


class Store:
    """Remembers when it was asked for what; `dead` is found once."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, float]] = []
        self.expiries: list[float] = []
        self.dead: list[OwnerCount] = []

    async def reclaim(self, *, unowned_after: float) -> list[OwnerCount]:
        """The port's verb."""
        self.looks.append((trio.current_time(), unowned_after))
        found, self.dead = self.dead, []
        return found

    async def expire(self, **limits: float) -> int:
        """The port's verb."""
        self.expiries.append(trio.current_time())
        return 0


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that jumps when every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.mark.guarantee("QU1")
async def test_the_dead_are_looked_for_every_second_and_their_kinds_are_woken(autojump_clock: object) -> None:
    settings, store, wakeups = Settings("postgresql://h/d"), Store(), WakeUps()
    gc = Gc(settings, store, wakeups, Metrics(), Heartbeats())  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gc.run)
        await trio.sleep(60.0)
        store.dead = [OwnerCount(3, "public_decryption_requests", 5)]
        with trio.fail_after(2.0):
            assert await wakeups.requests[Kind.PUBLIC_DECRYPTION].wait()
        nursery.cancel_scope.cancel()
    times = [at for at, _ in store.looks]
    assert max(after - before for before, after in itertools.pairwise(times)) <= RECLAIM_INTERVAL + 0.01
    limit = settings.gc_decryption_under_process_limit
    unowned = [at for at, after in store.looks if after == limit]
    assert {after for _, after in store.looks} == {limit, math.inf}
    assert 60.0 / UNOWNED_INTERVAL - 1 <= len(unowned) <= 60.0 / UNOWNED_INTERVAL + 1
    assert len(store.expiries) == 1
