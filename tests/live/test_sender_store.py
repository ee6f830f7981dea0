"""The sender on its real journal: Postgres and anvil together."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio_asyncio
from sender_live import LiveGateway, LiveWorld, Rows

from kmsd.ownership import Ownership
from kmsd.sandbox.postgres import Postgres
from kmsd.store.migrations import migrate
from kmsd.store.postgres import PostgresStore, open_store


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStore]:
    """A migrated store."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda loop, context: None)
        await migrate(url)
        async with open_store(url, instance_name="test", pool_size=4) as store:
            yield store


@asynccontextmanager
async def owned(store: PostgresStore) -> AsyncIterator[Ownership]:
    """An owner that beats."""
    ownership = Ownership(store, "test", ("sender",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ownership.run)
        yield ownership
        nursery.cancel_scope.cancel()


@pytest.fixture
def gateway(chains: Any) -> LiveGateway:
    gateway = LiveGateway(chains.gateway, chains.deployment)
    gateway.prepare()
    return gateway


Eventually = Callable[..., Awaitable[Any]]


@pytest.mark.guarantee("TX1")
async def test_reorganisation_of_five_blocks_in_the_real_journal(
    gateway: LiveGateway, postgres_server: Postgres, empty_database_url: str, eventually: Eventually
) -> None:
    rows = Rows(postgres_server, empty_database_url)
    records = gateway.ask_public(50)
    gateway.anvil.set_automine(False)
    async with opened(empty_database_url) as store, owned(store) as ownership:
        world = LiveWorld(gateway, store)
        async with world.running(ownership) as sender:
            for start in range(0, 50, 10):
                rows.insert(gateway, records[start : start + 10])
                await eventually(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 10, what="a send")
                gateway.anvil.mine()
                await eventually(lambda: rows.count("status <> 'completed'") == 0, what="all completed")
            gateway.anvil.reorganise(5)
            gateway.anvil.call("anvil_dropAllTransactions")
            await eventually(
                lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 50, seconds=20, what="a new send"
            )
            assert rows.ask("SELECT DISTINCT state FROM kmsd_transactions") == "signed"
            gateway.anvil.mine()
            await eventually(lambda: rows.ask("SELECT DISTINCT state FROM kmsd_transactions") == "mined")
            gateway.anvil.mine(70)
            await eventually(lambda: rows.ask("SELECT DISTINCT state FROM kmsd_transactions") == "final", seconds=20)
            assert sender.tenure is not None
            assert sender.tenure.state.next_nonce == 50
    assert len(gateway.accepted(world.wallet.address)) == 50


@pytest.mark.guarantee("TX4")
async def test_cut_connections_cost_time_only(
    gateway: LiveGateway, postgres_server: Postgres, empty_database_url: str, eventually: Eventually
) -> None:
    rows = Rows(postgres_server, empty_database_url)
    records = gateway.ask_public(300)
    gateway.anvil.set_automine(False)
    gateway.anvil.call("evm_setIntervalMining", 1)
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE datname = '{empty_database_url.rsplit('/', 1)[1]}' AND pid <> pg_backend_pid()"
    )
    try:
        async with opened(empty_database_url) as store, owned(store) as ownership:
            world = LiveWorld(gateway, store)
            rows.insert(gateway, records)
            async with world.running(ownership):
                for wanted in (20, 120, 220):
                    await eventually(
                        lambda wanted=wanted: rows.count("status = 'completed'") >= wanted, seconds=40, what="progress"
                    )
                    rows.ask(cut)
                await eventually(lambda: rows.count("status <> 'completed'") == 0, seconds=40, what="all completed")
        accepted = gateway.accepted(world.wallet.address)
        assert len(accepted) == len({row_id for row_id, _ in accepted}) == 300
        assert rows.ask("SELECT count(*) FROM kmsd_transactions") == "300"
    finally:
        gateway.anvil.call("evm_setIntervalMining", 0)
