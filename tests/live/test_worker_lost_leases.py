"""Claims and hand-overs whose replies are lost: committed, and nobody knows (QU1). Real Postgres, a way that loses."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from lossy_postgres import LossyPostgres
from store_world import Opener, arrival, first_core, hear, request_id

from kmsd.clock import SystemEntropy, SystemTime
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.operations.transitions import Transitions
from kmsd.ownership import Ownership
from kmsd.ports import Claimed, DependencyDown
from kmsd.store.postgres import PostgresStore
from kmsd.wakeups import WakeUps
from kmsd.working import claims as claiming
from kmsd.working.claims import Claims
from kmsd.working.hands import Hands

PUBLIC = Kind.PUBLIC_DECRYPTION
Sql = Callable[[str], str]


class Route:
    """As much of the Core's desk as claims need."""

    route = staticmethod(first_core)


@attrs.define
class Claiming:
    """A worker's claims on a store whose replies may be lost. `served` are the rows that came into its hands."""

    way: LossyPostgres
    store: PostgresStore
    owner: int
    hands: Hands
    served: list[Claimed]


@pytest.fixture
async def worker(
    stores: Opener, database_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Claiming]:
    """Serving never ends here: what is in hand stays there. Looks that nothing led to come once an hour."""
    monkeypatch.setattr(claiming, "SWEEP_INTERVAL", 3600.0)
    async with LossyPostgres(database_url).serving() as way:
        store = await stores("kmsd", way.url)
        metrics, wakeups, entropy = Metrics(), WakeUps(), SystemEntropy()
        ownership = Ownership(store, "kmsd", ["worker"])
        nursery.start_soon(ownership.run)
        health = Health(SystemTime())
        transitions = Transitions(store, metrics, health, entropy)
        nursery.start_soon(transitions.run)
        hands = Hands(50)
        served: list[Claimed] = []
        hands.open(served.append)
        route: Any = Route()
        settings = Settings(database_url=database_url)
        claims = Claims(settings, store, ownership, wakeups, hands, route, transitions, health, metrics, entropy)
        owner = await ownership.epoch()
        nursery.start_soon(claims.run)
        yield Claiming(way, store, owner, hands, served)
        nursery.cancel_scope.cancel()


def ours(sql: Sql, owner: int) -> int:
    """Rows that are leased to us."""
    where = f"status = 'under_process' AND lease_owner = {owner}"
    return int(sql(f"SELECT count(*) FROM public_decryption_requests WHERE {where}"))


@pytest.mark.guarantee("QU1")
async def test_a_claim_whose_reply_is_lost(
    worker: Claiming, stores: Opener, sql: Sql, eventually: Callable[..., Awaitable[Any]]
) -> None:
    worker.way.lose_next(b"UPDATE 5")
    await hear(await stores("listener"), *(arrival(PUBLIC, number) for number in range(1, 6)))
    await eventually(lambda: len(worker.served) == 5, seconds=30, what="all five in hand")
    assert worker.way.lost == 1
    assert sorted(row.id for row in worker.served) == [request_id(PUBLIC, number) for number in range(1, 6)]
    assert ours(sql, worker.owner) == 5


@pytest.mark.guarantee("QU1")
@pytest.mark.guarantee("EV2")
async def test_a_hand_over_whose_reply_is_lost_and_a_row_in_work(
    worker: Claiming, stores: Opener, sql: Sql, eventually: Callable[..., Awaitable[Any]]
) -> None:
    """The rows come into hand by a claim; the one that was in work stays there, and none is served twice."""
    await hear(await stores("listener"), arrival(PUBLIC, 1))
    await eventually(lambda: len(worker.served) == 1, seconds=30, what="one in work")
    worker.way.lose_next(b"COMMIT\0")
    arrivals = [arrival(PUBLIC, number) for number in range(2, 6)]
    with pytest.raises(DependencyDown), worker.hands.leasing():
        await hear(worker.store, *arrivals, owner=worker.owner, hand_over={PUBLIC: 4})
    assert worker.way.lost == 1
    await eventually(lambda: len(worker.served) == 5, seconds=30, what="all five in hand")
    assert sorted(row.id for row in worker.served) == [request_id(PUBLIC, number) for number in range(1, 6)]
    assert ours(sql, worker.owner) == 5
    in_work = sql("SELECT attempts FROM public_decryption_requests ORDER BY created_at LIMIT 1")
    assert in_work == "1"
