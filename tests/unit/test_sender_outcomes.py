"""The sender's answers to reverts and mistakes of the lane, in a simulated world."""

from collections.abc import Callable

import pytest
import trio
from sender_world import CHAIN_ID, DECRYPTION, PUBLIC_BASE, SIGNER, STRANGER, Row, World
from trio.testing import MockClock

from kmsd.chain.outcomes import CONFIRM_REFUSALS
from kmsd.operations.kinds import Kind
from kmsd.ports import TxState
from kmsd.wire.addresses import to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.signatures import address_of, recover, sign
from kmsd.wire.v0_11.events import PublicDecryptionRequest
from kmsd.wire.v0_11.structs import SnsMaterial
from kmsd.wire.v0_11.typed_data import public_decryption_digest

DOMAIN = Domain("Decryption", "1", CHAIN_ID, DECRYPTION)
PUBLIC = Kind.PUBLIC_DECRYPTION


def row_of(world: World, index: int):  # type: ignore[no-untyped-def]
    return world.store.rows[PUBLIC, PUBLIC_BASE + index]


@pytest.mark.guarantee("TX3")
async def test_already_responded_is_success_without_another_transaction(autojump_clock: MockClock) -> None:
    world = World()
    row = world.store.add(PUBLIC, PUBLIC_BASE)
    world.model.votes[PUBLIC_BASE, SIGNER] = 1
    async with world.running():
        await world.until(world.all_completed)
    assert not world.store.journal
    assert "already responded" in row.last_error


@pytest.mark.guarantee("TX3")
async def test_already_responded_by_a_mined_revert_is_success_checked_on_chain(autojump_clock: MockClock) -> None:
    world = World()
    world.store.add(PUBLIC, PUBLIC_BASE)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
        world.model.votes[PUBLIC_BASE, SIGNER] = 1
        world.chain.mine()
        await world.until(world.all_completed)
    assert [e.receipt_status for e in world.store.journal.values()] == [0]
    assert world.chain.calls["eth_call"] >= 1


@pytest.mark.guarantee("TX7")
async def test_not_requested_fails_with_the_error_by_name(autojump_clock: MockClock) -> None:
    world = World()
    world.model.requested = lambda row_id: row_id != PUBLIC_BASE + 1
    for i in range(3):
        world.store.add(PUBLIC, PUBLIC_BASE + i)
    async with world.running():
        await world.until(lambda: row_of(world, 1).status == "failed")
        await world.until(lambda: row_of(world, 2).status == row_of(world, 0).status == "completed")
    assert "DecryptionNotRequested" in row_of(world, 1).last_error
    world.check_votes(2)


async def test_not_requested_by_a_lagging_node_is_asked_again(autojump_clock: MockClock) -> None:
    world = World()
    world.model.requested = lambda row_id: trio.current_time() > 2.5
    world.store.add(PUBLIC, PUBLIC_BASE)
    async with world.running():
        await world.until(world.all_completed)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"signature": b"\x51" * 64}, "ECDSAInvalidSignatureLength"),
        ({"signature": STRANGER + b"\x11" * 45}, "NotKmsSigner"),
        ({"extra_data": "not bytes"}, "no call can carry"),
    ],
)
@pytest.mark.guarantee("TX6")
async def test_one_bad_payload_fails_its_own_row_and_pauses_nothing(
    fields: dict[str, object], name: str, autojump_clock: MockClock
) -> None:
    world = World()
    for i in range(9):
        world.store.add(PUBLIC, PUBLIC_BASE + i, **(fields if i == 4 else {}))
    async with world.running():
        await world.until(lambda: all(row.status in ("completed", "failed") for row in world.store.rows.values()))
        assert not world.health.alerts
    assert [row.status for row in world.store.rows.values()].count("failed") == 1
    assert name in row_of(world, 4).last_error
    world.check_votes(8)


def unregister(world: World) -> None:
    world.model.nodes.clear()


def refuse_our_signer(world: World) -> None:
    world.model.nodes[world.wallet.address] = STRANGER


@pytest.mark.guarantee("TX6")
@pytest.mark.parametrize("mistake", [unregister, refuse_our_signer])
@pytest.mark.parametrize("while_in_flight", [False, True])
async def test_a_mistake_of_the_lane_pauses_it_and_burns_nothing(
    mistake: Callable[[World], None], while_in_flight: bool, autojump_clock: MockClock
) -> None:
    world = World(kms_signer_address=SIGNER)
    for i in range(60):
        world.store.add(PUBLIC, PUBLIC_BASE + i)
    async with world.running():
        if while_in_flight:
            await world.until(lambda: len(world.chain.pending(world.wallet.address)) > 30)
        mistake(world)
        await world.until(lambda: any(alert.key == "sender lane paused" for alert in world.health.alerts))
        sent = len(world.store.journal)
        await trio.sleep(60)
        assert len(world.store.journal) == sent
        assert not any(row.status == "failed" for row in world.store.rows.values())
        world.model.nodes[world.wallet.address] = SIGNER
        resumed = trio.current_time()
        await world.until(lambda: not world.health.alerts)
        assert trio.current_time() - resumed < 25
        await world.until(world.all_completed)
    assert len(world.model.votes) == 60


@pytest.mark.guarantee("TX6")
async def test_three_strangers_in_a_row_pause_the_lane_before_the_queue_burns(autojump_clock: MockClock) -> None:
    world = World()
    for i in range(50):
        world.store.add(PUBLIC, PUBLIC_BASE + i, signer=STRANGER)
    async with world.running():
        await world.until(lambda: any(alert.key == "sender lane paused" for alert in world.health.alerts))
        await trio.sleep(100)
        assert [row.status for row in world.store.rows.values()].count("failed") == 2
        world.model.nodes[world.wallet.address] = STRANGER
        await world.until(lambda: [row.status for row in world.store.rows.values()].count("completed") == 48)


SIGNER_KEY = bytes(31) + b"\x08"


def asked(world: World, index: int, signed_result: bytes = b"\x01" * 32) -> Row:
    """A request in the store and our signer's real answer to it, signed over `signed_result`."""
    handle = index.to_bytes(32, "big")
    request = PublicDecryptionRequest(PUBLIC_BASE + index, (SnsMaterial(handle, 1, b"\x02" * 32, ()),), b"")
    digest = public_decryption_digest(DOMAIN, [handle], signed_result, b"")
    row = world.store.add(PUBLIC, PUBLIC_BASE + index, signature=sign(digest, SIGNER_KEY))
    world.store.requests[PUBLIC, PUBLIC_BASE + index] = request
    return row


@pytest.mark.guarantee("TX6")
async def test_signature_that_is_good_here_and_a_strangers_on_chain_fails_nothing_and_pauses_at_the_third(
    autojump_clock: MockClock,
) -> None:
    """The contract hashes something else than we do, its domain for instance: no payload is to blame."""
    signer = address_of(SIGNER_KEY)
    world = World(kms_signer_address=signer)
    world.model.nodes[world.wallet.address] = signer
    world.model.recover = lambda signature: STRANGER
    rows = [asked(world, i) for i in range(20)]
    async with world.running():
        await world.until(lambda: any(alert.key == "sender lane paused" for alert in world.health.alerts))
        (alert,) = world.health.alerts
        assert "EIP-712 domain" in alert.words
        await trio.sleep(100)
        assert not any(row.status == "failed" for row in rows)
        world.model.recover = lambda signature: signer
        await world.until(world.all_completed)


@pytest.mark.guarantee("TX6")
async def test_payload_that_differs_from_what_was_signed_is_told_by_its_address(autojump_clock: MockClock) -> None:
    signer = address_of(SIGNER_KEY)
    world = World()
    world.model.nodes[world.wallet.address] = signer
    world.model.recover = lambda signature: STRANGER if signature == spoilt.fields["signature"] else signer
    rows = [asked(world, i) for i in range(9)]
    spoilt = asked(world, 9, signed_result=b"\x04" * 32)
    async with world.running():
        await world.until(lambda: spoilt.status == "failed" and all(row.status == "completed" for row in rows))
        assert not world.health.alerts
    request = world.store.requests[PUBLIC, spoilt.id]
    handles = [material.ct_handle for material in request.sns_materials]
    found = recover(public_decryption_digest(DOMAIN, handles, b"\x01" * 32, b""), spoilt.fields["signature"])
    assert f"recovers to {to_checksum(found)} here" in str(spoilt.last_error)


@pytest.mark.guarantee("TX6")
async def test_bad_payloads_between_good_ones_pause_nothing(autojump_clock: MockClock) -> None:
    world = World()
    for i in range(60):
        world.store.add(PUBLIC, PUBLIC_BASE + i, signer=STRANGER if i % 6 == 3 else SIGNER)
    async with world.running():
        await world.until(lambda: all(row.status in ("completed", "failed") for row in world.store.rows.values()))
        assert not world.health.alerts
    assert [row.status for row in world.store.rows.values()].count("failed") == 10
    world.check_votes(50)


@pytest.mark.guarantee("TX6")
async def test_no_funds_pause_the_lane_until_there_are_some(autojump_clock: MockClock) -> None:
    world = World()
    world.chain.balances[world.wallet.address] = 10**12
    for i in range(20):
        world.store.add(PUBLIC, PUBLIC_BASE + i)
    async with world.running():
        await world.until(lambda: any("cannot pay" in alert.words for alert in world.health.alerts))
        await trio.sleep(60)
        assert not any(row.status == "failed" for row in world.store.rows.values())
        assert not world.model.votes
        world.chain.balances[world.wallet.address] = 10**20
        refilled = trio.current_time()
        await world.until(world.all_completed)
        assert trio.current_time() - refilled < 25
        await world.until(lambda: not world.health.alerts)
    world.check_votes(20)
    assert len(world.store.journal) == 20


async def test_low_funds_alert_comes_before_the_end(autojump_clock: MockClock) -> None:
    world = World()
    world.chain.balances[world.wallet.address] = 200_000_000 * 200_000 * 300
    async with world.running():
        for i in range(70):
            world.store.add(PUBLIC, PUBLIC_BASE + i)
        await world.until(lambda: any(alert.key == "wallet low on funds" for alert in world.health.alerts))
        world.chain.balances[world.wallet.address] = 10**20
        await world.until(lambda: not world.health.alerts)
        await world.until(world.all_completed)


async def test_out_of_gas_is_repeated_at_once_with_twice_the_limit(autojump_clock: MockClock) -> None:
    world = World()
    world.model.gas = lambda row_id, commit: 300_000 if commit else 100_000
    world.store.add(PUBLIC, PUBLIC_BASE)
    async with world.running():
        await world.until(world.all_completed)
    limits = [e.gas_limit for e in sorted(world.store.journal.values(), key=lambda e: e.nonce)]
    assert limits == [175_000, 350_000]
    assert row_of(world, 0).attempts == 1
    world.check_votes(1)


async def test_third_out_of_gas_in_a_row_counts_as_an_attempt(autojump_clock: MockClock) -> None:
    world = World()
    world.model.gas = lambda row_id, commit: 10**9 if commit else 100_000
    world.store.add(PUBLIC, PUBLIC_BASE)
    async with world.running():
        await world.until(lambda: row_of(world, 0).errors == 1)
        assert "out of gas" in row_of(world, 0).last_error
        assert len(world.store.journal) == 3
        world.model.gas = lambda row_id, commit: 100_000
        await world.until(world.all_completed)


@pytest.mark.guarantee("TX7")
async def test_unexplained_reverts_are_retried_until_the_budget_is_spent(autojump_clock: MockClock) -> None:
    world = World()
    world.store.add(PUBLIC, PUBLIC_BASE)
    world.model.silent_revert.add(PUBLIC_BASE)
    async with world.running():
        await world.until(lambda: row_of(world, 0).errors == 3)
        assert row_of(world, 0).status != "failed"
        world.store.budget_age = 1e9
        await world.until(lambda: row_of(world, 0).status == "failed")
    assert "time budget spent" in row_of(world, 0).last_error


async def test_ceremonies_are_never_given_up(autojump_clock: MockClock) -> None:
    world = World()
    row = world.store.add(Kind.KEYGEN, 5)
    world.model.silent_revert.add(5)
    world.store.budget_age = 1e9
    async with world.running():
        await world.until(lambda: row.errors == 4, timeout=1000)
        assert row.status != "failed"
        world.model.silent_revert.clear()
        await world.until(world.all_completed, timeout=1000)


@pytest.mark.guarantee("TX7")
async def test_reason_of_a_mined_revert_is_stored_with_journal_and_row(autojump_clock: MockClock) -> None:
    world = World()
    world.store.add(PUBLIC, PUBLIC_BASE)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
        world.model.requested = lambda row_id: False
        world.chain.mine()
        await world.until(lambda: row_of(world, 0).status == "failed")
    (entry,) = world.store.journal.values()
    assert entry.state is TxState.MINED
    assert "DecryptionNotRequested" in entry.error
    assert "DecryptionNotRequested" in row_of(world, 0).last_error
    errors = "kms_connector_tx_sender_gateway_tx_sent_errors"
    assert world.metrics.values[errors, "public_decryption_response"] == 1 + CONFIRM_REFUSALS
