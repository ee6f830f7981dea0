"""Claims of ceremonies across daemons, and the word of a second node (QU4; decisions.md 12 and 16)."""

from collections.abc import Callable

import attrs
import pytest
import trio
from store_world import Opener, answer, arrival, block, first_core, hear, lease_of, request_id

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import Failed, Finished, Rewind, Sent, TryAgain
from kmsd.store.postgres import PostgresStore
from kmsd.wire.ids import IdType, make_id

CRS, PREP, KEYGEN = Kind.CRSGEN, Kind.PREP_KEYGEN, Kind.KEYGEN
KM = Stream.KEY_MANAGEMENT


def per_parity(kind: Kind, request: int, prep: int | None, stored: str | None) -> str:
    """Two Cores."""
    return f"http://core-{(prep or request) % 2}"


@pytest.mark.guarantee("QU4")
async def test_one_send_at_a_time_in_chain_order(store: PostgresStore, owner: int) -> None:
    place = block(200)
    await hear(
        store,
        arrival(CRS, 3, place, log_index=1),
        arrival(CRS, 1, place, log_index=7),
        arrival(CRS, 2, block(150), log_index=9),
    )
    order = []
    for _ in range(3):
        (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
        assert await store.claim_ceremonies(owner, first_core, 9) == []
        assert (claimed.core_shard, claimed.already_sent) == ("http://core-0", False)
        order.append(claimed.id)
        assert await store.sent([Sent(lease_of(claimed), "http://core-0")]) == [True]
    assert order == [request_id(CRS, n) for n in (2, 3, 1)]


@pytest.mark.guarantee("QU4")
async def test_sent_ones_are_polled_side_by_side(store: PostgresStore, owner: int) -> None:
    await hear(store, *(arrival(CRS, n) for n in range(1, 5)))
    sent = []
    for _ in range(3):
        (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
        await store.sent([Sent(lease_of(claimed), "http://core-0")])
        sent.append(lease_of(claimed))
    await store.try_again([TryAgain(lease, 0.0, "not ready") for lease in sent])
    claimed_now = await store.claim_ceremonies(owner, first_core, 9)
    assert [one.already_sent for one in claimed_now] == [False, True, True, True]
    assert await store.claim_ceremonies(owner, first_core, 9) == []


@pytest.mark.guarantee("QU4")
async def test_back_off_frees_the_slot(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(CRS, 1), arrival(CRS, 2))
    (first,) = await store.claim_ceremonies(owner, first_core, 9)
    await store.try_again([TryAgain(lease_of(first), 600.0, "unavailable")])
    (second,) = await store.claim_ceremonies(owner, first_core, 9)
    assert second.id == request_id(CRS, 2)
    await store.failed([Failed(lease_of(second), "no")])
    assert await store.claim_ceremonies(owner, first_core, 9) == []


@pytest.mark.guarantee("QU4")
async def test_each_core_has_a_slot_of_its_own(store: PostgresStore, owner: int) -> None:
    await hear(store, *(arrival(CRS, n) for n in range(1, 6)))
    claimed = await store.claim_ceremonies(owner, per_parity, 9)
    assert [(one.id, one.core_shard) for one in claimed] == [
        (request_id(CRS, 1), "http://core-1"),
        (request_id(CRS, 2), "http://core-0"),
    ]


@pytest.mark.guarantee("QU4")
async def test_daemons_share_the_slots(stores: Opener) -> None:
    daemons = [await stores(f"daemon-{n}") for n in range(4)]
    epochs = [await daemon.enrol(f"daemon-{n}", []) for n, daemon in enumerate(daemons)]
    await hear(daemons[0], *(arrival(CRS, n) for n in range(1, 21)))
    claimed: list[int] = []

    async def race(daemon: PostgresStore, owner: int) -> None:
        claimed.extend(one.id for one in await daemon.claim_ceremonies(owner, first_core, 9))

    async with trio.open_nursery() as nursery:
        for daemon, epoch in zip(daemons, epochs, strict=True):
            nursery.start_soon(race, daemon, epoch)
    assert claimed == [request_id(CRS, 1)]


@pytest.mark.guarantee("QU4")
async def test_a_dead_daemon_frees_its_slot(stores: Opener) -> None:
    one, two = await stores("one"), await stores("two")
    first, second = await one.enrol("one", []), await two.enrol("two", [])
    await hear(one, arrival(CRS, 1))
    (claimed,) = await one.claim_ceremonies(first, first_core, 9)
    assert await two.claim_ceremonies(second, first_core, 9) == []
    await one.leave(first)
    (again,) = await two.claim_ceremonies(second, first_core, 9)
    assert (again.id, again.attempts) == (claimed.id, 2)


@pytest.mark.guarantee("QU4")
async def test_a_slot_whose_row_is_in_nobody_s_hands_is_free(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    await hear(store, arrival(CRS, 1), arrival(CRS, 2))
    await store.claim_ceremonies(owner, first_core, 9)
    # As after the Rust connector's statements, or an operator's.
    sql("UPDATE crsgen_requests SET status = 'failed' WHERE status = 'under_process'")
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.id == request_id(CRS, 2)


@pytest.mark.guarantee("QU4")
async def test_a_keygen_waits_for_the_result_of_its_preparation(store: PostgresStore, owner: int) -> None:
    keygen = arrival(KEYGEN, 1, block(101), log_index=0)
    assert keygen.event.prep_keygen_id == make_id(IdType.PREP_KEYGEN, 1)
    await hear(store, keygen, arrival(PREP, 1, block(101), log_index=1), arrival(CRS, 1, block(105)))
    (prep,) = await store.claim_ceremonies(owner, first_core, 9)
    assert prep.kind is PREP
    await store.sent([Sent(lease_of(prep), "http://core-0")])
    # It does not hold up what comes after it, and says what it waits for.
    (crs,) = await store.claim_ceremonies(owner, first_core, 9)
    assert crs.kind is CRS
    await store.sent([Sent(lease_of(crs), "http://core-0")])
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    (story,) = await store.story(keygen.id, KEYGEN)
    assert story.request is not None
    assert story.request["last_error"] == "waits for the result of its preparation prep:1"
    assert await store.answered([answer(lease_of(prep))]) == [True]
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert (claimed.kind, claimed.core_shard) == (KEYGEN, "http://core-0")


async def test_a_keygen_without_a_preparation_here_may_go(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(KEYGEN, 1))
    assert not await store.prep_keygen_known(make_id(IdType.PREP_KEYGEN, 1))
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.kind is KEYGEN


@pytest.mark.guarantee("QU4")
async def test_a_used_preparation_is_never_sent_again(store: PostgresStore, owner: int) -> None:
    prep_id = make_id(IdType.PREP_KEYGEN, 1)
    await hear(store, arrival(PREP, 1), arrival(KEYGEN, 1))
    (prep,) = await store.claim_ceremonies(owner, first_core, 9)
    await store.sent([Sent(lease_of(prep), "http://core-0")])
    await store.answered([answer(lease_of(prep))])
    assert await store.prep_keygen_known(prep_id)
    assert not await store.keygen_was_sent(prep_id)
    (keygen,) = await store.claim_ceremonies(owner, first_core, 9)
    await store.sent([Sent(lease_of(keygen), "http://core-0")])
    assert await store.keygen_was_sent(prep_id)
    # An operator, or a lost response, brings the preparation back.
    await store._database.single(
        "test", "UPDATE prep_keygen_requests SET status = 'pending', already_sent = false, next_attempt_at = now()"
    )
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    (story,) = await store.story(prep_id, PREP)
    assert story.request is not None
    assert "its keygen was sent" in story.request["last_error"]


async def test_prss_goes_before_everything(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(CRS, 1, block(101)), arrival(Kind.PRSS_INIT, 1, block(102)))
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.kind is Kind.PRSS_INIT
    assert await store.finished([Finished(lease_of(claimed))]) == [True]


async def test_a_sent_ceremony_keeps_the_core_that_has_it(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(CRS, 1))
    (claimed,) = await store.claim_ceremonies(owner, lambda *_: "http://old", 9)
    await store.sent([Sent(lease_of(claimed), "http://old")])
    await store.try_again([TryAgain(lease_of(claimed), 0.0, "not ready")])
    (again,) = await store.claim_ceremonies(owner, lambda *_: "http://new", 9)
    assert (again.core_shard, again.already_sent) == ("http://old", True)


# The word of a second node --------------------------------------------------------------------------------------------


@pytest.mark.guarantee("EV4")
async def test_one_node_alone_starts_no_ceremony(store: PostgresStore, owner: int) -> None:
    request = arrival(CRS, 1)
    await hear(store, request, node="a", needs_confirmation=True)
    await hear(store, request, node="a", needs_confirmation=True)
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    assert (await store.backlog()).unconfirmed == 1
    await hear(store, request, node="b", needs_confirmation=True)
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.event == request.event
    (story,) = await store.story(request.id)
    assert [one["node"] for one in story.sightings] == ["a", "b"]


@pytest.mark.guarantee("EV4")
async def test_the_operator_may_decide(store: PostgresStore, owner: int) -> None:
    request = arrival(CRS, 1)
    await hear(store, request, node="a", needs_confirmation=True)
    assert (await store.retry_unconfirmed(CRS, request.id, by="alice")).done
    assert not (await store.retry_unconfirmed(CRS, request.id, by="alice")).done
    assert len(await store.claim_ceremonies(owner, first_core, 9)) == 1


@pytest.mark.guarantee("EV4")
async def test_a_lie_does_not_win_over_two_honest_nodes(store: PostgresStore, owner: int) -> None:
    truth, lie = arrival(CRS, 1), arrival(CRS, 1, block(101, "lie"), salt="lie")
    await hear(store, lie, node="liar", needs_confirmation=True)
    outcome = await hear(store, truth, node="a", needs_confirmation=True)
    assert (outcome.replaced, outcome.conflicts) == (1, 0)
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    await hear(store, truth, node="b", needs_confirmation=True)
    # Confirmed: the liar says it again.
    outcome = await hear(store, lie, node="liar", needs_confirmation=True)
    assert (outcome.replaced, outcome.conflicts) == (0, 1)
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.event == truth.event


@pytest.mark.guarantee("EV4")
async def test_two_reports_from_two_histories_confirm_nothing(store: PostgresStore, owner: int) -> None:
    here, there = arrival(CRS, 1), arrival(CRS, 1, block(101, "fork"))
    await hear(store, here, node="a", needs_confirmation=True)
    await hear(store, there, node="b", needs_confirmation=True)
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    # Node a rewinds to the history of node b; the request is not an orphan, node b still has... its own block only.
    cursor = await store.cursor("a", KM)
    assert cursor is not None
    refs = await store.stored_after(KM, 0)
    assert await store.rewind(Rewind("a", KM, cursor, block(99), refs, "fork"))
    await hear(store, there, node="a", needs_confirmation=True)
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    await hear(store, there, node="b", needs_confirmation=True)
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.block_hash == there.block_hash


@pytest.mark.guarantee("EV4")
async def test_a_node_that_comes_over_confirms_what_the_other_saw_before(store: PostgresStore, owner: int) -> None:
    here, there = arrival(CRS, 1), arrival(CRS, 1, block(102, "fork"))
    await hear(store, here, node="a", needs_confirmation=True)
    await hear(store, there, node="b", needs_confirmation=True)
    # a reads the other history without an orphan being found (b did not answer the question).
    cursor = await store.cursor("a", KM)
    assert cursor is not None
    assert await store.rewind(Rewind("a", KM, cursor, block(99), (), "fork"))
    await hear(store, there, node="a", needs_confirmation=True)
    (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
    assert claimed.block_hash == there.block_hash


async def test_a_single_node_needs_no_other(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(CRS, 1), needs_confirmation=False)
    assert len(await store.claim_ceremonies(owner, first_core, 9)) == 1


async def test_every_ceremony_kind_is_ordered_with_the_others(store: PostgresStore, owner: int) -> None:
    place = block(500)
    kinds = [Kind.KEY_RESHARE, CRS, PREP]
    requests = [attrs.evolve(arrival(kind, 1, place), log_index=n) for n, kind in enumerate(kinds)]
    await hear(store, *requests)
    order = []
    for _ in kinds:
        (claimed,) = await store.claim_ceremonies(owner, first_core, 9)
        order.append(claimed.kind)
        await store.sent([Sent(lease_of(claimed), "http://core-0")])
    assert order == kinds
