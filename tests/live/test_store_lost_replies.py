"""A commit whose reply is lost: the verb leaves open whether it happened, and repeating it does nothing twice."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from lossy_postgres import LossyPostgres
from store_world import Unretrieved, answer, arrival, block, event_of, hear, lease_of, leased, request_id

from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import (
    DependencyDown,
    Failed,
    Finished,
    JournalEntry,
    Lease,
    RangeRecord,
    ResponseFate,
    ResponseOutcome,
    Sent,
    TryAgain,
    TxState,
)
from kmsd.store.postgres import PostgresStore, open_store

PUBLIC = Kind.PUBLIC_DECRYPTION
ONE = request_id(PUBLIC, 1)


@pytest.fixture
async def lossy(asyncio_loop: Unretrieved, database_url: str) -> AsyncIterator[LossyPostgres]:
    """The way to the test's database."""
    async with LossyPostgres(database_url).serving() as way:
        yield way


@pytest.fixture
async def far(lossy: LossyPostgres) -> AsyncIterator[PostgresStore]:
    """A store on that way."""
    async with open_store(lossy.url, instance_name="far", pool_size=1) as store:
        yield store


async def lost(lossy: LossyPostgres, tag: bytes, verb: Callable[[], Awaitable[object]]) -> None:
    """The verb's last reply is lost: that is a dependency that is down, and no more is said."""
    lossy.lose_next(tag)
    before = lossy.lost
    with pytest.raises(DependencyDown, match="database"):
        await verb()
    assert lossy.lost == before + 1


async def status_of(store: PostgresStore) -> tuple[str, str]:
    """Status of the request and of its response."""
    (story,) = await store.story(ONE)
    assert story.request is not None
    return story.request["status"], story.response["status"] if story.response else "-"


@pytest.mark.guarantee("EV2")
async def test_a_range_is_stored_once(lossy: LossyPostgres, far: PostgresStore) -> None:
    owner = await far.enrol("far", [])
    await hear(far)
    cursor = await far.cursor("main", Stream.DECRYPTION)
    record = RangeRecord(
        "main", Stream.DECRYPTION, cursor, block(200), [arrival(PUBLIC, 1)], owner=owner, hand_over={PUBLIC: 1}
    )
    await lost(lossy, b"COMMIT", lambda: far.record_range(record))
    assert await far.cursor("main", Stream.DECRYPTION) == block(200)
    assert not (await far.record_range(record)).committed
    # It was handed over to this very daemon, which does not know: it finds out by asking what it holds.
    assert await far.leased(PUBLIC, owner) == [ONE]
    assert await far.claim(PUBLIC, owner, 9) == []


@pytest.mark.guarantee("QU1")
async def test_a_claim_is_found_again(lossy: LossyPostgres, far: PostgresStore) -> None:
    owner = await far.enrol("far", [])
    await hear(far, arrival(PUBLIC, 1))
    await lost(lossy, b"UPDATE 1", lambda: far.claim(PUBLIC, owner, 9))
    assert await far.claim(PUBLIC, owner, 9) == []
    assert await far.leased(PUBLIC, owner) == [ONE]


@pytest.mark.guarantee("QU6")
async def test_an_answer_is_stored_once(lossy: LossyPostgres, far: PostgresStore) -> None:
    owner = await far.enrol("far", [])
    claimed, other = await leased(far, owner, arrival(PUBLIC, 1), arrival(PUBLIC, 2))
    assert claimed.event == event_of(PUBLIC, 1)
    lease = lease_of(claimed)
    await lost(lossy, b"UPDATE 1", lambda: far.sent([Sent(lease, "http://core")]))
    assert await far.sent([Sent(lease, "http://core")]) == [True]
    await far.answered([answer(lease_of(other))])  # now the connection knows the types
    await lost(lossy, b"SELECT 1\x00", lambda: far.answered([answer(lease)]))
    assert await status_of(far) == ("completed", "pending")
    (response,) = [one for one in await far.claim_responses(PUBLIC, owner, 9) if one.id == ONE]
    assert await far.answered([answer(lease, signature=b"\x00" * 65)]) == [True]
    assert await status_of(far) == ("completed", "under_process"), "the response is on its way and stays there"
    (again,) = await far.load_responses([(PUBLIC, ONE)])
    assert again.fields == response.fields


@pytest.mark.guarantee("QU2")
async def test_ends_are_told_once(lossy: LossyPostgres, far: PostgresStore) -> None:
    owner = await far.enrol("far", [])
    (claimed,) = await leased(far, owner, arrival(PUBLIC, 1))
    lease = lease_of(claimed)
    await lost(lossy, b"UPDATE 1", lambda: far.try_again([TryAgain(lease, 0.0, "busy", counted=True)]))
    assert await far.try_again([TryAgain(lease, 0.0, "busy", counted=True)]) == [False]
    (again,) = await far.claim(PUBLIC, owner, 1)
    assert again.error_counter == 1
    await lost(lossy, b"UPDATE 1", lambda: far.failed([Failed(lease, "denied")]))
    assert await far.failed([Failed(lease, "denied")]) == [False]
    assert await status_of(far) == ("failed", "-")
    await lost(lossy, b"UPDATE 1", lambda: far.finished([Finished(lease, "settled")]))
    assert await far.finished([Finished(lease, "settled")]) == [True]
    assert await status_of(far) == ("completed", "-")


@pytest.mark.guarantee("TX1")
async def test_the_journal_tells_what_was_signed(lossy: LossyPostgres, far: PostgresStore) -> None:
    owner = await far.enrol("far", [])
    (claimed,) = await leased(far, owner, arrival(PUBLIC, 1))
    await far.answered([answer(lease_of(claimed))])
    await far.claim_responses(PUBLIC, owner, 1)
    entry = JournalEntry(0, 0, PUBLIC, ONE, b"c" * 32, b"raw", b"h" * 32, 1, 1, 1, signed_at=1.0)
    async with far.open_lane(1, b"\x11" * 20, owner) as lane:
        await lost(lossy, b"INSERT 0 1", lambda: lane.append([entry]))
    mined = JournalEntry(0, 0, PUBLIC, ONE, b"c" * 32, b"raw", b"h" * 32, 1, 1, 1, TxState.MINED, 1.0, 7, b"b" * 32, 1)
    outcome = ResponseOutcome(Lease(PUBLIC, ONE, owner), ResponseFate.COMPLETED, tx_hash=b"h" * 32)
    async with far.open_lane(1, b"\x11" * 20, owner) as lane:
        assert await lane.entries() == [entry]
        assert await lane.highest_nonce() == 0
        await lost(lossy, b"COMMIT", lambda: lane.settle([mined], [outcome]))
    async with far.open_lane(1, b"\x11" * 20, owner) as lane:
        assert await lane.entries() == [mined]
        assert await lane.settle([mined], [outcome]) == [False]
    assert await status_of(far) == ("completed", "completed")
