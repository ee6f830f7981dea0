"""The database stopped, killed, paused, cut off in the middle of verbs: DependencyDown in time, nothing half done."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from store_world import (
    Opener,
    Unretrieved,
    answer,
    arrival,
    block,
    fields_of,
    first_core,
    lease_of,
    leased,
    request_id,
)

from kmsd.clock import SystemTime
from kmsd.observe.health import Health
from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import (
    BlockRef,
    DependencyDown,
    Failed,
    Finished,
    JournalEntry,
    LaneLost,
    Lease,
    RangeRecord,
    RejectedResult,
    ResponseFate,
    ResponseOutcome,
    Rewind,
    Sent,
    TryAgain,
)
from kmsd.sandbox.postgres import Postgres
from kmsd.store.migrations import migrate
from kmsd.store.postgres import PostgresStore, open_store

PUBLIC = Kind.PUBLIC_DECRYPTION
SERVER = Callable[..., Postgres]


async def _wakes(store: PostgresStore) -> None:
    async with store.wakes() as wakes:
        await anext(wakes)


async def _lane(store: PostgresStore) -> None:
    async with store.open_lane(1, b"w" * 20, 1):
        pass


def verbs(store: PostgresStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every verb of the port, with plausible arguments."""
    lease = Lease(PUBLIC, request_id(PUBLIC, 1), 1)
    cursor = block(100)
    return {
        "enrol": partial(store.enrol, "x", []),
        "beat": partial(store.beat, 1),
        "leave": partial(store.leave, 1),
        "reclaim": partial(store.reclaim, unowned_after=1.0),
        "expire": partial(store.expire, finished_after=1.0, failed_after=1.0, limit=5),
        "wakes": partial(_wakes, store),
        "cursor": partial(store.cursor, "n", Stream.DECRYPTION),
        "lowest_cursor": partial(store.lowest_cursor, Stream.DECRYPTION),
        "range_ends": partial(store.range_ends, "n", Stream.DECRYPTION),
        "record_range": partial(
            store.record_range, RangeRecord("n", Stream.DECRYPTION, None, cursor, [arrival(PUBLIC, 9)])
        ),
        "stored_after": partial(store.stored_after, Stream.DECRYPTION, 5),
        "rewind": partial(store.rewind, Rewind("n", Stream.DECRYPTION, cursor, BlockRef(1, b"x"), (), "fork")),
        "publish_floor": partial(store.publish_floor, Stream.DECRYPTION, ["n"]),
        "claim": partial(store.claim, PUBLIC, 1, 5),
        "claim_ceremonies": partial(store.claim_ceremonies, 1, first_core, 5),
        "sent": partial(store.sent, [Sent(lease, "c")]),
        "answered": partial(store.answered, [answer(lease)]),
        "finished": partial(store.finished, [Finished(lease)]),
        "try_again": partial(store.try_again, [TryAgain(lease, 1.0, "words")]),
        "failed": partial(store.failed, [Failed(lease, "words")]),
        "reject": partial(store.reject, [RejectedResult(PUBLIC, 1, "c", "r", b"raw")]),
        "key_digests": partial(store.key_digests, 1),
        "keygen_was_sent": partial(store.keygen_was_sent, 1),
        "prep_keygen_known": partial(store.prep_keygen_known, 1),
        "key_allowance": partial(store.key_allowance, 1),
        "open_requests": store.open_requests,
        "listed": partial(store.listed, ["failed"], changed_after=0.0, limit=5),
        "backlog": store.backlog,
        "claim_responses": partial(store.claim_responses, PUBLIC, 1, 5),
        "load_responses": partial(store.load_responses, [(PUBLIC, 1)]),
        "load_requests": partial(store.load_requests, [(PUBLIC, 1)]),
        "lease_responses": partial(store.lease_responses, [(PUBLIC, 1)], 1),
        "reopen_responses": partial(store.reopen_responses, [(PUBLIC, 1)], 1),
        "settle_responses": partial(store.settle_responses, [ResponseOutcome(lease, ResponseFate.FAILED, "w")]),
        "open_lane": partial(_lane, store),
    }


async def every_verb_says_down(store: PostgresStore, within: float) -> None:
    """Each verb raises DependencyDown("database") within the time, side by side."""
    calls = verbs(store)
    wrong: list[str] = []

    async def call(name: str) -> None:
        started = trio.current_time()
        try:
            await calls[name]()
            wrong.append(f"{name} succeeded")
        except DependencyDown as down:
            if down.name != "database":
                wrong.append(f"{name}: {down.name}")
        if trio.current_time() - started > within:
            wrong.append(f"{name} took {trio.current_time() - started:.1f} s")

    with trio.fail_after(within * 8):
        async with trio.open_nursery() as nursery:
            for name in calls:
                nursery.start_soon(call, name)
    assert wrong == []


@pytest.fixture
async def server(asyncio_loop: Unretrieved, new_postgres: SERVER) -> Postgres:
    """A server of the test's own, with a migrated database `kmsd`."""
    postgres = new_postgres()
    await migrate(postgres.create_database("kmsd"))
    return postgres


@pytest.mark.guarantee("PR2")
async def test_it_opens_while_the_database_is_down(asyncio_loop: Unretrieved) -> None:
    health = Health(SystemTime())
    url = "postgresql://someone:s3cr3t-word@127.0.0.1:9/kmsd"
    async with open_store(url, instance_name="x", pool_size=2, health=health) as store:
        await every_verb_says_down(store, 5.0)
        with pytest.raises(DependencyDown) as refusal:
            await store.backlog()
    assert not health.is_up("database")
    assert "127.0.0.1:9" in refusal.value.detail
    assert "s3cr3t" not in str(refusal.value)
    with pytest.raises(DependencyDown):
        await migrate(url)


@pytest.mark.guarantee("PR2")
async def test_a_wrong_password_or_name_is_told_without_secrets(server: Postgres) -> None:
    right = server.url("kmsd")
    user, rest = right.removeprefix("postgresql://").split(":", 1)
    secret, where = rest.split("@", 1)
    for url in (f"postgresql://{user}:wrong-one@{where}", right.replace("/kmsd", "/nowhere")):
        async with open_store(url, instance_name="x", pool_size=2) as store:
            with pytest.raises(DependencyDown) as refusal:
                await store.backlog()
            assert secret not in str(refusal.value)
            assert "wrong-one" not in str(refusal.value)
    assert "nowhere" in str(refusal.value)


@pytest.mark.guarantee("PR2")
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_it_recovers_from_a_restart(server: Postgres, end: str) -> None:
    health = Health(SystemTime())
    async with open_store(server.url("kmsd"), instance_name="x", pool_size=3, health=health) as store:
        owner = await store.enrol("x", [])
        claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 31)))
        await store.answered([answer(lease_of(one)) for one in claimed[:10]])
        assert health.is_up("database")
        await trio.to_thread.run_sync(server.stop if end == "stop" else server.kill)
        await every_verb_says_down(store, 5.0)
        assert not health.is_up("database")
        await trio.to_thread.run_sync(server.start)
        assert await store.beat(owner)
        assert health.is_up("database")
        assert await store.answered([answer(lease_of(one)) for one in claimed]) == [True] * 30
        assert await store.open_requests() == {(PUBLIC, True): 30}


@pytest.mark.guarantee("WK3")
async def test_a_paused_server_is_given_up_in_time(server: Postgres) -> None:
    async with open_store(
        server.url("kmsd"), instance_name="x", pool_size=16, statement_timeout=2.0, health=Health(SystemTime())
    ) as store:
        owner = await store.enrol("x", [])
        claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 5)))
        await trio.to_thread.run_sync(server.pause)
        try:
            await every_verb_says_down(store, 6.0)
        finally:
            await trio.to_thread.run_sync(server.resume)
        with trio.fail_after(20.0):
            while True:
                try:
                    assert await store.answered([answer(lease_of(one)) for one in claimed]) == [True] * 4
                    break
                except DependencyDown:
                    await trio.sleep(0.1)
        assert await store.beat(owner)


@pytest.mark.guarantee("WK3")
async def test_a_cancelled_verb_leaves_at_once(server: Postgres) -> None:
    async with open_store(server.url("kmsd"), instance_name="x", pool_size=4) as store:
        await store.backlog()
        await trio.to_thread.run_sync(server.pause)
        try:
            calls = verbs(store)
            started = trio.current_time()
            with trio.move_on_after(0.5):
                async with trio.open_nursery() as nursery:
                    for name in calls:
                        nursery.start_soon(calls[name])
            assert trio.current_time() - started < 3.0
        finally:
            await trio.to_thread.run_sync(server.resume)
        with trio.fail_after(15.0):
            await store.backlog()


@pytest.mark.guarantee("WK3")
async def test_a_lock_held_by_somebody_ends_in_time(server: Postgres) -> None:
    async with open_store(server.url("kmsd"), instance_name="x", pool_size=2, statement_timeout=1.5) as store:
        owner = await store.enrol("x", [])
        (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
        async with (
            open_store(server.url("kmsd"), instance_name="y", pool_size=1) as other,
            other._database.dedicated() as session,
        ):
            await session.execute("BEGIN; LOCK TABLE public_decryption_requests IN ACCESS EXCLUSIVE MODE")
            with trio.fail_after(4.0), pytest.raises(DependencyDown, match="database") as down:
                await store.sent([Sent(lease_of(claimed), "c")])
            assert down.value.too_slow
            await session.execute("ROLLBACK")
        assert await store.sent([Sent(lease_of(claimed), "c")]) == [True]


@pytest.mark.guarantee("TX1")
async def test_a_lane_ends_with_the_server(server: Postgres) -> None:
    async with open_store(server.url("kmsd"), instance_name="x", pool_size=2, statement_timeout=2.0) as store:
        owner = await store.enrol("x", [])
        entry = JournalEntry(0, 0, None, None, b"c" * 32, b"raw", b"h" * 32, 1, 1, 1)
        async with store.open_lane(1, b"w" * 20, owner) as lane:
            await lane.append([entry])
            await trio.to_thread.run_sync(server.kill)
            with pytest.raises((LaneLost, DependencyDown)):
                await lane.entries()
            with pytest.raises(LaneLost):
                await lane.append([entry])
        await trio.to_thread.run_sync(server.start)
        async with store.open_lane(1, b"w" * 20, owner) as lane:
            assert [one.nonce for one in await lane.entries()] == [0]
            await trio.to_thread.run_sync(server.pause)
            try:
                with trio.fail_after(5.0), pytest.raises(DependencyDown):
                    await lane.highest_nonce()
                with pytest.raises(LaneLost):
                    await lane.entries()
            finally:
                await trio.to_thread.run_sync(server.resume)


@pytest.mark.guarantee("QU2")
async def test_deadlocks_are_repeated(stores: Opener) -> None:
    """Two daemons settle overlapping rows in opposite order, many times at once."""
    one, two = await stores("one"), await stores("two")
    owner = await one.enrol("one", [])
    claimed = await leased(one, owner, *(arrival(PUBLIC, n) for n in range(1, 201)))
    leases = [lease_of(row) for row in claimed]

    async def finish(store: PostgresStore, order: list[Lease]) -> None:
        for _ in range(10):
            assert all(await store.answered([answer(lease, **fields_of(PUBLIC)) for lease in order]))

    async with trio.open_nursery() as nursery:
        for store, order in ((one, leases), (two, leases[::-1])):
            nursery.start_soon(finish, store, order)
    assert await one.open_requests() == {(PUBLIC, True): 200}
