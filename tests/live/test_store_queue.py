"""Claims and guarded transitions of requests (QU1, QU2, QU3, QU5 to QU9)."""

import time
from collections.abc import Callable

import pytest
import trio
from store_world import Opener, answer, arrival, block, fields_of, first_core, hear, lease_of, leased, request_id

from kmsd.operations.kinds import Kind
from kmsd.operations.table import DECRYPTIONS
from kmsd.ports import Failed, Finished, Lease, RejectedResult, ResponseFate, ResponseOutcome, Sent, TryAgain
from kmsd.store.postgres import PostgresStore

PUBLIC, USER = Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION


async def state_of(store: PostgresStore, request: int, kind: Kind = PUBLIC) -> str:
    """Status of a request and of its response, `-` where there is none."""
    (story,) = await store.story(request, kind)
    return "/".join(row["status"] if row else "-" for row in (story.request, story.response))


@pytest.mark.guarantee("QU3")
async def test_longest_due_first(store: PostgresStore, owner: int) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 6)))
    delays = {1: 0.3, 2: 0.1, 3: 0.0, 4: 0.2, 5: 600.0}
    counters = {request_id(PUBLIC, n): n for n in delays}
    await store.try_again([TryAgain(lease_of(one), delays[counters[one.id]], "again") for one in claimed])
    await trio.sleep(0.35)
    again = await store.claim(PUBLIC, owner, 3)
    assert [counters[one.id] for one in again] == [3, 2, 4]
    assert [counters[one.id] for one in await store.claim(PUBLIC, owner, 3)] == [1]
    (story,) = await store.story(request_id(PUBLIC, 5))
    assert story.request is not None
    assert 590 < story.request["next_attempt_at"] - time.time() <= 600


@pytest.mark.guarantee("QU3")
async def test_equally_due_rows_go_by_age(store: PostgresStore, owner: int) -> None:
    await hear(store, *(arrival(PUBLIC, n) for n in (5, 3, 9, 1, 7)))
    claimed = [*await store.claim(PUBLIC, owner, 2), *await store.claim(PUBLIC, owner, 9)]
    assert [one.id for one in claimed] == [request_id(PUBLIC, n) for n in (1, 3, 5, 7, 9)]


@pytest.mark.guarantee("QU2")
async def test_claims_of_many_daemons_are_disjoint(stores: Opener) -> None:
    daemons = [await stores(f"daemon-{n}") for n in range(3)]
    await hear(daemons[0], *(arrival(PUBLIC, n) for n in range(1, 401)))
    seen: list[int] = []

    async def drain(daemon: PostgresStore, owner: int) -> None:
        while claimed := await daemon.claim(PUBLIC, owner, 7):
            seen.extend(one.id for one in claimed)

    async with trio.open_nursery() as nursery:
        for number, daemon in enumerate(daemons):
            owner = await daemon.enrol(f"daemon-{number}", ["worker"])
            nursery.start_soon(drain, daemon, owner)
            nursery.start_soon(drain, daemon, owner)
    assert len(seen) == len(set(seen)) == 400


@pytest.mark.guarantee("QU5")
async def test_a_retry_is_stored_with_everything_it_learned(store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(USER, 1))
    lease = lease_of(claimed)
    await store.sent([Sent(lease, "http://core-1")])
    await store.try_again([TryAgain(lease, 0.0, "busy", refusal="NOT_FOUND")])
    (second,) = await store.claim(USER, owner, 1)
    assert (second.already_sent, second.core_shard, second.refusal) == (True, "http://core-1", "NOT_FOUND")
    assert (second.attempts, second.error_counter) == (2, 0)
    await store.try_again([TryAgain(lease, 0.0, "forgot", counted=True, clear_sent=True, core_shard="http://core-2")])
    (third,) = await store.claim(USER, owner, 1)
    assert (third.already_sent, third.core_shard, third.refusal) == (False, "http://core-2", "NOT_FOUND")
    assert (third.attempts, third.error_counter) == (3, 1)
    await store.try_again([TryAgain(lease, 0.0, "exists", mark_sent=True)])
    (fourth,) = await store.claim(USER, owner, 1)
    assert fourth.already_sent
    (story,) = await store.story(claimed.id)
    assert story.request is not None
    assert story.request["last_error"] == "exists"
    assert 0 <= fourth.budget_age < 60


@pytest.mark.guarantee("QU8")
async def test_a_failed_row_says_why_and_can_be_retried(store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    assert await store.failed([Failed(lease_of(claimed), "the ACL denies handle 0x12", counted=True)]) == [True]
    (listed,) = await store.listed(["failed"], changed_after=0.0, limit=10)
    assert (listed.id, listed.last_error) == (claimed.id, "the ACL denies handle 0x12")
    assert (await store.retry(PUBLIC, claimed.id, by="alice")).done
    (again,) = await store.claim(PUBLIC, owner, 1)
    assert (again.attempts, again.error_counter) == (1, 0)
    (story,) = await store.story(claimed.id)
    assert [(action["action"], action["done_by"]) for action in story.actions] == [("retry", "alice")]


# Every transition against every state and lease -----------------------------------------------------------------------

STATES = ("pending", "mine", "another's", "completed", "failed", "gone")


async def bring_to(store: PostgresStore, state: str, owner: int, other: int) -> Lease:
    """A request in a state; the lease is the one that `owner` had on it."""
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    lease = lease_of(claimed)
    if state in ("pending", "another's"):
        await store.try_again([TryAgain(lease, 0.0, "taken away")])
    if state == "another's":
        await store.claim(PUBLIC, other, 1)
    elif state == "completed":
        await store.finished([Finished(lease)])
    elif state == "failed":
        await store.failed([Failed(lease, "no")])
    return Lease(PUBLIC, request_id(PUBLIC, 99), owner) if state == "gone" else lease


@pytest.mark.guarantee("QU2")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", ["sent", "try_again", "failed"])
async def test_only_the_lease_holder_changes_a_row(stores: Opener, state: str, verb: str) -> None:
    store = await stores()
    owner, other = await store.enrol("one", []), await store.enrol("two", [])
    lease = await bring_to(store, state, owner, other)
    before = await store.story(request_id(PUBLIC, 1))
    applied = await {
        "sent": lambda: store.sent([Sent(lease, "http://core")]),
        "try_again": lambda: store.try_again([TryAgain(lease, 9.0, "words", counted=True)]),
        "failed": lambda: store.failed([Failed(lease, "words", counted=True)]),
    }[verb]()
    assert applied == [state == "mine"]
    if state != "mine":
        assert await store.story(request_id(PUBLIC, 1)) == before


@pytest.mark.guarantee("QU2")
@pytest.mark.guarantee("QU6")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", ["answered", "finished"])
async def test_a_late_verified_success_completes(stores: Opener, state: str, verb: str) -> None:
    store = await stores()
    owner, other = await store.enrol("one", []), await store.enrol("two", [])
    lease = await bring_to(store, state, owner, other)
    item = answer(lease) if verb == "answered" else Finished(lease, "others were faster")
    applied = await (store.answered([item]) if verb == "answered" else store.finished([item]))  # type: ignore[list-item]
    assert applied == [state != "gone"]
    response = "pending" if verb == "answered" and state not in ("completed", "gone") else "-"
    status = "under_process" if state == "gone" else "completed"
    assert await state_of(store, request_id(PUBLIC, 1)) == f"{status}/{response}"
    # Repeating it changes nothing.
    again = await (store.answered([item]) if verb == "answered" else store.finished([item]))  # type: ignore[list-item]
    assert again == applied
    assert await state_of(store, request_id(PUBLIC, 1)) == f"{status}/{response}"


@pytest.mark.guarantee("QU2")
async def test_the_new_owner_loses_to_a_late_success(stores: Opener) -> None:
    store = await stores()
    owner, other = await store.enrol("one", []), await store.enrol("two", [])
    lease = await bring_to(store, "another's", owner, other)
    assert await store.answered([answer(lease)]) == [True]
    theirs = Lease(PUBLIC, lease.id, other)
    assert await store.try_again([TryAgain(theirs, 0.0, "late")]) == [False]
    assert await store.failed([Failed(theirs, "late")]) == [False]
    assert await store.sent([Sent(theirs, "http://core")]) == [False]
    assert await store.answered([answer(theirs)]) == [True]
    assert await state_of(store, lease.id) == "completed/pending"


@pytest.mark.guarantee("QU6")
async def test_a_request_completes_whatever_response_was_there(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 4)))
    leases = [lease_of(one) for one in sorted(claimed, key=lambda one: one.id)]
    await store.answered([answer(lease, 1) for lease in leases])
    (_, second, third) = await store.claim_responses(PUBLIC, owner, 3)
    await store.settle_responses(
        [
            ResponseOutcome(Lease(PUBLIC, second.id, owner), ResponseFate.COMPLETED, tx_hash=b"\x01" * 32),
            ResponseOutcome(Lease(PUBLIC, third.id, owner), ResponseFate.FAILED, "refused"),
        ]
    )
    # As a reference database may be: the response is there, its request is not completed.
    sql(f"UPDATE public_decryption_requests SET status = 'under_process', lease_owner = {owner}")
    assert await store.answered([answer(lease, 2) for lease in leases]) == [True] * 3
    assert [await state_of(store, lease.id) for lease in leases] == [
        "completed/under_process",
        "completed/completed",
        "completed/pending",
    ]
    # A response that is on its way or has arrived stays as it is; a failed one is replaced by the new result.
    loaded = await store.load_responses([(PUBLIC, lease.id) for lease in leases])
    assert [one.fields == fields_of(PUBLIC, 1) for one in loaded] == [True, True, False]
    assert loaded[2].fields == fields_of(PUBLIC, 2)
    assert loaded[2].attempts == 0


@pytest.mark.guarantee("QU6")
async def test_a_response_and_its_request_commit_together(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 4)))
    sql("ALTER TABLE public_decryption_responses ADD CONSTRAINT no CHECK (length(decrypted_result) < 33)")
    items = [answer(lease_of(one), n) for n, one in enumerate(claimed)]
    bad = [*items[:2], answer(lease_of(claimed[2]), decrypted_result=b"x" * 40)]
    with pytest.raises(Exception, match="no"):
        await store.answered(bad)
    assert [await state_of(store, one.id) for one in claimed] == ["under_process/-"] * 3
    assert await store.answered(items) == [True] * 3


async def test_a_batch_may_mix_kinds_and_outcomes(store: PostgresStore, owner: int) -> None:
    public = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 4)))
    user = await leased(store, owner, *(arrival(USER, n, block(300 + n)) for n in range(1, 4)))
    mixed = [one for pair in zip(public, user, strict=True) for one in pair]
    strange = Lease(USER, request_id(USER, 77), owner)
    applied = await store.answered([answer(strange), *(answer(lease_of(one)) for one in mixed), answer(strange)])
    assert applied == [False, *[True] * 6, False]
    assert await store.open_requests() == {(PUBLIC, True): 3, (USER, True): 3}
    assert await store.sent([]) == []
    assert await store.answered([]) == []


# Bad rows -------------------------------------------------------------------------------------------------------------

BAD = {
    "short id": "decode('0102', 'hex'), '{}'",
    "no materials member": "decode(repeat('0a', 32), 'hex'), ARRAY[NULL]::sns_ciphertext_material[]",
    "handle of 31 bytes": (
        "decode(repeat('0b', 32), 'hex'), ARRAY[(decode(repeat('01', 31), 'hex'), decode(repeat('01', 32), 'hex'), "
        "decode(repeat('01', 32), 'hex'), '{}')]::sns_ciphertext_material[]"
    ),
    "no key": (
        "decode(repeat('0c', 32), 'hex'), ARRAY[(decode(repeat('01', 32), 'hex'), NULL, "
        "decode(repeat('01', 32), 'hex'), '{}')]::sns_ciphertext_material[]"
    ),
}


@pytest.mark.guarantee("QU7")
@pytest.mark.parametrize("bad", list(BAD))
async def test_one_bad_row_is_quarantined_by_itself(
    store: PostgresStore, owner: int, sql: Callable[[str], str], bad: str
) -> None:
    await hear(store, *(arrival(PUBLIC, n) for n in range(1, 10)))
    sql(
        "INSERT INTO public_decryption_requests"
        f" SELECT {BAD[bad]}, '', 'pending', false, 0, NULL, now() - interval '1 year', now(), ''"
    )
    claimed = await store.claim(PUBLIC, owner, 50)
    assert len(claimed) == 9
    assert all(await store.answered([answer(lease_of(one)) for one in claimed]))
    (kept,) = await store.quarantined()
    assert kept["source"] == "row"
    assert "cannot be decoded" in kept["reason"]
    assert (
        sql(
            "SELECT status, lease_owner IS NULL, last_error LIKE 'the row cannot be decoded%' FROM "
            "public_decryption_requests WHERE status <> 'completed'"
        )
        == "failed|t|t"
    )
    assert await store.claim(PUBLIC, owner, 50) == []


@pytest.mark.guarantee("QU7")
async def test_a_bad_response_is_quarantined_by_itself(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    await hear(store, *(arrival(Kind.KEYGEN, n) for n in (1, 2)))
    for n in (1, 2):
        (one,) = await store.claim_ceremonies(owner, first_core, 1)
        await store.answered([answer(lease_of(one), n)])
    sql(
        "UPDATE keygen_responses SET key_digests = ARRAY[NULL]::key_digest[] "
        "WHERE key_id = (SELECT min(key_id) FROM keygen_responses)"
    )
    assert len(await store.claim_responses(Kind.KEYGEN, owner, 5)) == 1
    assert [kept["source"] for kept in await store.quarantined()] == ["row"]
    assert await store.claim_responses(Kind.KEYGEN, owner, 5) == []


async def test_rejected_results_are_kept(store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.reject([RejectedResult(PUBLIC, claimed.id, "http://core", "wrong count", b"raw answer")])
    (story,) = await store.story(claimed.id)
    assert [(one["reason"], one["raw_bytes"]) for one in story.rejected] == [("wrong count", 10)]


# Retention ------------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("QU9")
@pytest.mark.parametrize("kind", DECRYPTIONS)
async def test_finished_decryptions_go_and_are_never_repeated(
    store: PostgresStore, owner: int, sql: Callable[[str], str], kind: Kind
) -> None:
    requests = [arrival(kind, n) for n in (1, 2, 3, 5, 8, 70_000, 2**62)]
    claimed = await leased(store, owner, *requests)
    leases = {one.id: lease_of(one) for one in claimed}
    one, two, three, five, eight, far, large = (leases[request.id] for request in requests)
    await store.answered([answer(lease) for lease in (one, two, three)])
    await store.finished([Finished(five, "others were faster"), Finished(far), Finished(large)])
    await store.failed([Failed(eight, "denied")])
    responses = {response.id: response for response in await store.claim_responses(kind, owner, 9)}
    assert len(responses) == 3
    await store.settle_responses(
        [
            ResponseOutcome(Lease(kind, one.id, owner), ResponseFate.COMPLETED),
            ResponseOutcome(Lease(kind, two.id, owner), ResponseFate.FAILED, "refused"),
        ]
    )
    # Nothing is old enough.
    assert await store.expire(finished_after=3600.0, failed_after=3600.0, limit=100) == 0
    # Finished ones go; failed ones, and one whose response is still to be sent, stay.
    assert await store.expire(finished_after=0.0, failed_after=3600.0, limit=100) == 4
    outcome = await hear(store, *requests, node="replay")
    assert outcome.stored == {kind: 0}
    assert outcome.duplicates == 7
    assert await store.claim(kind, owner, 9) == []
    # Failed ones after their own retention.
    assert await store.expire(finished_after=0.0, failed_after=0.0, limit=100) == 2
    table = f"{kind.value}_requests"
    assert sql(f"SELECT count(*) FROM {table}") == "1"
    assert (await hear(store, *requests, node="again")).stored == {kind: 0}
    assert (await hear(store, arrival(kind, 4), arrival(kind, 70_001), node="new")).stored == {kind: 2}
    (story,) = await store.story(one.id, kind)
    assert story.finished_long_ago


@pytest.mark.guarantee("QU9")
async def test_expiry_goes_in_batches_and_remembers_each_id_once(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 201)))
    await store.finished([Finished(lease_of(one)) for one in claimed])
    went = [await store.expire(finished_after=0.0, failed_after=0.0, limit=64) for _ in range(5)]
    assert went == [64, 64, 64, 8, 0]
    assert sql("SELECT kind, id_type, page, ids FROM kmsd_finished") == "public_decryption|1|0|{[1,201)}"


@pytest.mark.guarantee("QU9")
async def test_a_replay_during_the_expiry_repeats_nothing(stores: Opener, sql: Callable[[str], str]) -> None:
    gc, listener = await stores("gc"), await stores("listener")
    owner = await gc.enrol("gc", [])
    requests = [arrival(PUBLIC, n) for n in range(1, 301)]
    claimed = await leased(gc, owner, *requests)
    await gc.finished([Finished(lease_of(one)) for one in claimed])
    stored: list[int] = []

    async def replay() -> None:
        for number in range(12):
            outcome = await hear(listener, *requests, node=f"replay-{number}")
            stored.append(outcome.stored[PUBLIC])

    async def expire() -> None:
        while await gc.expire(finished_after=0.0, failed_after=0.0, limit=17):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay)
        nursery.start_soon(expire)
    assert sum(stored) == 0
    assert sql("SELECT count(*) FROM public_decryption_requests") == "0"


# Counts ---------------------------------------------------------------------------------------------------------------


async def test_counts_and_lists(store: PostgresStore, owner: int) -> None:
    claimed = await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 6)))
    await hear(store, arrival(Kind.CRSGEN, 1), needs_confirmation=True)
    await store.answered([answer(lease_of(claimed[0]))])
    await store.failed([Failed(lease_of(claimed[1]), "denied")])
    await store.try_again([TryAgain(lease_of(claimed[2]), 5.0, "later")])
    backlog = await store.backlog()
    counts = {(c.kind, c.is_response, c.status): c.rows for c in backlog.counts if c.rows}
    assert counts == {
        (PUBLIC, False, "pending"): 1,
        (PUBLIC, False, "under_process"): 2,
        (PUBLIC, False, "failed"): 1,
        (PUBLIC, True, "pending"): 1,
        (Kind.CRSGEN, False, "pending"): 1,
    }
    assert backlog.unconfirmed == 1
    assert all(c.oldest_age > 1_000_000 for c in backlog.counts if c.rows and not c.is_response)
    assert await store.open_requests() == {(PUBLIC, False): 3, (PUBLIC, True): 1, (Kind.CRSGEN, False): 1}
    listed = await store.listed(["pending", "failed"], changed_after=0.0, limit=10)
    assert {(one.kind, one.is_response, one.status) for one in listed} == {
        (PUBLIC, True, "pending"),
        (PUBLIC, False, "failed"),
        (PUBLIC, False, "pending"),
        (Kind.CRSGEN, False, "pending"),
    }
    assert len(await store.listed(["pending", "failed"], changed_after=0.0, limit=2)) == 2
    assert await store.listed(["completed"], changed_after=4_000_000_000.0, limit=10) == []
