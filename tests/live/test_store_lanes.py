"""The journal of a wallet and its one writer (TX1, TX4)."""

from collections.abc import Callable

import attrs
import pytest
import trio
from store_world import Opener, answer, arrival, digest, lease_of, leased

from kmsd.operations.kinds import Kind
from kmsd.ports import DependencyDown, JournalEntry, LaneLost, Lease, ResponseFate, ResponseOutcome, TxState
from kmsd.store.lanes import lock_key
from kmsd.store.postgres import PostgresStore

CHAIN = 54321
WALLET = b"\xaa" * 20
PUBLIC = Kind.PUBLIC_DECRYPTION


def entry(nonce: int, attempt: int = 0, **more: object) -> JournalEntry:
    """A signed transaction."""
    values = {
        "nonce": nonce,
        "attempt": attempt,
        "kind": PUBLIC,
        "id": (1 << 248) + nonce,
        "calldata_hash": digest("calldata", nonce),
        "raw": digest("raw", nonce, attempt) * 4,
        "tx_hash": digest("hash", nonce, attempt),
        "gas_limit": 1_000_000,
        "max_fee_per_gas": 2**100,
        "max_priority_fee_per_gas": 7,
        "signed_at": 1_700_000_000.25,
    }
    return JournalEntry(**(values | more))  # type: ignore[arg-type]


@pytest.mark.guarantee("TX1")
async def test_the_journal_gives_back_what_may_be_in_flight(store: PostgresStore, owner: int) -> None:
    filler = entry(3, kind=None, id=None)
    written = [entry(0), entry(1), entry(1, 1), entry(2), filler]
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        assert await lane.highest_nonce() is None
        await lane.append(written)
        assert list(await lane.entries()) == written
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        assert list(await lane.entries()) == written
        mined = attrs.evolve(written[1], state=TxState.MINED, block_number=9, block_hash=b"\x01" * 32, receipt_status=1)
        final = attrs.evolve(written[0], state=TxState.FINAL)
        dropped = attrs.evolve(written[2], state=TxState.DROPPED, error="its nonce was used")
        await lane.settle([mined, final, dropped])
        assert list(await lane.entries()) == [mined, written[3], filler]
        assert await lane.highest_nonce() == 3
    async with store.open_lane(CHAIN + 1, WALLET, owner) as lane:
        assert list(await lane.entries()) == []


@pytest.mark.guarantee("TX1")
async def test_entries_and_responses_settle_together(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.answered([answer(lease_of(claimed))])
    (response,) = await store.claim_responses(PUBLIC, owner, 1)
    lease = Lease(PUBLIC, response.id, owner)
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        await lane.append([entry(0, id=response.id)])
        sql("ALTER TABLE public_decryption_responses ADD CONSTRAINT no CHECK (status <> 'completed')")
        mined = attrs.evolve(entry(0, id=response.id), state=TxState.MINED, block_number=9)
        outcome = ResponseOutcome(lease, ResponseFate.COMPLETED, tx_hash=mined.tx_hash)
        with pytest.raises(Exception, match="no"):
            await lane.settle([mined], [outcome])
    sql("ALTER TABLE public_decryption_responses DROP CONSTRAINT no")
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        assert [one.state for one in await lane.entries()] == [TxState.SIGNED]
        assert await lane.settle([mined], [outcome]) == [True]
        assert await lane.settle([mined], [outcome]) == [False]
    (story,) = await store.story(response.id)
    assert [(one["nonce"], one["state"]) for one in story.transactions] == [(0, "mined")]
    assert story.response is not None
    assert story.response["tx_hash"] == "0x" + mined.tx_hash.hex()


async def test_one_attempt_is_journaled_once(store: PostgresStore, owner: int) -> None:
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        await lane.append([entry(0)])
        with pytest.raises(Exception, match="duplicate key"):
            await lane.append([entry(0, raw=b"another")])


@pytest.mark.guarantee("TX4")
async def test_the_second_daemon_waits_for_the_first(stores: Opener) -> None:
    one, two = await stores("one"), await stores("two")
    first, second = await one.enrol("one", []), await two.enrol("two", [])
    order: list[str] = []

    async def stand_by() -> None:
        async with two.open_lane(CHAIN, WALLET, second) as lane:
            order.append("two has it")
            assert [e.nonce for e in await lane.entries()] == [0]

    async with trio.open_nursery() as nursery, one.open_lane(CHAIN, WALLET, first) as lane:
        nursery.start_soon(stand_by)
        await trio.sleep(1.5)
        await lane.append([entry(0)])
        order.append("one gives it up")
    assert order == ["one gives it up", "two has it"]


@pytest.mark.guarantee("TX4")
async def test_a_writer_that_lost_its_lock_writes_nothing(stores: Opener, sql: Callable[[str], str]) -> None:
    one, two = await stores("one"), await stores("two")
    first, second = await one.enrol("one", []), await two.enrol("two", [])
    async with one.open_lane(CHAIN, WALLET, first) as old:
        await old.append([entry(0)])
        sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid <> 0")
        async with two.open_lane(CHAIN, WALLET, second) as new:
            with pytest.raises((LaneLost, DependencyDown)):
                await old.append([entry(1)])
            with pytest.raises(LaneLost):
                await old.settle([attrs.evolve(entry(0), state=TxState.FINAL)])
            with pytest.raises(LaneLost):
                await old.entries()
            assert [e.nonce for e in await new.entries()] == [0]
            await new.append([entry(1, raw=b"the new one's")])
    assert sql("SELECT count(*) FROM kmsd_transactions") == "2"


@pytest.mark.guarantee("TX4")
async def test_an_earlier_tenure_is_fenced_even_with_its_connection(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        await lane.append([entry(0)])
        sql("UPDATE kmsd_lanes SET epoch = epoch + 1")
        for write in (
            lambda: lane.append([entry(1)]),
            lambda: lane.settle([attrs.evolve(entry(0), state=TxState.FINAL)]),
            lane.highest_nonce,
        ):
            with pytest.raises(LaneLost):
                await write()
    assert sql("SELECT nonce, state FROM kmsd_transactions") == "0|signed"


async def test_finished_entries_go_with_their_requests(
    store: PostgresStore, owner: int, sql: Callable[[str], str]
) -> None:
    (claimed,) = await leased(store, owner, arrival(PUBLIC, 1))
    await store.answered([answer(lease_of(claimed))])
    await store.claim_responses(PUBLIC, owner, 1)
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        sent = entry(5, id=claimed.id)
        await lane.append([sent, entry(6, kind=None, id=None)])
        await lane.settle(
            [attrs.evolve(sent, state=TxState.FINAL)],
            [ResponseOutcome(Lease(PUBLIC, claimed.id, owner), ResponseFate.COMPLETED)],
        )
    assert sql("SELECT length(raw) FROM kmsd_transactions WHERE nonce = 5") == "0"
    assert await store.expire(finished_after=0.0, failed_after=3600.0, limit=10) == 1
    assert sql("SELECT nonce FROM kmsd_transactions") == "6"
    async with store.open_lane(CHAIN, WALLET, owner) as lane:
        assert await lane.highest_nonce() == 6


def test_the_lock_is_the_documented_one() -> None:
    assert lock_key(CHAIN, WALLET) != lock_key(CHAIN + 1, WALLET)
    assert -(2**63) <= lock_key(CHAIN, WALLET) < 2**63
