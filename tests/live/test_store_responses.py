"""Responses: claims, outcomes, and journal entries found at start."""

import time
from collections.abc import Callable

import pytest
from store_world import answer, arrival, block, event_of, fields_of, first_core, hear, lease_of, leased, request_id

from kmsd.operations.kinds import Kind
from kmsd.operations.table import WITH_RESPONSE
from kmsd.ports import Lease, ResponseFate, ResponseOutcome
from kmsd.store.postgres import PostgresStore
from kmsd.wire.v0_11.structs import KeyDigest

PUBLIC = Kind.PUBLIC_DECRYPTION


async def answered(store: PostgresStore, owner: int, count: int = 1) -> list[int]:
    """Ids of public decryptions with a response."""
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, count + 1)))
    await store.answered([answer(lease_of(one)) for one in claimed])
    return [one.id for one in claimed]


@pytest.mark.guarantee("QU6")
async def test_the_first_answer_stays(store: PostgresStore, owner: int, sql: Callable[[str], str]) -> None:
    """A request that somebody put back under process, though it has its response: completed again, nothing changed."""
    (request,) = await answered(store, owner)
    sql(f"UPDATE public_decryption_requests SET status = 'under_process', lease_owner = {owner}")
    assert await store.answered([answer(Lease(PUBLIC, request, owner), 2)]) == [True]
    assert sql("SELECT status FROM public_decryption_requests").strip() == "completed"
    (response,) = await store.claim_responses(PUBLIC, owner, 5)
    assert response.fields == fields_of(PUBLIC, 1)


@pytest.mark.parametrize("kind", WITH_RESPONSE)
async def test_every_response_comes_back_as_it_was_stored(store: PostgresStore, owner: int, kind: Kind) -> None:
    await hear(store, arrival(kind, 3))
    claimed = await (
        store.claim(kind, owner, 1)
        if kind in (PUBLIC, Kind.USER_DECRYPTION)
        else store.claim_ceremonies(owner, first_core, 1)
    )
    assert await store.answered([answer(lease_of(claimed[0]), 3)]) == [True]
    (response,) = await store.claim_responses(kind, owner, 5)
    assert (response.kind, response.id, response.fields) == (kind, request_id(kind, 3), fields_of(kind, 3))
    assert (response.attempts, response.error_counter, response.lease) == (1, 0, owner)
    assert response.created_at == 1_700_000_100.0
    assert 0 <= response.budget_age < 60
    assert await store.claim_responses(kind, owner, 5) == []
    assert await store.load_requests([(kind, request_id(kind, 9)), (kind, response.id)]) == [None, event_of(kind, 3)]


async def test_digests_of_a_key_keep_their_signed_order(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(Kind.KEYGEN, 1))
    (claimed,) = await store.claim_ceremonies(owner, first_core, 1)
    digests = (KeyDigest(1, b"\x01" * 32), KeyDigest(0, b"\x02" * 32))
    await store.answered([answer(lease_of(claimed), key_digests=digests)])
    assert tuple(await store.key_digests(claimed.id)) == digests
    assert tuple(await store.key_digests(1)) == ()


@pytest.mark.guarantee("QU2")
@pytest.mark.parametrize("state", ["pending", "mine", "another's", "completed", "failed"])
@pytest.mark.parametrize("fate", list(ResponseFate))
async def test_outcomes_against_states(store: PostgresStore, owner: int, state: str, fate: ResponseFate) -> None:
    (request,) = await answered(store, owner)
    other = await store.enrol("other", [])
    lease = Lease(PUBLIC, request, owner)
    if state != "pending":
        await store.claim_responses(PUBLIC, other if state == "another's" else owner, 1)
    if state in ("completed", "failed"):
        await store.settle_responses([ResponseOutcome(lease, ResponseFate(state), "before")])
    outcome = ResponseOutcome(lease, fate, "words", delay=0.0, counted=True, tx_hash=b"\x07" * 32)
    applied = await store.settle_responses([outcome])
    expected = state == "mine" or (fate is ResponseFate.COMPLETED and state != "completed")
    assert applied == [expected]
    (story,) = await store.story(request)
    assert story.response is not None
    if expected:
        assert story.response["status"] == fate.value
        assert story.response["last_error"] == "words"
        assert story.response["tx_hash"] == "0x" + "07" * 32
        assert story.response["error_counter"] == 1
    else:
        before = {"mine": "under_process", "another's": "under_process"}.get(state, state)
        assert story.response["status"] == before
        assert story.response["tx_hash"] is None


async def test_a_response_waits_for_its_delay(store: PostgresStore, owner: int) -> None:
    (request,) = await answered(store, owner)
    await store.claim_responses(PUBLIC, owner, 1)
    lease = Lease(PUBLIC, request, owner)
    await store.settle_responses([ResponseOutcome(lease, ResponseFate.PENDING, "no funds", delay=300.0)])
    assert await store.claim_responses(PUBLIC, owner, 1) == []
    (story,) = await store.story(request)
    assert story.response is not None
    assert 290 < story.response["next_attempt_at"] - time.time() <= 300


async def test_journaled_responses_are_taken_over(store: PostgresStore, owner: int) -> None:
    ids = await answered(store, owner, 4)
    other = await store.enrol("other", [])
    assert len(await store.claim_responses(PUBLIC, other, 3)) == 3
    done = ResponseOutcome(Lease(PUBLIC, ids[0], other), ResponseFate.COMPLETED)
    assert await store.settle_responses([done]) == [True]
    keys = [(PUBLIC, ids[0]), (PUBLIC, ids[1]), (Kind.CRSGEN, 5), (PUBLIC, ids[3])]
    assert await store.lease_responses(keys, owner) == [False, True, False, True]
    loaded = await store.load_responses(keys)
    assert [(one.id, one.lease) for one in loaded] == [(ids[0], 0), (ids[1], owner), (ids[3], owner)]
    assert await store.load_responses([]) == []
    assert await store.lease_responses([], owner) == []


@pytest.mark.guarantee("QU2")
async def test_only_completed_responses_are_reopened(store: PostgresStore, owner: int) -> None:
    """What a reorganisation undid: a row in another's hand, and one that waits or failed, stay as they are."""
    done, claimed, failed, waiting = await answered(store, owner, 4)
    other = await store.enrol("other", [])
    assert len(await store.claim_responses(PUBLIC, other, 3)) == 3
    outcomes = [
        ResponseOutcome(Lease(PUBLIC, done, other), ResponseFate.COMPLETED, tx_hash=b"\x01" * 32),
        ResponseOutcome(Lease(PUBLIC, failed, other), ResponseFate.FAILED, "refused"),
    ]
    assert await store.settle_responses(outcomes) == [True, True]
    keys = [(PUBLIC, one) for one in (done, claimed, failed, waiting)]
    assert await store.reopen_responses(keys, owner) == [True, False, False, False]
    assert await store.reopen_responses(keys, owner) == [True, False, False, False], "after a lost reply"
    (row,) = await store.load_responses([(PUBLIC, done)])
    assert (row.lease, row.attempts) == (owner, 1)
    again = ResponseOutcome(Lease(PUBLIC, done, owner), ResponseFate.PENDING, "not requested yet", delay=0.0)
    assert await store.settle_responses([again]) == [True]
    assert done in [one.id for one in await store.claim_responses(PUBLIC, owner, 2)]


async def test_a_batch_of_outcomes_of_several_kinds(store: PostgresStore, owner: int) -> None:
    (public,) = await answered(store, owner)
    await hear(store, arrival(Kind.CRSGEN, 1, block(300)))
    (crs,) = await store.claim_ceremonies(owner, first_core, 1)
    await store.answered([answer(lease_of(crs))])
    for kind in (PUBLIC, Kind.CRSGEN):
        assert len(await store.claim_responses(kind, owner, 1)) == 1
    completed = ResponseFate.COMPLETED
    outcomes = [
        ResponseOutcome(Lease(Kind.CRSGEN, crs.id, owner), completed),
        ResponseOutcome(Lease(PUBLIC, 12345, owner), completed),
        ResponseOutcome(Lease(PUBLIC, public, owner), completed),
    ]
    assert await store.settle_responses(outcomes) == [True, False, True]
    assert await store.open_requests() == {}
