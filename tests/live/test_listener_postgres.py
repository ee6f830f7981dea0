"""The listener on a real database and over real sockets: what commits, what survives, what is never repeated."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from faulty_node import FaultyNode
from listener_world import (
    CHAIN_ID,
    DECRYPTION,
    Chain,
    ChainNode,
    Hands,
    RawLog,
    World,
    crsgen_request,
    public_request,
    raw,
    user_request,
    world,
)
from store_world import Opener, answer, first_core, lease_of, quick_sql

from kmsd.chain.node import HttpNode
from kmsd.clock import SystemEntropy, SystemTime
from kmsd.listener import Listener
from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import Finished, Sent
from kmsd.sandbox.postgres import Postgres
from kmsd.store.migrations import migrate
from kmsd.store.postgres import PostgresStore

Eventually = Callable[..., Awaitable[Any]]
Sql = Callable[[str], str]
QUICK = {"decryption_polling": 0.05, "key_management_polling": 0.05, "rpc_timeout": 2.0}


@attrs.define
class Served:
    """A world whose nodes are behind HTTP; `shown` are the nodes that a test makes lag, lie or die."""

    world: World
    shown: list[ChainNode]
    servers: list[FaultyNode]
    store: PostgresStore
    owner: int = 0

    @property
    def chain(self) -> Chain:
        return self.shown[0].chain

    def listener(self) -> Listener:
        """A fresh one, as after a start."""
        w = self.world
        w.owner.current = self.owner
        return Listener(
            w.settings,
            w.nodes,
            self.store,
            w.owner,  # type: ignore[arg-type]
            w.wakeups,
            w.hands,
            w.metrics,
            w.health,
            SystemTime(),
            SystemEntropy(),
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """A fresh one runs inside the block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listener().run)
            yield
            nursery.cancel_scope.cancel()


Serve = Callable[..., Awaitable[Served]]


async def _serving(server: FaultyNode, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with server.serving():
        task_status.started()
        await trio.sleep_forever()


@pytest.fixture
async def serve(stores: Opener, nursery: trio.Nursery) -> Serve:
    """`served = await serve(nodes=2, decryption_from_block_number=0)`; `url` for another database."""

    async def start(*, nodes: int = 1, url: str | None = None, hands: int = 0, **settings: Any) -> Served:
        w = world(nodes=nodes, **(QUICK | settings))
        shown, w.hands = w.nodes, Hands(hands)
        servers = [FaultyNode(node._answer) for node in shown]
        for server in servers:
            await nursery.start(_serving, server)
        w.nodes = [
            HttpNode(node.name, CHAIN_ID, [server.url], None, w.health, w.metrics)  # type: ignore[misc]
            for node, server in zip(shown, servers, strict=True)
        ]
        store = await stores("listener", url, health=w.health, metrics=w.metrics)
        return Served(w, shown, servers, store, await store.enrol("listener", ["listener", "worker"]))

    return start


async def _count(sql: Sql, table: str, where: str = "true") -> int:
    # In a thread: a psql that blocks the loop would starve the listener under test.
    return int(await trio.to_thread.run_sync(sql, f"SELECT count(*) FROM {table} WHERE {where}"))


def _are(count: int, sql: Sql, table: str, where: str = "true") -> Callable[[], Awaitable[bool]]:
    """Are there so many rows?"""

    async def counted() -> bool:
        return await _count(sql, table, where) == count

    return counted


def _at(sql: Sql, block: int, nodes: int = 1) -> Callable[[], Awaitable[bool]]:
    """Are all cursors of both streams at `block` or above?"""
    return _are(2 * nodes, sql, "kmsd_cursors", f"block_number >= {block}")


@pytest.mark.guarantee("EV1")
@pytest.mark.guarantee("EV4")
async def test_all_kinds_from_two_nodes_are_stored_once_with_their_cursor(
    serve: Serve, sql: Sql, eventually: Eventually
) -> None:
    served = await serve(nodes=2, decryption_from_block_number=0, kms_operation_from_block_number=0)
    for number in range(1, 31):
        served.chain.mine(public_request(number), user_request(number), crsgen_request(number))
    async with served.listening():
        await eventually(_at(sql, 40, 2), what="both nodes read")
    for table in ("public_decryption_requests", "user_decryption_requests", "crsgen_requests"):
        assert await _count(sql, table) == 30
    assert await _count(sql, "kmsd_cursors") == 4
    assert await _count(sql, "crsgen_requests", "unconfirmed") == 0
    cursor = await served.store.cursor("main", Stream.DECRYPTION)
    assert cursor == (40, served.chain.blocks[40].hash)


@pytest.mark.guarantee("EV4")
async def test_a_ceremony_of_one_node_is_not_claimed_until_the_other_shows_it(
    serve: Serve, sql: Sql, eventually: Eventually
) -> None:
    served = await serve(nodes=2, decryption_from_block_number=0, kms_operation_from_block_number=0)
    served.servers[1].hangs = True
    async with served.listening():
        served.chain.mine(crsgen_request(1))
        await eventually(_are(1, sql, "crsgen_requests"), what="stored")
        assert await served.store.claim_ceremonies(served.owner, first_core, 5) == []
        served.servers[1].hangs = False
        served.servers[1].cut_connections()
        claimed = await eventually(
            lambda: served.store.claim_ceremonies(served.owner, first_core, 5), what="confirmed by the second node"
        )
    assert [one.id for one in claimed] == [5 << 248 | 1]


@pytest.mark.guarantee("EV2")
async def test_the_database_stops_and_comes_back(
    serve: Serve, new_postgres: Callable[..., Postgres], eventually: Eventually
) -> None:
    server = new_postgres()
    url = server.create_database("away")
    await migrate(url)
    served = await serve(url=url, decryption_from_block_number=0)
    away = quick_sql(url, server)
    async with served.listening():
        served.chain.mine(public_request(1))
        await eventually(_are(1, away, "public_decryption_requests"), what="the first")
        await trio.to_thread.run_sync(server.stop)
        for number in range(2, 12):
            served.chain.mine(public_request(number))
        await eventually(lambda: not served.world.health.is_up("database"), what="the outage is noticed")
        await trio.to_thread.run_sync(server.start)
        await eventually(_are(11, away, "public_decryption_requests"), seconds=15, what="all of them")


@pytest.mark.guarantee("EV2")
async def test_cut_connections_in_the_middle_of_everything(serve: Serve, sql: Sql, eventually: Eventually) -> None:
    served = await serve(decryption_from_block_number=0, get_logs_batch_size=4)
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with served.listening():
        for number in range(1, 121):
            served.chain.mine(public_request(number))
            if number % 6 == 0:
                await trio.to_thread.run_sync(sql, cut)
        await eventually(_are(120, sql, "public_decryption_requests"), seconds=15, what="all of them")
        await eventually(_at(sql, 130), seconds=15, what="the head")


@pytest.mark.guarantee("EV5")
async def test_a_reorganisation_withdraws_marks_and_reads_again(serve: Serve, sql: Sql, eventually: Eventually) -> None:
    served = await serve(nodes=2, decryption_from_block_number=0)
    store, owner = served.store, served.owner
    async with served.listening():
        for number in (1, 2, 3):
            served.chain.mine(public_request(number))
        await eventually(_at(sql, 13, 2), what="read")
        (first,) = await store.claim(Kind.PUBLIC_DECRYPTION, owner, 1)
        assert first.id & 0xFF == 1
        assert await store.sent([Sent(lease_of(first), "http://core-0")]) == [True]
        served.chain.reorganise(3, [], [public_request(3, b"new")], [], [])
        await eventually(_at(sql, 14, 2), what="read again")
        await eventually(_are(2, sql, "kmsd_withdrawn"), what="withdrawn")
    stored = sql(
        "SELECT encode(substr(decryption_id, 1, 1), 'hex') || '=' || (orphaned_at IS NOT NULL) "
        "FROM public_decryption_requests ORDER BY 1"
    )
    # 1 was sent: marked; 2 was not and fell: withdrawn; 3 fell and came again as another request: replaced.
    assert stored.split() == ["01=true", "03=false"]


@pytest.mark.guarantee("EV6")
async def test_bad_logs_are_in_quarantine_raw(serve: Serve, sql: Sql, eventually: Eventually) -> None:
    served = await serve(nodes=2, decryption_from_block_number=0)
    good = raw(public_request(1))
    bad = RawLog(DECRYPTION, good.topics, good.data[:-32])
    block = served.chain.mine(bad, public_request(2))
    async with served.listening():
        await eventually(_at(sql, 11, 2), what="read")
    assert await _count(sql, "public_decryption_requests") == 1
    kept = sql("SELECT encode(data, 'hex'), encode(block_hash, 'hex'), log_index FROM kmsd_quarantine")
    assert kept.split("|") == [bad.data.hex(), block.hash.hex(), "0"]


@pytest.mark.guarantee("EV7")
async def test_a_replay_repeats_nothing_finished_or_gone(serve: Serve, sql: Sql, eventually: Eventually) -> None:
    served = await serve(decryption_from_block_number=0)
    store, owner = served.store, served.owner
    for number in range(1, 21):
        served.chain.mine(public_request(number))
    async with served.listening():
        await eventually(_at(sql, 30), what="read")
    claimed = await store.claim(Kind.PUBLIC_DECRYPTION, owner, 10)
    assert all(await store.answered([answer(lease_of(one), one.id & 0xFF) for one in claimed]))
    sql("UPDATE public_decryption_responses SET status = 'completed'")
    sql("UPDATE public_decryption_requests SET updated_at = now() - interval '1 hour'")
    gone = await store.expire(finished_after=0.0, failed_after=0.0, limit=5)
    assert gone > 0
    left = await _count(sql, "public_decryption_requests")
    statuses = "SELECT decryption_id, status FROM public_decryption_requests ORDER BY 1"
    before = sql(statuses)
    replaying = served.listener()
    await replaying.rewind_to(0)
    await replaying.read_to(30)
    assert await _at(sql, 30)()
    assert await _count(sql, "public_decryption_requests") == left < 20
    assert sql(statuses) == before


async def test_fresh_rows_are_leased_in_the_insert(serve: Serve, sql: Sql, eventually: Eventually) -> None:
    served = await serve(hands=3, decryption_from_block_number=0)
    served.chain.mine(*[public_request(number) for number in range(1, 6)])
    async with served.listening():
        await eventually(_are(5, sql, "public_decryption_requests"), what="stored")
        await eventually(lambda: len(served.world.hands.delivered) == 3, what="handed over")
    assert (
        await _count(sql, "public_decryption_requests", f"lease_owner = {served.owner} AND status = 'under_process'")
        == 3
    )
    first = served.world.hands.delivered[0]
    assert await served.store.finished([Finished(lease_of(first))]) == [True]
    assert not any(served.world.hands.reserved.values())
