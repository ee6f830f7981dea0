"""NOTIFY from other processes, and nothing from our own backends (decisions.md 4)."""

from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import trio
from store_world import Opener, answer, arrival, block, first_core, hear, lease_of, leased

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.ports import DependencyDown, Wake
from kmsd.store import notifications
from kmsd.store.postgres import PostgresStore

PUBLIC = Kind.PUBLIC_DECRYPTION
EVERY = {Wake(kind, False) for kind in OPERATIONS} | {
    Wake(kind, True) for kind, operation in OPERATIONS.items() if operation.response
}


async def take(wakes: AsyncIterator[Wake], count: int, seconds: float = 10.0) -> Sequence[Wake]:
    """The next `count` wakes."""
    with trio.fail_after(seconds):
        return [await anext(wakes) for _ in range(count)]


async def test_it_begins_with_one_wake_of_each(store: PostgresStore) -> None:
    async with store.wakes() as wakes:
        assert set(await take(wakes, len(EVERY))) == EVERY


async def test_every_channel_of_the_reference_is_heard(store: PostgresStore, sql: Callable[[str], str]) -> None:
    async with store.wakes() as wakes:
        await take(wakes, len(EVERY))
        for channel, wake in notifications.CHANNELS.items():
            sql(f"NOTIFY {channel}")
            assert await take(wakes, 1) == [wake]


async def test_other_daemons_rows_are_heard_and_our_own_are_not(stores: Opener) -> None:
    mine, other = await stores("mine"), await stores("other")
    owner, of_other = await mine.enrol("mine", []), await other.enrol("other", [])
    async with mine.wakes() as wakes:
        await take(wakes, len(EVERY))
        claimed = await leased(mine, owner, *(arrival(PUBLIC, n) for n in range(1, 20)))
        await mine.answered([answer(lease_of(one)) for one in claimed])
        await hear(mine, arrival(Kind.CRSGEN, 1, block(300)))
        (crs,) = await other.claim_ceremonies(of_other, first_core, 1)
        await other.answered([answer(lease_of(crs))])
        assert await take(wakes, 1) == [Wake(Kind.CRSGEN, True)]


async def test_many_notifications_are_few_wakes(stores: Opener) -> None:
    mine, other = await stores("mine"), await stores("other")
    async with mine.wakes() as wakes:
        await take(wakes, len(EVERY))
        for number in range(30):
            await hear(other, arrival(PUBLIC, number + 1))
        await trio.sleep(0.3)
        heard = 0
        with trio.move_on_after(0.5):
            while True:
                assert await anext(wakes) == Wake(PUBLIC, False)
                heard += 1
        assert 1 <= heard <= 2


async def test_the_end_of_the_connection_is_noticed(store: PostgresStore, sql: Callable[[str], str]) -> None:
    async with store.wakes() as wakes:
        await take(wakes, len(EVERY))
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        )
        with trio.fail_after(5.0), pytest.raises(DependencyDown, match="notifications"):
            await anext(wakes)
    async with store.wakes() as wakes:
        assert set(await take(wakes, len(EVERY))) == EVERY
