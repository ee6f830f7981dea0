"""Ranges with their cursor in one transaction, and what becomes of a request that is heard again (EV1, EV5 to EV7)."""

from collections.abc import Callable

import asyncpg
import attrs
import pytest
import trio
from store_world import Opener, answer, arrival, block, event_of, hear, lease_of, leased, log_of, request_id

from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, DECRYPTIONS, OPERATIONS
from kmsd.ports import (
    BlockRef,
    ChainFact,
    Failed,
    Finished,
    KeyAllowance,
    Lease,
    QuarantinedLog,
    RangeRecord,
    Rewind,
    Sent,
    StoredRef,
    TryAgain,
)
from kmsd.store.postgres import PostgresStore
from kmsd.wire.v0_11 import events

PUBLIC = Kind.PUBLIC_DECRYPTION
DECRYPTION = Stream.DECRYPTION


@pytest.mark.guarantee("EV1")
async def test_rows_and_cursor_commit_together(store: PostgresStore, sql: Callable[[str], str]) -> None:
    good, end = arrival(PUBLIC, 1), block(200)
    # An index that no column holds: the transaction fails after the requests were inserted.
    broken = QuarantinedLog("main", log_of(good)._replace(log_index=2**70), "bad")
    with pytest.raises(asyncpg.DataError):
        await store.record_range(RangeRecord("main", DECRYPTION, None, end, [good], quarantined=[broken]))
    assert await store.cursor("main", DECRYPTION) is None
    assert sql("SELECT count(*) FROM public_decryption_requests") == "0"

    outcome = await store.record_range(RangeRecord("main", DECRYPTION, None, end, [good]))
    assert outcome.committed
    assert outcome.stored == {PUBLIC: 1}
    assert await store.cursor("main", DECRYPTION) == end
    assert sql("SELECT count(*) FROM public_decryption_requests") == "1"


@pytest.mark.guarantee("EV1")
async def test_a_moved_cursor_writes_nothing(stores: Opener, sql: Callable[[str], str]) -> None:
    one, two = await stores("one"), await stores("two")
    first = block(100)
    assert (await one.record_range(RangeRecord("main", DECRYPTION, None, first))).committed
    for expected in (None, block(99), block(100, "other history")):
        record = RangeRecord("main", DECRYPTION, expected, block(110), [arrival(PUBLIC, 1)])
        assert not (await two.record_range(record)).committed
    assert sql("SELECT count(*) FROM public_decryption_requests") == "0"
    assert await one.cursor("main", DECRYPTION) == first


@pytest.mark.guarantee("EV1")
async def test_two_daemons_race_for_one_range(stores: Opener, sql: Callable[[str], str]) -> None:
    daemons = [await stores(f"daemon-{n}") for n in range(4)]
    await hear(daemons[0], stream=DECRYPTION)
    start = await daemons[0].cursor("main", DECRYPTION)
    record = RangeRecord("main", DECRYPTION, start, block(300), [arrival(PUBLIC, n) for n in range(1, 50)])
    committed: list[bool] = []

    async def race(daemon: PostgresStore) -> None:
        committed.append((await daemon.record_range(record)).committed)

    async with trio.open_nursery() as nursery:
        for daemon in daemons:
            nursery.start_soon(race, daemon)
    assert sorted(committed) == [False, False, False, True]
    assert sql("SELECT count(*) FROM public_decryption_requests") == "49"


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_kind_comes_back_as_it_was_heard(store: PostgresStore, owner: int, kind: Kind) -> None:
    heard = arrival(kind, 1 if kind is Kind.PRSS_INIT else 7)
    assert (await hear(store, heard)).stored[kind] == 1
    if kind in DECRYPTIONS:
        (claimed,) = await store.claim(kind, owner, 5)
    else:
        (claimed,) = await store.claim_ceremonies(owner, lambda *_: "core", 5)
    assert claimed.event == heard.event
    assert claimed.id == (1 if kind is Kind.PRSS_INIT else request_id(kind, 7))
    assert (claimed.tx_hash, claimed.block_number, claimed.block_hash, claimed.log_index) == (
        heard.tx_hash,
        heard.block_number,
        heard.block_hash,
        heard.log_index,
    )
    assert (claimed.attempts, claimed.error_counter, claimed.already_sent, claimed.lease) == (1, 0, False, owner)
    assert claimed.created_at == heard.created_at
    assert claimed.reporting_node == "main"
    assert 0 <= claimed.budget_age < 60


async def test_hand_over_leases_the_first_new_rows(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(PUBLIC, 1))
    outcome = await hear(
        store,
        *(arrival(PUBLIC, n) for n in range(1, 8)),
        arrival(Kind.USER_DECRYPTION, 1, block(107)),
        owner=owner,
        hand_over={PUBLIC: 3},
    )
    assert outcome.stored == {PUBLIC: 6, Kind.USER_DECRYPTION: 1}
    assert outcome.duplicates == 1
    assert [claimed.id for claimed in outcome.leased] == [request_id(PUBLIC, n) for n in (2, 3, 4)]
    assert outcome.leased[0].event == event_of(PUBLIC, 2)
    rest = await store.claim(PUBLIC, owner, 50)
    assert {claimed.id for claimed in rest} == {request_id(PUBLIC, n) for n in (1, 5, 6, 7)}
    assert all(await store.finished([Finished(lease_of(claimed)) for claimed in outcome.leased]))


@pytest.mark.guarantee("EV4")
@pytest.mark.guarantee("EV7")
async def test_what_other_nodes_repeat_is_stored_once(store: PostgresStore, sql: Callable[[str], str]) -> None:
    requests = [arrival(PUBLIC, n) for n in range(1, 20)]
    # The first node omits every third one.
    await hear(store, *(one for n, one in enumerate(requests) if n % 3), node="a")
    outcome = await hear(store, *requests, node="b")
    assert outcome.stored == {PUBLIC: 7}
    assert outcome.duplicates == 12
    assert (await hear(store, *requests, node="c")).duplicates == 19
    assert sql("SELECT count(*) FROM public_decryption_requests") == "19"


@pytest.mark.guarantee("EV6")
async def test_undecodable_logs_are_kept_raw_once(store: PostgresStore) -> None:
    log = log_of(arrival(PUBLIC, 1), data=b"\x01\x02")
    for node in ("a", "b"):
        await hear(store, stream=DECRYPTION, node=node, quarantined=[QuarantinedLog(node, log, "too short")])
    (kept,) = await store.quarantined()
    assert kept["topics"] == ["0x" + topic.hex() for topic in log.topics]
    assert kept["data"] == "0x0102"
    assert (kept["source"], kept["reason"], kept["node"]) == ("log", "too short", "a")
    assert (await store.backlog()).quarantined == 1


async def test_cursors_of_a_stream(store: PostgresStore, sql: Callable[[str], str]) -> None:
    assert await store.lowest_cursor(DECRYPTION) is None
    sql("UPDATE last_block_polled SET block_number = 77 WHERE event_type = 'UserDecryptionRequest'")
    sql("UPDATE last_block_polled SET block_number = 99 WHERE event_type = 'PublicDecryptionRequest'")
    sql("UPDATE last_block_polled SET block_number = 5 WHERE event_type = 'CrsgenRequest'")
    assert await store.lowest_cursor(DECRYPTION) == BlockRef(77, b"")
    await store.record_range(RangeRecord("a", DECRYPTION, None, block(120)))
    await store.record_range(RangeRecord("b", DECRYPTION, None, block(110)))
    assert await store.lowest_cursor(DECRYPTION) == block(110)
    assert await store.lowest_cursor(Stream.KEY_MANAGEMENT) == BlockRef(5, b"")

    await store.publish_floor(DECRYPTION, ["a", "b", "without a cursor"])
    written = "SELECT event_type, block_number FROM last_block_polled WHERE block_number IS NOT NULL ORDER BY 1"
    assert sql(written).split() == ["PublicDecryptionRequest|110", "UserDecryptionRequest|110", "CrsgenRequest|5"]
    await store.publish_floor(DECRYPTION, ["a"])
    assert "PublicDecryptionRequest|120" in sql(written)


async def test_range_ends_are_bounded(store: PostgresStore) -> None:
    cursor = None
    for number in range(1, 261):
        end = block(number)
        await store.record_range(RangeRecord("main", DECRYPTION, cursor, end))
        cursor = end
    ends = await store.range_ends("main", DECRYPTION)
    assert [end.number for end in ends] == list(range(260, 4, -1))
    assert ends[0] == block(260)


# Heard again with another content, or elsewhere -----------------------------------------------------------------------


@pytest.mark.guarantee("EV5")
@pytest.mark.parametrize("state", ["pending", "failed"])
async def test_an_unsent_request_is_replaced(store: PostgresStore, owner: int, state: str) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    if state == "failed":
        await store.failed([Failed(lease_of(claimed), "denied", counted=True)])
    else:
        await store.try_again([TryAgain(lease_of(claimed), 600.0, "later", counted=True, refusal="NOT_FOUND")])
    other = arrival(PUBLIC, 1, block(102, "fork"), salt="other")
    outcome = await hear(store, other)
    assert (outcome.replaced, outcome.stored, outcome.conflicts) == (1, {PUBLIC: 0}, 0)
    (again,) = await store.claim(PUBLIC, owner, 1)
    assert again.event == other.event
    assert (again.block_hash, again.tx_hash) == (other.block_hash, other.tx_hash)
    assert (again.attempts, again.error_counter, again.refusal) == (1, 0, None)
    (old,) = await store.withdrawn()
    assert "another request" in old["reason"]


@pytest.mark.guarantee("EV5")
@pytest.mark.parametrize("state", ["sent", "completed", "sent and pending"])
async def test_a_sent_request_is_not_replaced(store: PostgresStore, owner: int, state: str) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    lease = lease_of(claimed)
    if state == "completed":
        await store.answered([answer(lease)])
    else:
        await store.sent([Sent(lease, "http://core")])
    if state == "sent and pending":
        await store.try_again([TryAgain(lease, 0.0, "not ready")])
    other = arrival(PUBLIC, 1, block(102, "fork"), salt="other")
    outcome = await hear(store, other)
    assert (outcome.replaced, outcome.conflicts) == (0, 1)
    (kept,) = await store.quarantined()
    assert (kept["source"], kept["block_hash"]) == ("conflict", "0x" + other.block_hash.hex())
    (story,) = await store.story(claimed.id)
    assert story.request is not None
    assert story.request["content_hash"] == "0x" + arrival(PUBLIC, 1).content_hash.hex()
    # Hearing it again adds no second entry.
    await hear(store, other, node="b")
    assert len(await store.quarantined()) == 1


@pytest.mark.guarantee("EV5")
async def test_a_task_on_the_old_meaning_never_answers_the_new_one(store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    other = arrival(PUBLIC, 1, block(102, "fork"), salt="other")
    assert (await hear(store, other)).replaced == 1
    # The old task still runs: the new meaning is not handed out, not even to the same daemon.
    assert await store.claim(PUBLIC, owner, 5) == []
    # It gives up: now the new one is due.
    assert await store.try_again([TryAgain(lease_of(claimed), 5.0, "busy")]) == [False]
    (again,) = await store.claim(PUBLIC, owner, 5)
    assert again.event == other.event
    assert await store.answered([answer(lease_of(again))]) == [True]


@pytest.mark.guarantee("EV5")
@pytest.mark.parametrize("last_word", ["sent", "answered"])
async def test_the_core_has_the_old_meaning(store: PostgresStore, owner: int, last_word: str) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    await hear(store, arrival(PUBLIC, 1, block(102, "fork"), salt="other"))
    if last_word == "sent":
        assert await store.sent([Sent(lease_of(claimed), "http://core")]) == [False]
    assert await store.answered([answer(lease_of(claimed))]) == [False]
    (story,) = await store.story(claimed.id)
    assert story.request is not None
    assert story.request["status"] == "failed"
    assert "another request under this id" in story.request["last_error"]
    assert story.response is None


@pytest.mark.guarantee("EV5")
async def test_a_dead_owner_no_longer_bars_the_new_meaning(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    await hear(store, arrival(PUBLIC, 1, block(102, "fork"), salt="other"))
    await store.leave(owner)
    newer = await store.enrol("kmsd", ["worker"])
    (again,) = await store.claim(PUBLIC, newer, 5)
    # The late answer is about what the id meant before.
    assert await store.answered([answer(lease_of(claimed))]) == [False]
    assert await store.answered([answer(lease_of(again))]) == [True]


async def test_the_same_request_elsewhere_is_relocated_by_its_reporter(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(PUBLIC, 1), node="a")
    moved = arrival(PUBLIC, 1, block(103, "fork"))
    await hear(store, moved, node="b")
    assert (await store.stored_after(DECRYPTION, 0))[0].block_hash == block(101).hash
    await hear(store, moved, node="a")
    assert (await store.stored_after(DECRYPTION, 0))[0].block_hash == moved.block_hash


# Reorganisations ------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("EV5")
async def test_orphans_are_withdrawn_or_marked(store: PostgresStore, owner: int) -> None:
    requests = [arrival(PUBLIC, n) for n in range(1, 6)]
    claimed = {one.id: one for one in await leased(store, owner, *requests)}
    sent, failed, pending, completed, in_hand = (claimed[request_id(PUBLIC, n)] for n in range(1, 6))
    await store.sent([Sent(lease_of(sent), "http://core")])
    await store.failed([Failed(lease_of(failed), "denied")])
    await store.try_again([TryAgain(lease_of(pending), 0.0, "again")])
    await store.answered([answer(lease_of(completed))])
    refs = await store.stored_after(DECRYPTION, 100)
    assert [(ref.block_number, ref.already_sent) for ref in refs] == [
        (101, True),
        (102, False),
        (103, False),
        (104, True),
        (105, False),
    ]
    cursor = await store.cursor("main", DECRYPTION)
    assert cursor == block(105)
    assert await store.rewind(Rewind("main", DECRYPTION, block(105), block(100), refs, "fork at 100"))
    assert await store.cursor("main", DECRYPTION) == block(100)
    assert await store.range_ends("main", DECRYPTION) == [block(100)]
    assert {ref.id for ref in await store.stored_after(DECRYPTION, 0)} == {sent.id, completed.id}
    gone = await store.withdrawn()
    assert [entry["block_number"] for entry in gone] == [102, 103, 105]
    assert {entry["reason"] for entry in gone} == {"fork at 100"}
    (story,) = await store.story(sent.id)
    assert story.request is not None
    assert story.request["orphaned_at"] is not None
    # The sent one appears in the new history: the mark goes, the place is the new one.
    await hear(store, arrival(PUBLIC, 1, block(104, "fork")))
    (story,) = await store.story(sent.id)
    assert story.request is not None
    assert (story.request["orphaned_at"], story.request["block_number"]) == (None, 104)
    # The one in hand ended: nothing is stored for it.
    assert await store.answered([answer(lease_of(in_hand))]) == [False]


@pytest.mark.guarantee("EV5")
async def test_a_withdrawn_id_with_a_new_meaning_waits_for_its_old_task(store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    refs = await store.stored_after(DECRYPTION, 0)
    await store.rewind(Rewind("main", DECRYPTION, block(101), block(100), refs, "fork"))
    other = arrival(PUBLIC, 1, block(101, "fork"), salt="other")
    outcome = await hear(store, other, owner=owner, hand_over={PUBLIC: 5})
    assert outcome.stored == {PUBLIC: 1}
    assert outcome.leased == []
    assert await store.claim(PUBLIC, owner, 5) == []
    assert await store.failed([Failed(lease_of(claimed), "gone")]) == [False]
    (again,) = await store.claim(PUBLIC, owner, 5)
    assert again.event == other.event


@pytest.mark.guarantee("EV5")
async def test_a_withdrawn_id_whose_task_ended_is_due_at_once(store: PostgresStore, owner: int) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    refs = await store.stored_after(DECRYPTION, 0)
    await store.rewind(Rewind("main", DECRYPTION, block(101), block(100), refs, "fork"))
    await store.failed([Failed(lease_of(claimed), "gone")])
    outcome = await hear(
        store, arrival(PUBLIC, 1, block(101, "fork"), salt="other"), owner=owner, hand_over={PUBLIC: 5}
    )
    assert [one.id for one in outcome.leased] == [claimed.id]
    # A very late answer about the old meaning, from the owner that has the new one by now, is not told apart from a
    # good one by the lease; but the old task has said its last word.
    assert await store.answered([answer(lease_of(outcome.leased[0]))]) == [True]


@pytest.mark.guarantee("EV5")
async def test_a_rewind_from_a_moved_cursor_does_nothing(store: PostgresStore) -> None:
    await hear(store, arrival(PUBLIC, 1))
    refs = await store.stored_after(DECRYPTION, 0)
    assert not await store.rewind(Rewind("main", DECRYPTION, block(100), block(99), refs, "fork"))
    assert len(await store.stored_after(DECRYPTION, 0)) == 1
    # A row that is elsewhere by now is left alone.
    stale = [StoredRef(PUBLIC, refs[0].id, 101, block(101, "fork").hash, False)]
    assert await store.rewind(Rewind("main", DECRYPTION, block(101), block(99), stale, "fork"))
    assert len(await store.stored_after(DECRYPTION, 0)) == 1


# PRSS, reshare --------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("EV7")
async def test_prss_inits_are_numbered_by_transaction(store: PostgresStore, owner: int) -> None:
    first, second = arrival(Kind.PRSS_INIT, 1), arrival(Kind.PRSS_INIT, 2)
    assert (await hear(store, first, first)).stored == {Kind.PRSS_INIT: 1}
    assert (await hear(store, first, node="b")).stored == {Kind.PRSS_INIT: 0}
    assert (await hear(store, second, first)).stored == {Kind.PRSS_INIT: 1}
    rows = await store.stored_after(Stream.KEY_MANAGEMENT, 0)
    assert [(row.id, row.block_number) for row in rows] == [(1, 101), (2, 102)]


async def test_a_second_reshare_of_a_key_is_another_request(store: PostgresStore) -> None:
    assert (await hear(store, arrival(Kind.KEY_RESHARE, 1), arrival(Kind.KEY_RESHARE, 2))).stored == {
        Kind.KEY_RESHARE: 2
    }


# Facts ----------------------------------------------------------------------------------------------------------------


def _decryption_fact(counter: int, result: bytes) -> ChainFact:
    id_ = request_id(PUBLIC, counter)
    event = events.PublicDecryptionResponse(id_, result, (b"s" * 65,), b"")
    return ChainFact("PublicDecryptionResponse", id_, event, 120, block(120).hash, counter)


async def test_a_diverging_decryption_is_found_whichever_comes_first(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    claimed = {one.id: lease_of(one) for one in await leased(store, owner, *(arrival(PUBLIC, n) for n in range(1, 5)))}
    leases = [claimed[request_id(PUBLIC, n)] for n in range(1, 5)]
    results = [answer(lease, n).fields["decrypted_result"] for n, lease in enumerate(leases, 1)]
    await store.answered([answer(leases[0], 1), answer(leases[1], 2)])
    facts = [_decryption_fact(n, result) for n, result in enumerate(results, 1)]
    facts[1], facts[3] = _decryption_fact(2, b"other"), _decryption_fact(4, b"another")
    await hear(store, stream=DECRYPTION, facts=facts)
    assert [one["theirs"] for one in await store.divergences()] == ["0x" + b"other".hex()]
    await store.answered([answer(leases[2], 3), answer(leases[3], 4)])
    assert {one["theirs"] for one in await store.divergences()} == {"0x" + b"other".hex(), "0x" + b"another".hex()}
    # What was compared is not kept.
    assert sql("SELECT count(*) FROM kmsd_chain_facts") == "0"
    (story,) = await store.story(request_id(PUBLIC, 4))
    assert story.divergence is not None
    assert story.divergence["ours"] == "0x" + results[3].hex()


async def test_an_activation_makes_a_key_active(store: PostgresStore, owner: int) -> None:
    await hear(store, arrival(Kind.KEYGEN, 5))
    key = request_id(Kind.KEYGEN, 5)
    assert await store.key_allowance(key) is KeyAllowance.NOTHING
    (claimed,) = await store.claim_ceremonies(owner, lambda *_: "core", 5)
    await store.answered([answer(lease_of(claimed), 5)])
    assert await store.key_allowance(key) is KeyAllowance.NOTHING
    ours = answer(Lease(Kind.KEYGEN, key, owner), 5).fields["key_digests"]
    event = events.ActivateKey(key, ("https://one", ""), tuple(reversed(ours)))
    fact = ChainFact("ActivateKey", key, event, 130, block(130).hash, 0)
    await hear(store, stream=Stream.KEY_MANAGEMENT, facts=[fact])
    assert await store.key_allowance(key) is KeyAllowance.ALL
    assert await store.divergences() == []
    (registered,) = await store.key_registry()
    assert (registered["state"], registered["activated_in_block"]) == ("active", 130)
    assert registered["storage_urls"] == ["https://one", ""]
    # Another digest than ours.
    wrong = events.ActivateKey(key, (), (ours[0], ours[1]._replace(digest=b"\x09" * 32)))
    await hear(store, stream=Stream.KEY_MANAGEMENT, node="b", facts=[fact, attrs.evolve(fact, event=wrong)])
    assert [one["kind"] for one in await store.divergences()] == ["keygen"]


def test_streams_hold_every_kind() -> None:
    assert {kind for kinds in BY_STREAM.values() for kind in kinds} == set(OPERATIONS)
