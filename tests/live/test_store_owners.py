"""Owners and leases: the dead are found, the living keep their rows (QU1; decisions.md 1); whose database it is."""

from collections.abc import Callable, Sequence

import pytest
import trio
from store_world import Opener, answer, arrival, block, first_core, hear, lease_of, leased, request_id

from kmsd.operations.kinds import Kind
from kmsd.ports import Claimed, DependencyDown, Identity, IdentityMismatch, OwnerCount, Sent
from kmsd.store import owners
from kmsd.store.postgres import PostgresStore

PUBLIC = Kind.PUBLIC_DECRYPTION
UNDER_PROCESS = "SELECT count(*) FROM kmsd_rows WHERE status = 'under_process'"


async def settled(store: PostgresStore) -> None:
    """Make as if the database had answered for long enough to judge others."""
    store._database.answering_since = trio.current_time() - owners.SETTLING


async def test_the_database_of_another_network_is_refused(stores: Opener) -> None:
    one, two = await stores("one"), await stores("two")
    mine = Identity(54321, b"\x01" * 20, b"\x02" * 20)
    await one.adopt(mine)
    await two.adopt(mine)
    for other in (
        Identity(1, b"\x01" * 20, b"\x02" * 20),
        Identity(54321, b"\x03" * 20, b"\x02" * 20),
        Identity(54321, b"\x01" * 20, b"\x03" * 20),
    ):
        with pytest.raises(IdentityMismatch, match="chain 54321 with Decryption at 0x0101"):
            await two.adopt(other)


@pytest.mark.guarantee("QU1")
async def test_a_claim_that_comes_after_its_owner_was_given_up(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    """A statement that is carried out late leaves rows with an owner that is no more: they are found."""
    await hear(store, arrival(PUBLIC, 1), arrival(PUBLIC, 2))
    gone = await store.enrol("gone", ["worker"])
    await store.leave(gone)
    assert len(await store.claim(PUBLIC, gone, 1)) == 1
    assert len(await store.claim(PUBLIC, owner, 1)) == 1
    assert await store.reclaim(unowned_after=float("inf")) == []
    assert await store.reclaim(unowned_after=600.0) == [OwnerCount(gone, "public_decryption_requests", 1)]
    assert sql(UNDER_PROCESS) == "1", "the living keep theirs"


@pytest.mark.guarantee("QU1")
async def test_a_restarted_daemon_has_its_rows_back_at_once(stores: Opener, sql: Callable[[str], str]) -> None:
    before = await stores("party")
    owner = await before.enrol("party", ["worker", "sender"])
    claimed = await leased(before, owner, *(arrival(PUBLIC, n) for n in range(1, 11)))
    await before.answered([answer(lease_of(one)) for one in claimed[:4]])
    assert len(await before.claim_responses(PUBLIC, owner, 3)) == 3
    await hear(before, arrival(Kind.CRSGEN, 1, block(400)))
    assert len(await before.claim_ceremonies(owner, first_core, 5)) == 1
    assert sql(UNDER_PROCESS) == "10"
    before.close_presence()  # what SIGKILL does to its connections

    after = await stores("party")
    with trio.fail_after(8.0):
        newer = await after.enrol("party", ["worker", "sender"])
    assert newer > owner
    assert sql(UNDER_PROCESS) == "0"
    assert not await before.beat(owner)
    assert len(await after.claim(PUBLIC, newer, 50)) == 6
    assert len(await after.claim_responses(PUBLIC, newer, 50)) == 4
    assert len(await after.claim_ceremonies(newer, first_core, 50)) == 1


@pytest.mark.guarantee("QU1")
async def test_a_living_daemon_of_the_same_name_keeps_its_rows(stores: Opener) -> None:
    first, second = await stores("same"), await stores("same")
    owner = await first.enrol("same", [])
    claimed = await leased(first, owner, arrival(PUBLIC, 1))
    newer = await second.enrol("same", [])
    assert await first.beat(owner)
    assert await second.beat(newer)
    assert await second.claim(PUBLIC, newer, 5) == []
    assert await first.sent([Sent(lease_of(claimed[0]), "http://core")]) == [True]
    # Once the first one is gone, the next beat of its successor takes over.
    first.close_presence()
    taken: Sequence[Claimed] = ()
    with trio.fail_after(8.0):
        while not taken:  # the server frees the lock when it sees that the connection is gone
            assert await second.beat(newer)
            taken = await second.claim(PUBLIC, newer, 5)
    assert [one.id for one in taken] == [claimed[0].id]


@pytest.mark.guarantee("QU1")
async def test_silent_owners_lose_their_rows_and_beating_ones_do_not(stores: Opener, sql: Callable[[str], str]) -> None:
    dead, alive, judge = await stores("dead"), await stores("alive"), await stores("judge")
    of_dead, of_alive = await dead.enrol("dead", []), await alive.enrol("alive", [])
    await leased(dead, of_dead, *(arrival(PUBLIC, n) for n in range(1, 6)))
    await hear(dead, *(arrival(PUBLIC, n) for n in range(6, 9)))
    assert len(await alive.claim(PUBLIC, of_alive, 9)) == 3
    sql(f"UPDATE kmsd_owners SET heartbeat_at = now() - interval '11 seconds' WHERE epoch = {of_dead}")
    await settled(judge)
    assert await judge.reclaim(unowned_after=360.0) == []
    sql(f"UPDATE kmsd_owners SET heartbeat_at = now() - interval '13 seconds' WHERE epoch = {of_dead}")
    assert await judge.reclaim(unowned_after=360.0) == [OwnerCount(of_dead, "public_decryption_requests", 5)]
    assert await judge.reclaim(unowned_after=360.0) == []
    assert not await dead.beat(of_dead)
    assert await alive.beat(of_alive)
    # They are where they were in the queue: before what came later.
    newcomer = await judge.enrol("judge", [])
    assert [one.id for one in await judge.claim(PUBLIC, newcomer, 2)] == [request_id(PUBLIC, n) for n in (1, 2)]


@pytest.mark.guarantee("QU1")
async def test_after_an_outage_nobody_is_judged_at_once(stores: Opener, sql: Callable[[str], str]) -> None:
    alive, judge = await stores("alive"), await stores("judge")
    owner = await alive.enrol("alive", [])
    await leased(alive, owner, arrival(PUBLIC, 1))
    await judge.backlog()
    # Nobody could beat for a minute; the judge's first verb after it must not take the living for dead.
    sql("UPDATE kmsd_owners SET heartbeat_at = now() - interval '60 seconds'")
    judge._database.answering_since = None
    assert await judge.reclaim(unowned_after=360.0) == []
    assert await alive.beat(owner)
    await settled(judge)
    assert await judge.reclaim(unowned_after=360.0) == []


@pytest.mark.guarantee("QU1")
async def test_rows_without_an_owner_come_back_by_age(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    await hear(store, arrival(PUBLIC, 1), arrival(PUBLIC, 2))
    # The Rust connector's pick writes no lease.
    sql("UPDATE public_decryption_requests SET status = 'under_process'")
    sql("ALTER TABLE public_decryption_requests DISABLE TRIGGER USER")
    sql(
        "UPDATE public_decryption_requests SET updated_at = updated_at - interval '400 seconds' "
        "WHERE decryption_id = (SELECT min(decryption_id) FROM public_decryption_requests)"
    )
    sql("ALTER TABLE public_decryption_requests ENABLE TRIGGER USER")
    assert await store.reclaim(unowned_after=360.0) == [OwnerCount(None, "public_decryption_requests", 1)]
    assert len(await store.claim(PUBLIC, owner, 5)) == 1


async def test_leaving_gives_everything_back(store: PostgresStore, owner: int, sql: Callable[[str], str]) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 5)))
    await store.answered([answer(lease_of(claimed[0]))])
    await store.claim_responses(PUBLIC, owner, 1)
    assert await store.leave(owner) == 4
    assert sql(UNDER_PROCESS) == "0"
    assert sql("SELECT count(*) FROM kmsd_owners") == "0"
    assert sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"
    assert not await store.beat(owner)


async def test_epochs_only_grow(store: PostgresStore) -> None:
    epochs = []
    for _ in range(3):
        epochs.append(await store.enrol("kmsd", []))
        await store.leave(epochs[-1])
    assert epochs == sorted(set(epochs))


async def test_a_beat_after_a_cut_connection(store: PostgresStore, owner: int, sql: Callable[[str], str]) -> None:
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'kmsd %'")
    with trio.fail_after(5.0):
        try:
            alive = await store.beat(owner)
        except DependencyDown:
            alive = await store.beat(owner)
    assert alive
    # The name's lock is held again, by the new connection.
    assert sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "1"
