"""Claiming drains the queue whatever rings: hints wake it, polling is the floor, room is the bound (QU3, QU4)."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from test_worker_hands import row

from kmsd.clock import SystemTime
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.ports import Claimed, DependencyDown
from kmsd.wakeups import WakeUps
from kmsd.working.claims import Claims
from kmsd.working.hands import Hands

PUBLIC = Kind.PUBLIC_DECRYPTION
SECONDS_OF_WORK = 0.2
ROOM = 50


class EvenEntropy:
    """No jitter."""

    def random(self) -> float:
        return 0.5


class Owner:
    """Enrolled from the start."""

    async def epoch(self) -> int:
        return 7


@attrs.define
class Queue:
    """The store's side: rows that wait, oldest first; `claims` are the limits that were asked for."""

    waiting: deque[Claimed] = attrs.field(factory=deque)
    claims: list[int] = attrs.field(factory=list)
    down_until: float = 0.0

    async def claim(self, kind: Kind, owner: int, limit: int) -> Sequence[Claimed]:
        """The port's verb."""
        await trio.sleep(0.005)
        if trio.current_time() < self.down_until:
            raise DependencyDown("database", "away")
        if kind is not PUBLIC:
            return []
        self.claims.append(limit)
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    async def claim_ceremonies(self, owner: int, route: Any, limit: int) -> Sequence[Claimed]:
        """The port's verb."""
        return []

    async def leased(self, kind: Kind, owner: int) -> Sequence[int]:
        """The port's verb."""
        return []


@attrs.define
class Scene:
    """Claims over a queue; `served` in the order of arrival, and the most that were in hand at once."""

    queue: Queue
    wakeups: WakeUps
    hands: Hands
    served: list[Claimed] = attrs.field(factory=list)
    most: int = 0
    _more: trio.Event = attrs.field(factory=trio.Event)

    def arrived(self, one: Claimed) -> None:
        """A row came into hand."""
        self.served.append(one)
        self.most = max(self.most, self.hands.rooms[PUBLIC].taken)
        self._more.set()
        self._more = trio.Event()

    async def serve(self, one: Claimed) -> None:
        """Work on it for a while."""
        await trio.sleep(SECONDS_OF_WORK)
        self.hands.let_go(one)

    async def all_served(self, count: int, seconds: float) -> None:
        with trio.fail_after(seconds):
            while len(self.served) < count:
                await self._more.wait()


@asynccontextmanager
async def claiming(queue: Queue) -> AsyncIterator[Scene]:
    settings, wakeups, hands = Settings("postgresql://h/d"), WakeUps(), Hands(ROOM)
    scene = Scene(queue, wakeups, hands)
    parts: dict[str, Any] = {"store": queue, "ownership": Owner(), "entropy": EvenEntropy(), "transitions": None}
    parts |= {"settings": settings, "wakeups": wakeups, "hands": hands, "metrics": Metrics()}
    parts |= {"health": Health(SystemTime()), "core": SimpleNamespace(route=None)}
    async with trio.open_nursery() as nursery:

        def start(one: Claimed) -> None:
            scene.arrived(one)
            nursery.start_soon(scene.serve, one)

        hands.open(start)
        nursery.start_soon(Claims(**parts).run)
        yield scene
        nursery.cancel_scope.cancel()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that jumps when every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.mark.guarantee("QU3")
async def test_a_backlog_drains_without_a_single_notification(autojump_clock: object) -> None:
    """A thousand rows that nobody announced: claimed as fast as there is room, in order, until none is left."""
    queue = Queue(deque(row(number) for number in range(1, 1001)))
    async with claiming(queue) as scene:
        await scene.all_served(1000, seconds=1000 / ROOM * SECONDS_OF_WORK * 2)
    assert [one.id for one in scene.served] == [row(number).id for number in range(1, 1001)]
    assert scene.most <= ROOM


@pytest.mark.guarantee("QU3")
async def test_a_row_that_nobody_announced_is_found_by_polling(autojump_clock: object) -> None:
    queue = Queue()
    floor = Settings("postgresql://h/d").db_fast_event_polling
    async with claiming(queue) as scene:
        for number in range(1, 6):
            await trio.sleep(20.0)
            queue.waiting.append(row(number))
            await scene.all_served(number, seconds=floor + 0.5)
        idle = len(queue.claims)
        await trio.sleep(100.0)
        assert len(queue.claims) - idle <= 100.0 / floor + 1


@pytest.mark.guarantee("QU3")
async def test_a_ring_is_heard_at_once_and_a_storm_of_rings_costs_little(autojump_clock: object) -> None:
    queue = Queue()
    async with claiming(queue) as scene:
        await trio.sleep(10.1)
        queue.waiting.append(row(1))
        scene.wakeups.ring(PUBLIC, is_response=False)
        await scene.all_served(1, seconds=0.2)
        before = len(queue.claims)
        for _ in range(10_000):
            scene.wakeups.ring(PUBLIC, is_response=False)
        await trio.sleep(1.0)
        assert len(queue.claims) - before <= 3


@pytest.mark.guarantee("QU3")
async def test_an_outage_of_the_database_delays_claims_by_seconds_only(autojump_clock: object) -> None:
    queue = Queue(deque(row(number) for number in range(1, 101)), down_until=trio.current_time() + 300.0)
    async with claiming(queue) as scene:
        await trio.sleep(300.0)
        assert not scene.served
        await scene.all_served(100, seconds=4.0)
