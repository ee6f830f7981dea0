"""The operator's verbs: what they change, what they refuse, and that it is kept who did it (QU8, EV6, EV7)."""

from collections.abc import Callable, Sequence

import pytest
import trio
from store_world import (
    Opener,
    answer,
    arrival,
    block,
    event_of,
    first_core,
    hear,
    lease_of,
    leased,
    log_of,
    request_id,
)

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import (
    Claimed,
    Failed,
    Finished,
    Lease,
    QuarantinedLog,
    RangeRecord,
    ResponseFate,
    ResponseOutcome,
    Sent,
    TryAgain,
)
from kmsd.store.operator import Changed, View
from kmsd.store.postgres import PostgresStore

PUBLIC, USER, CRS = Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION, Kind.CRSGEN


async def request_of(store: PostgresStore, id_: int) -> View:
    """The request's row."""
    (story,) = await store.story(id_)
    assert story.request is not None
    return story.request


async def response_of(store: PostgresStore, id_: int) -> View:
    """The response's row."""
    (story,) = await store.story(id_)
    assert story.response is not None
    return story.response


async def actions_of(store: PostgresStore, id_: int) -> list[tuple[str, str]]:
    """What operators did to it, and who."""
    (story,) = await store.story(id_)
    return [(action["action"], action["done_by"]) for action in story.actions]


async def answered(store: PostgresStore, owner: int, *counters: int) -> Sequence[int]:
    """Public decryptions with stored responses; their ids."""
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in counters))
    await store.answered([answer(lease_of(one)) for one in claimed])
    return [one.id for one in claimed]


# fail ---------------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("QU8")
async def test_failing_a_waiting_request_takes_it_out_of_the_queue(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(PUBLIC, 1), arrival(PUBLIC, 2))
    done = await store.fail(PUBLIC, request_id(PUBLIC, 1), "the dApp is gone", by="alice")
    assert done == Changed(True, "failed by alice: the dApp is gone")
    row = await request_of(store, request_id(PUBLIC, 1))
    assert (row["status"], row["last_error"]) == ("failed", "failed by alice: the dApp is gone")
    assert [one.id for one in await store.claim(PUBLIC, owner, 9)] == [request_id(PUBLIC, 2)]
    assert await actions_of(store, request_id(PUBLIC, 1)) == [("fail", "alice")]
    again = await store.fail(PUBLIC, request_id(PUBLIC, 1), "again", by="bob")
    assert again == Changed(False, "not failed: the request is failed, without a response")
    assert await actions_of(store, request_id(PUBLIC, 1)) == [("fail", "alice")]


@pytest.mark.guarantee("QU2")
async def test_failing_a_request_in_hand_leaves_its_task_nothing_but_success(store: PostgresStore, owner: int) -> None:
    one, two = await leased(store, owner, arrival(PUBLIC, 1), arrival(PUBLIC, 2))
    for claimed in (one, two):
        assert (await store.fail(PUBLIC, claimed.id, "enough", by="alice")).done
        assert (await request_of(store, claimed.id))["lease_owner"] is None
    assert await store.try_again([TryAgain(lease_of(one), 0.0, "busy")]) == [False]
    assert await store.failed([Failed(lease_of(one), "other words")]) == [False]
    assert (await request_of(store, one.id))["last_error"] == "failed by alice: enough"
    assert await store.answered([answer(lease_of(two))]) == [True]
    assert (await request_of(store, two.id))["status"] == "completed"


async def test_what_is_done_or_unknown_is_not_failed(store: PostgresStore, owner: int) -> None:
    (one,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.finished([Finished(lease_of(one))])
    assert await store.fail(PUBLIC, one.id, "no", by="alice") == Changed(
        False, "not failed: the request is completed, without a response"
    )
    assert (await store.fail(PUBLIC, request_id(PUBLIC, 5), "no", by="alice")).words == (
        "not failed: there is no such request, without a response"
    )


async def test_failing_a_response_leaves_its_request(store: PostgresStore, owner: int) -> None:
    (one,) = await answered(store, owner, 1)
    await store.claim_responses(PUBLIC, owner, 1)
    assert (await store.fail(PUBLIC, one, "wrong chain", by="alice", is_response=True)).done
    assert (await request_of(store, one))["status"] == "completed"
    assert (await response_of(store, one))["status"] == "failed"
    late = ResponseOutcome(Lease(PUBLIC, one, owner), ResponseFate.PENDING, "no nonce", 1.0)
    assert await store.settle_responses([late]) == [False]
    mined = ResponseOutcome(Lease(PUBLIC, one, owner), ResponseFate.COMPLETED, tx_hash=b"\x07" * 32)
    assert await store.settle_responses([mined]) == [True]
    assert (await response_of(store, one))["status"] == "completed"


@pytest.mark.guarantee("QU4")
async def test_failing_a_ceremony_frees_its_core(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(CRS, 1), arrival(CRS, 2, log_index=1))
    (first,) = await store.claim_ceremonies(owner, first_core, 9)
    assert await store.claim_ceremonies(owner, first_core, 9) == []
    assert (await store.fail(CRS, first.id, "the committee gave up", by="alice")).done
    (second,) = await store.claim_ceremonies(owner, first_core, 9)
    assert second.id == request_id(CRS, 2)


# retry --------------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("QU8")
async def test_a_retried_request_starts_afresh_and_keeps_what_the_core_has(store: PostgresStore, owner: int) -> None:
    (one,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.sent([Sent(lease_of(one), "http://core-1")])
    for _ in range(3):
        await store.try_again([TryAgain(lease_of(one), 0.0, "no", counted=True)])
        await store.claim(PUBLIC, owner, 1)
    await store.failed([Failed(lease_of(one), "enough", counted=True)])
    assert await store.retry(PUBLIC, one.id, by="alice") == Changed(True, "request back in the queue")
    row = await request_of(store, one.id)
    assert (row["status"], row["attempts"], row["error_counter"], row["already_sent"]) == ("pending", 0, 0, True)
    (again,) = await store.claim(PUBLIC, owner, 1)
    assert (again.already_sent, again.core_shard, again.attempts) == (True, "http://core-1", 1)
    assert again.budget_age < 60


async def test_a_row_in_back_off_is_due_at_once(store: PostgresStore, owner: int) -> None:
    (one,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.try_again([TryAgain(lease_of(one), 3600.0, "bucket down")])
    assert await store.claim(PUBLIC, owner, 1) == []
    assert (await store.retry(PUBLIC, one.id, by="alice")).done
    assert len(await store.claim(PUBLIC, owner, 1)) == 1


@pytest.mark.guarantee("QU2")
async def test_a_row_in_hand_is_not_retried(store: PostgresStore, owner: int) -> None:
    (one,) = await leased(store, owner, arrival(PUBLIC, 1))
    assert await store.retry(PUBLIC, one.id, by="alice") == Changed(
        False, "nothing to retry: the request is under_process, without a response"
    )
    assert await store.answered([answer(lease_of(one))]) == [True]
    assert (await store.retry(PUBLIC, request_id(PUBLIC, 9), by="alice")).words == (
        "nothing to retry: there is no such request, without a response"
    )


async def test_a_failed_response_is_retried_without_its_request(store: PostgresStore, owner: int) -> None:
    (one,) = await answered(store, owner, 1)
    await store.claim_responses(PUBLIC, owner, 1)
    await store.settle_responses([ResponseOutcome(Lease(PUBLIC, one, owner), ResponseFate.FAILED, "reverted")])
    assert await store.retry(PUBLIC, one, by="alice") == Changed(True, "response back in the queue")
    assert (await request_of(store, one))["status"] == "completed"
    (again,) = await store.claim_responses(PUBLIC, owner, 9)
    assert (again.id, again.attempts) == (one, 1)


async def test_a_row_that_waits_for_an_earlier_meaning_stays_where_it_is(store: PostgresStore, owner: int) -> None:
    """Its Core may still be at work on what the id meant before a reorganisation."""
    await leased(store, owner, arrival(PUBLIC, 1))
    assert (await hear(store, arrival(PUBLIC, 1, block(102, "fork"), salt="other"))).replaced == 1
    assert not (await store.retry(PUBLIC, request_id(PUBLIC, 1), by="alice")).done
    assert await store.claim(PUBLIC, owner, 1) == []


@pytest.mark.guarantee("QU8")
async def test_all_failed_rows_are_retried_at_once(store: PostgresStore, owner: int) -> None:
    for kind in (PUBLIC, USER):
        claimed = await leased(store, owner, *(arrival(kind, n) for n in (1, 2, 3)))
        await store.failed([Failed(lease_of(one), "no") for one in claimed[:2]])
    assert await store.retry_failed(USER, by="alice") == 2
    assert await store.retry_failed(USER, by="alice") == 0
    assert len(await store.claim(USER, owner, 9)) == 2
    assert await store.claim(PUBLIC, owner, 9) == []
    assert await store.retry_failed(None, by="alice") == 2
    assert len(await store.claim(PUBLIC, owner, 9)) == 2


@pytest.mark.guarantee("QU2")
async def test_operators_and_daemons_at_once(stores: Opener) -> None:
    """Many retries and claims side by side: each failed row is served once."""
    store, beside = await stores("one"), await stores("two")
    owner = await store.enrol("one", ["worker"])
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 61)))
    await store.failed([Failed(lease_of(one), "no") for one in claimed])
    served: list[Claimed] = []

    async def retry(some: Sequence[Claimed]) -> None:
        for one in some:
            assert (await beside.retry(PUBLIC, one.id, by="alice")).done

    async def serve() -> None:
        while len(served) < 60:
            some = await store.claim(PUBLIC, owner, 7)
            served.extend(some)
            await store.finished([Finished(lease_of(one)) for one in some])

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for n in range(4):
                nursery.start_soon(retry, claimed[n::4])
    assert len({one.id for one in served}) == len(served) == 60


# lists ----------------------------------------------------------------------------------------------------------------


async def test_lists_by_status_kind_and_side(store: PostgresStore, owner: int) -> None:
    one, two, three = await leased(store, owner, *(arrival(PUBLIC, n) for n in (1, 2, 3)))
    await store.failed([Failed(lease_of(one), "no")])
    await store.answered([answer(lease_of(two))])
    await hear(store, arrival(USER, 4))

    async def listed(*statuses: str, **filters: object) -> list[tuple[str, bool, str]]:
        rows = await store.rows(statuses, **filters)  # type: ignore[arg-type]
        return [(row["kind"], row["is_response"], row["status"]) for row in rows]

    assert await listed("failed") == [(PUBLIC.value, False, "failed")]
    assert await listed("completed") == [(PUBLIC.value, False, "completed")]
    assert sorted(await listed("pending")) == [(PUBLIC.value, True, "pending"), (USER.value, False, "pending")]
    assert await listed("pending", is_response=False) == [(USER.value, False, "pending")]
    assert await listed("pending", "failed", kind=USER) == [(USER.value, False, "pending")]
    assert len(await listed("pending", "under_process", "failed", "completed", limit=2)) == 2
    (row,) = await store.rows(["under_process"])
    assert (int(row["id"], 16), row["lease_owner"], row["attempts"]) == (three.id, owner, 1)
    assert await store.rows([]) == []


async def test_a_list_shows_the_last_changed_of_each_status(store: PostgresStore, owner: int) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 8)))
    for one in claimed:
        await store.finished([Finished(lease_of(one))])
    rows = await store.rows(["completed"], limit=3)
    assert {int(row["id"], 16) for row in rows} == {request_id(PUBLIC, n) for n in (5, 6, 7)}


# rewind ---------------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("EV7")
async def test_rewinding_moves_back_only_and_repeats_nothing(store: PostgresStore, owner: int) -> None:
    requests = [arrival(PUBLIC, n, block(100 + n)) for n in (1, 2, 3)]
    for one in requests:
        await hear(store, one, node="a")
        await hear(store, one, node="b")
    claimed = await store.claim(PUBLIC, owner, 1)
    await store.answered([answer(lease_of(claimed[0]))])
    assert await store.rewind_cursors(Stream.DECRYPTION, {"a": block(101), "nobody": block(101)}, by="alice") == ["a"]
    assert await store.cursor("a", Stream.DECRYPTION) == block(101)
    assert await store.cursor("b", Stream.DECRYPTION) == block(103)
    assert [end.number for end in await store.range_ends("a", Stream.DECRYPTION)] == [101]
    assert [end.number for end in await store.range_ends("b", Stream.DECRYPTION)] == [103, 102, 101]
    for later in (101, 150):
        assert await store.rewind_cursors(Stream.DECRYPTION, {"a": block(later)}, by="alice") == []
    for one in requests[1:]:
        outcome = await hear(store, one, node="a")
        assert (outcome.stored, outcome.duplicates) == ({PUBLIC: 0}, 1)
    assert (await request_of(store, claimed[0].id))["status"] == "completed"


@pytest.mark.guarantee("EV1")
async def test_a_range_planned_before_the_rewind_is_not_stored(store: PostgresStore) -> None:
    await hear(store, arrival(PUBLIC, 1, block(101)))
    await hear(store, arrival(PUBLIC, 2, block(102)))
    await store.rewind_cursors(Stream.DECRYPTION, {"main": block(100)}, by="alice")
    planned = RangeRecord("main", Stream.DECRYPTION, block(102), block(103))
    assert not (await store.record_range(planned)).committed
    assert await store.cursor("main", Stream.DECRYPTION) == block(100)


# quarantine -----------------------------------------------------------------------------------------------------------


async def quarantined_log(store: PostgresStore, *counters: int) -> list[int]:
    """Logs in quarantine; their numbers."""
    logs = [QuarantinedLog("main", log_of(arrival(PUBLIC, n), b"garbage"), "cannot be decoded") for n in counters]
    await hear(store, quarantined=logs)
    return [row["number"] for row in await store.quarantined()]


@pytest.mark.guarantee("EV6")
async def test_a_log_is_replayed_once(store: PostgresStore, owner: int) -> None:
    first, second = await quarantined_log(store, 1, 2)
    assert not (await store.replay_quarantined(first, None, by="alice")).done
    assert await store.replay_quarantined(first, arrival(PUBLIC, 1), by="alice") == Changed(True, "stored")
    assert (await store.replay_quarantined(first, arrival(PUBLIC, 1), by="alice")).words == (
        f"number {first} is not in quarantine"
    )
    await hear(store, arrival(PUBLIC, 2))
    assert await store.replay_quarantined(second, arrival(PUBLIC, 2), by="alice") == Changed(True, "known already")
    assert {one.id for one in await store.claim(PUBLIC, owner, 9)} == {request_id(PUBLIC, n) for n in (1, 2)}
    assert await store.quarantined() == []
    resolved = await store.quarantined(resolved=True)
    assert [row["resolution"] for row in resolved] == ["replayed by alice: stored", "replayed by alice: known already"]


@pytest.mark.guarantee("QU9")
async def test_a_replayed_log_of_long_ago_repeats_nothing(store: PostgresStore, owner: int) -> None:
    (one,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.finished([Finished(lease_of(one))])
    assert await store.expire(finished_after=0.0, failed_after=0.0, limit=9) == 1
    (number,) = await quarantined_log(store, 1)
    assert await store.replay_quarantined(number, arrival(PUBLIC, 1), by="alice") == Changed(True, "known already")
    assert await store.claim(PUBLIC, owner, 9) == []


async def test_a_conflict_is_replayed_only_when_it_no_longer_contradicts(store: PostgresStore, owner: int) -> None:
    (one,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.sent([Sent(lease_of(one), "http://core")])
    other = arrival(PUBLIC, 1, block(102, "fork"), salt="other")
    assert (await hear(store, other)).conflicts == 1
    (row,) = await store.quarantined()
    refused = await store.replay_quarantined(row["number"], other, by="alice")
    assert refused == Changed(False, "it still contradicts a request that was sent")
    assert [kept["number"] for kept in await store.quarantined()] == [row["number"]]


@pytest.mark.guarantee("QU7")
async def test_a_bad_row_is_replayed_once_it_was_mended(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    await hear(store, arrival(USER, 1))
    sql("UPDATE user_decryption_requests SET user_address = '\\x01'")
    assert await store.claim(USER, owner, 9) == []
    (row,) = await store.quarantined()
    assert (row["source"], row["kind"]) == ("row", USER.value)
    sql("UPDATE user_decryption_requests SET user_address = decode(repeat('33', 20), 'hex')")
    assert await store.replay_quarantined(row["number"], None, by="alice") == Changed(True, "row back in the queue")
    (again,) = await store.claim(USER, owner, 9)
    assert again.event == event_of(USER, 1)


async def test_an_entry_is_discarded_once(store: PostgresStore, owner: int) -> None:
    first, second = await quarantined_log(store, 1, 2)
    assert (await store.discard_quarantined(first, "not ours", by="alice")).done
    assert not (await store.discard_quarantined(first, "not ours", by="alice")).done
    assert not (await store.replay_quarantined(first, arrival(PUBLIC, 1), by="alice")).done
    assert [row["number"] for row in await store.quarantined()] == [second]
    assert await store.claim(PUBLIC, owner, 9) == []


# keys -----------------------------------------------------------------------------------------------------------------


async def test_an_operators_state_of_a_key_is_kept_with_its_story(store: PostgresStore) -> None:
    key = request_id(Kind.KEYGEN, 1)
    await store.key_activated(key, "the contract gives its materials")
    assert (await store.set_key_state("key", key, "suspended", "audit", by="alice")).done
    await store.key_activated(key, "heard again")
    (row,) = await store.key_registry()
    assert (row["state"], row["by_operator"], row["changed_by"]) == ("suspended", True, "alice")
    assert (await store.set_key_state("key", key, "deactivated", "end of life", by="bob")).done
    assert not (await store.set_key_state("key", key, "active", "oops", by="bob")).done
    changes = [(one["before"], one["after"], one["changed_by"]) for one in await store.key_changes("key", key)]
    assert changes == [(None, "active", "chain"), ("active", "suspended", "alice"), ("suspended", "deactivated", "bob")]
    for state, reason in (("lost", "why"), ("destroyed", "  ")):
        with pytest.raises(ValueError):
            await store.set_key_state("key", key, state, reason, by="alice")
