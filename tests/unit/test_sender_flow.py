"""The sender in a simulated world: delivery, windows, replacements, reorganisations, faults, take-over."""

from collections.abc import Sequence

import pytest
import trio
from sender_world import KEY, PUBLIC_BASE, FixedOwnership, World
from trio.testing import MockClock

from kmsd.chain.fees import BUMP_PERCENT
from kmsd.chain.transactions import Transaction, assemble, decode, signing_digest
from kmsd.chain.wallet import LocalWallet
from kmsd.operations.kinds import Kind
from kmsd.operations.table import WITH_RESPONSE
from kmsd.ports import RpcCall, RpcError, TxState, WalletUnavailable
from kmsd.sandbox.node_double_pool import Pooled, RpcFailure, Rules


def waiting(world: World, count: int, kind: Kind = Kind.PUBLIC_DECRYPTION) -> None:
    """`count` responses wait at the start."""
    for i in range(count):
        world.store.add(kind, PUBLIC_BASE + i)


async def foreign_transaction(world: World, nonce: int, max_fee: int = 10**12) -> bytes:
    """Raw bytes that another program signs with our key."""
    payload = Transaction(world.chain.chain_id, nonce, 10**9, max_fee, 50_000, b"\x99" * 20, 0, b"").payload()
    return assemble(payload, (await LocalWallet(KEY).sign([signing_digest(payload)]))[0])


@pytest.mark.guarantee("TX1")
@pytest.mark.parametrize("rules", list(Rules))
async def test_every_waiting_response_lands_once(rules: Rules, autojump_clock: MockClock) -> None:
    world = World(rules)
    waiting(world, 300)
    committed_before_broadcast = []

    def check(call: RpcCall) -> None:
        if call.method == "eth_sendRawTransaction":
            tx_hash = decode(bytes.fromhex(call.params[0][2:])).hash
            committed_before_broadcast.append(any(e.tx_hash == tx_hash for e in world.store.journal.values()))

    world.nodes[0].on_call = check
    async with world.running():
        await world.until(world.all_completed)
    assert len(committed_before_broadcast) >= 300
    assert all(committed_before_broadcast)
    world.check_votes(300)
    world.check_one_calldata_per_nonce()
    assert world.chain.nonces[world.wallet.address] == 300


async def test_all_five_kinds(autojump_clock: MockClock) -> None:
    world = World()
    for kind in WITH_RESPONSE:
        world.store.add(kind, 77 + len(world.store.rows))
    async with world.running() as sender:
        await world.until(world.all_completed)
        assert sum(sender.in_flight.values()) == 0
    world.check_votes(5)
    assert world.metrics.values["kms_connector_tx_sender_gateway_tx_sent_counter", "keygen_response"] == 1


@pytest.mark.guarantee("TX2")
@pytest.mark.parametrize("rules", list(Rules))
async def test_window_starts_small_grows_and_is_never_exceeded(rules: Rules, autojump_clock: MockClock) -> None:
    world = World(rules, tx_window=256)
    waiting(world, 2000)
    largest = 0
    async with world.running() as sender:
        while not world.all_completed():
            await trio.sleep(0.05)
            if sender.tenure is not None:
                largest = max(largest, sender.tenure.state.unmined)
                assert sender.tenure.state.unmined <= sender.tenure.window.size <= 256
                assert len(sender.tenure.state.flights) <= 512
    assert largest == 256
    world.check_votes(2000)


@pytest.mark.guarantee("TX2")
async def test_dropped_mempool_is_noticed_and_offered_again(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 40)
    async with world.running(block_interval=None) as sender:
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 40)
        world.chain.drop_pool()
        world.chain.mine()
        assert not world.model.votes
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 40)
        world.chain.mine()
        await world.until(world.all_completed)
        assert sender.tenure is not None
    world.check_votes(40)
    assert len(world.store.journal) == 40, "the same bytes, not new ones"


@pytest.mark.guarantee("TX2")
async def test_dropped_mempool_of_a_large_window_is_offered_again_as_a_whole(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.chain.nonces.SMALLEST_WINDOW", 400)
    world = World()
    waiting(world, 400)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 400)
        world.chain.drop_pool()
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 400, timeout=12)


@pytest.mark.guarantee("TX2")
async def test_full_pool_halves_the_window_and_everything_lands(autojump_clock: MockClock) -> None:
    world = World()
    world.chain.pool.slots = 100
    waiting(world, 400)
    sizes = [0]
    async with world.running() as sender:
        while not world.all_completed():
            await trio.sleep(0.05)
            if sender.tenure is not None and sender.tenure.window.size != sizes[-1]:
                sizes.append(sender.tenure.window.size)
    assert sizes[:4] == [0, 64, 256, 128]
    world.check_votes(400)


@pytest.mark.guarantee("TX1")
@pytest.mark.parametrize("rules", list(Rules))
async def test_lost_replies_of_sends_lose_and_double_nothing(rules: Rules, autojump_clock: MockClock) -> None:
    world = World(rules)
    waiting(world, 100)
    world.nodes[0].lose_replies = True
    async with world.running():
        await world.until(lambda: len(world.model.votes) == 100)
        world.nodes[0].lose_replies = False
        await world.until(world.all_completed)
    world.check_votes(100)
    assert len(world.store.journal) == 100


async def test_dead_node_costs_nothing_where_another_answers(autojump_clock: MockClock) -> None:
    world = World(nodes=2)
    world.nodes[0].down = True
    waiting(world, 20)
    async with world.running():
        await world.until(world.all_completed)
    world.check_votes(20)


async def test_node_that_answers_garbage_is_passed_over(autojump_clock: MockClock) -> None:
    world = World(nodes=2)
    waiting(world, 20)

    def garbage(call: RpcCall) -> RpcError | None:
        return RpcError(-32603, "internal") if call.method != "eth_sendRawTransaction" else None

    world.nodes[0].on_call = garbage
    async with world.running():
        await world.until(world.all_completed)
    world.check_votes(20)


async def test_outage_of_all_nodes_fails_nothing(autojump_clock: MockClock) -> None:
    world = World(decryption_time_budget=30.0)
    waiting(world, 20)
    world.nodes[0].down = True
    async with world.running():
        await trio.sleep(300)
        world.nodes[0].down = False
        await world.until(world.all_completed)
    world.check_votes(20)


@pytest.mark.guarantee("TX1")
@pytest.mark.parametrize("forget", [True, False])
async def test_reorganisation_of_five_blocks(forget: bool, autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 100)
    async with world.running() as sender:
        await world.until(world.all_completed)
        world.chain.mine(2)
        await trio.sleep(6)
        world.chain.reorganise(5 + 6, forget=forget)
        assert len(world.model.votes) < 100
        await world.until(lambda: len(world.model.votes) == 100)
        for i in range(100, 120):
            world.store.add(Kind.PUBLIC_DECRYPTION, PUBLIC_BASE + i)
        await world.until(world.all_completed)
        world.chain.mine(100)
        await world.until(lambda: sender.tenure is not None and not sender.tenure.state.watched)
    world.check_votes(120)
    world.check_one_calldata_per_nonce()
    assert {entry.state for entry in world.store.journal.values()} == {TxState.FINAL}
    assert world.chain.nonces[world.wallet.address] == 120


@pytest.mark.guarantee("TX5")
async def test_base_fee_spike_replaces_the_head_of_the_line_by_at_least_ten_percent(autojump_clock: MockClock) -> None:
    world = World(tx_resubmit_after=10.0)
    waiting(world, 30)
    async with world.running(block_interval=None) as sender:
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 30)
        world.chain.base_fee *= 4
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.mine_every, 1.0)
            await world.until(world.all_completed)
            nursery.cancel_scope.cancel()
        assert sender.tenure is not None
    world.check_votes(30)
    world.check_one_calldata_per_nonce()
    for nonce in range(30):
        attempts = sorted((e for e in world.store.journal.values() if e.nonce == nonce), key=lambda e: e.attempt)
        assert len(attempts) == 2
        for name in ("max_fee_per_gas", "max_priority_fee_per_gas"):
            assert getattr(attempts[1], name) * 100 >= getattr(attempts[0], name) * (100 + BUMP_PERCENT)


@pytest.mark.guarantee("TX5")
async def test_fees_never_pass_the_cap(autojump_clock: MockClock) -> None:
    world = World(tx_resubmit_after=5.0, max_fee_per_gas=250_000_000)
    waiting(world, 10)
    async with world.running():
        world.chain.base_fee = 300_000_000
        await trio.sleep(20)
        assert any("max_fee_per_gas" in alert.words for alert in world.health.alerts)
        assert not world.store.journal
        world.chain.base_fee = 240_000_000
        await world.until(lambda: len(world.store.journal) == 10)
        world.chain.base_fee = 300_000_000
        await trio.sleep(60)
        assert all(entry.max_fee_per_gas <= 250_000_000 for entry in world.store.journal.values())
        world.chain.base_fee = 100_000_000
        await world.until(world.all_completed)
    world.check_votes(10)
    assert not world.health.alerts


@pytest.mark.guarantee("TX5")
async def test_chain_that_stands_still_drives_no_fees_up(autojump_clock: MockClock) -> None:
    world = World(tx_resubmit_after=10.0)
    waiting(world, 10)
    async with world.running(block_interval=None):
        await trio.sleep(200)
    assert {entry.attempt for entry in world.store.journal.values()} <= {0, 1}


@pytest.mark.guarantee("TX2")
async def test_node_that_hides_a_receipt_makes_no_second_transaction(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 1)
    world.nodes[0].hide_receipts = True
    async with world.running():
        await world.until(world.all_completed)
    assert len(world.store.journal) == 1
    world.check_votes(1)


async def test_node_that_runs_ahead_now_and_then_is_not_another_program(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 1)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
        for _ in range(4):
            world.nodes[0].ahead = 1
            await trio.sleep(3)
            world.nodes[0].ahead = 0
            await trio.sleep(3)
        world.chain.mine()
        await world.until(world.all_completed)
    assert not world.store.of(TxState.DROPPED)
    assert not world.health.alerts


@pytest.mark.guarantee("TX2")
async def test_another_program_with_the_same_wallet_is_noticed_and_survived(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 60)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 60)
        world.chain.drop_pool()
        for nonce in (0, 1, 2):
            world.chain.take(await foreign_transaction(world, nonce))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.mine_every, 1.0)
            await world.until(world.all_completed)
            nursery.cancel_scope.cancel()
    world.check_votes(60)
    world.check_one_calldata_per_nonce()
    assert any("another program" in alert.key for alert in world.health.alerts)
    dropped = world.store.of(TxState.DROPPED)
    assert sorted(e.nonce for e in dropped) == [0, 1, 2]


async def test_pending_transactions_of_another_program_at_start_are_kept_clear_of(autojump_clock: MockClock) -> None:
    world = World()
    for nonce in (0, 1, 2):
        world.chain.take(await foreign_transaction(world, nonce))
    waiting(world, 5)
    async with world.running():
        await world.until(world.all_completed)
    assert sorted(e.nonce for e in world.store.journal.values()) == [3, 4, 5, 6, 7]


@pytest.mark.guarantee("TX2")
async def test_hole_before_ours_is_filled(autojump_clock: MockClock) -> None:
    world = World(tx_resubmit_after=10.0)
    hashes = []
    for nonce in (0, 1, 2):
        hashes.append(world.chain.take(await foreign_transaction(world, nonce, max_fee=10)))
    waiting(world, 5)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 8)
        world.chain.drop_pool(hashes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.mine_every, 1.0)
            await world.until(world.all_completed)
            nursery.cancel_scope.cancel()
    world.check_votes(5)
    fillers = [e for e in world.store.journal.values() if e.kind is None]
    assert sorted(e.nonce for e in fillers) == [0, 1, 2]


@pytest.mark.guarantee("TX2")
async def test_nonce_refused_for_good_is_filled_and_its_response_waits_for_the_fill(autojump_clock: MockClock) -> None:
    world = World(nodes=2)
    waiting(world, 10)
    bad = PUBLIC_BASE + 4
    refusing = True

    def refuse(pooled: Pooled) -> RpcFailure | None:
        carries_bad = bad.to_bytes(32, "big") in pooled.signed.transaction.data
        refused.extend([pooled.nonce] if refusing and carries_bad else [])
        return RpcFailure(-32000, "oversized data") if refusing and carries_bad else None

    world.chain.refuse = refuse
    row = world.store.rows[Kind.PUBLIC_DECRYPTION, bad]
    refused: list[int] = []
    async with world.running(block_interval=None):
        await world.until(lambda: any(e.kind is None for e in world.store.journal.values()))
        await trio.sleep(1)
        assert row.status == "under_process", "it goes back only when the fill is mined"
        assert len(refused) == 1 + len(world.nodes), "once in the batch, then once by each node"
        refusing = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.mine_every, 1.0)
            await world.until(world.all_completed)
            nursery.cancel_scope.cancel()
    assert row.attempts == 2
    world.check_votes(10)
    world.check_one_calldata_per_nonce()
    assert world.chain.nonces[world.wallet.address] == 11


async def test_one_refusing_node_of_two_fills_nothing(autojump_clock: MockClock) -> None:
    world = World(nodes=2)
    waiting(world, 3)

    def refuse(call: RpcCall) -> RpcError | None:
        return RpcError(-32000, "transaction type not supported") if call.method == "eth_sendRawTransaction" else None

    world.nodes[0].on_call = refuse
    async with world.running():
        await world.until(world.all_completed)
    assert all(e.kind is not None for e in world.store.journal.values())


@pytest.mark.guarantee("TX2")
async def test_nitro_gap_closes_by_itself(autojump_clock: MockClock) -> None:
    world = World(Rules.NITRO)
    waiting(world, 50)
    refusals = 3

    def refuse(pooled: Pooled) -> RpcFailure | None:
        nonlocal refusals
        if pooled.nonce == 7 and refusals:
            refusals -= 1
            return RpcFailure(-32000, "sequencer temporarily not available")
        return None

    world.chain.refuse = refuse
    async with world.running(block_interval=0.25):
        await world.until(world.all_completed)
    world.check_votes(50)
    assert len(world.store.journal) == 50


# ---------------------------------------------------------------------------------------------------------------------
# Lane, database, owner


@pytest.mark.guarantee("TX4")
async def test_stand_by_takes_over_and_resolves_what_was_in_flight(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 100)
    async with trio.open_nursery() as outer:
        outer.start_soon(world.mine_every, 3.0)
        async with trio.open_nursery() as first:
            active = world.sender(ownership=FixedOwnership(1))
            first.start_soon(active.run)
            await world.until(lambda: len(world.chain.pending(world.wallet.address)) > 30)
            stand_by = world.sender(ownership=FixedOwnership(2))
            outer.start_soon(stand_by.run)
            await trio.sleep(5)
            assert stand_by.tenure is None
            first.cancel_scope.cancel()
        for row in world.store.rows.values():  # what gc does with rows of a dead owner
            if row.status == "under_process" and row.lease == 1 and row.id % 2:
                row.status, row.lease = "pending", None
        died = trio.current_time()
        await world.until(lambda: stand_by.tenure is not None)
        assert trio.current_time() - died < 15
        for row in world.store.rows.values():
            if row.status == "under_process" and row.lease == 1:
                row.status, row.lease = "pending", None
        await world.until(world.all_completed)
        outer.cancel_scope.cancel()
    world.check_votes(100)
    world.check_one_calldata_per_nonce()
    assert len(world.store.journal) == 100, "nothing was signed twice"


@pytest.mark.guarantee("TX1")
async def test_successor_leases_what_the_journal_shows_and_holds_it(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 20)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 20)
    async with world.running(block_interval=None, ownership=FixedOwnership(2)) as sender:
        await world.until(lambda: sum(sender.in_flight.values()) == 20)
        assert {row.lease for row in world.store.rows.values()} == {2}
        for row in world.store.rows.values():  # as a gc would that thinks the owner dead
            row.status, row.lease = "pending", None
        await trio.sleep(5)
        world.chain.mine()
        await world.until(world.all_completed)
    assert len(world.store.journal) == 20, "nothing new was signed while the old may be mined"


@pytest.mark.guarantee("TX1")
async def test_journal_commit_whose_reply_was_lost_is_not_signed_again(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 300)
    world.store.lose_appends = 4
    async with world.running():
        await world.until(world.all_completed)
    world.check_votes(300)
    assert not any(row.last_error for row in world.store.rows.values()), "known from the journal, not from a revert"
    assert len(world.store.journal) == 300


@pytest.mark.guarantee("TX1")
@pytest.mark.parametrize("passage", range(1, 6))
async def test_killed_after_the_journal_commit_and_before_the_broadcast(
    passage: int, autojump_clock: MockClock
) -> None:
    world = World()
    waiting(world, 600)
    lives: list[int] = []

    class Killed(BaseException):
        pass

    while not world.all_completed():
        lives.append(len(lives) + 1)
        left = passage

        def kill(entries: Sequence[object]) -> None:
            nonlocal left
            left -= 1
            if left == 0 and len(lives) < 4:
                raise Killed

        world.store.after_append = kill
        try:
            async with world.running(ownership=FixedOwnership(lives[-1])):
                await world.until(world.all_completed)
        except* Killed:
            for row in world.store.rows.values():
                if row.status == "under_process":
                    row.status, row.lease = "pending", None
    assert len(lives) == 4 or passage > 1
    world.check_votes(600)
    world.check_one_calldata_per_nonce()
    assert len(world.store.journal) == 600


@pytest.mark.guarantee("TX4")
async def test_lost_lane_is_opened_again_and_nothing_is_forgotten(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 500)
    async with world.running() as sender:
        for _ in range(4):
            await world.until(lambda: sender.tenure is not None and len(sender.tenure.state.flights) > 10)
            assert sender.tenure is not None
            tenure = sender.tenure
            tenure.journal._lane.lost = True  # type: ignore[attr-defined]
            await world.until(lambda held=tenure: sender.tenure is not held)  # type: ignore[misc]
        await world.until(world.all_completed)
    world.check_votes(500)
    world.check_one_calldata_per_nonce()
    assert world.store.lanes_opened >= 5
    assert len(world.store.journal) == 500


async def test_database_outage_costs_time_only(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 200)
    async with world.running():
        await trio.sleep(1.2)
        world.store.down = True
        await trio.sleep(40)
        world.store.down = False
        await world.until(world.all_completed)
    world.check_votes(200)
    world.check_one_calldata_per_nonce()


@pytest.mark.guarantee("QU1")
async def test_rows_of_claims_whose_replies_were_lost_are_found_again(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 200)
    world.store.lose_claims = 3
    async with world.running():
        await world.until(world.all_completed)
    world.check_votes(200)


async def test_owner_declared_dead_drops_its_leases_and_goes_on_under_a_new_epoch(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 200)
    async with world.running(block_interval=2.0):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) > 30)
        world.ownership.current = None
        await trio.sleep(1)
        for row in world.store.rows.values():
            if row.status == "under_process":
                row.status, row.lease = "pending", None
        world.ownership.current = 2
        await world.until(world.all_completed)
    world.check_votes(200)
    world.check_one_calldata_per_nonce()
    assert len(world.store.journal) == 200


@pytest.mark.guarantee("QU2")
async def test_late_success_completes_a_row_that_was_failed_meanwhile(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 1)
    (row,) = world.store.rows.values()
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
    row.status, row.lease = "failed", None
    async with world.running(ownership=FixedOwnership(2)):
        await world.until(world.all_completed)
    world.check_votes(1)


@pytest.mark.guarantee("TX1")
async def test_completed_response_whose_transaction_fails_after_a_reorganisation_is_sent_again(
    autojump_clock: MockClock,
) -> None:
    world = World()
    waiting(world, 1)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
        world.chain.mine()
        await world.until(world.all_completed)
        world.chain.reorganise(1, forget=True)
        world.model.silent_revert.add(PUBLIC_BASE)
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
        world.chain.mine()
        world.model.silent_revert.clear()
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == 1)
        world.chain.mine()
        await world.until(lambda: len(world.model.votes) == 1)
    world.check_votes(1)


async def test_stop_intake_finishes_what_is_in_hand(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 500)
    async with world.running() as sender:
        await world.until(lambda: sum(sender.in_flight.values()) > 0)
        sender.stop_intake()
        await world.until(lambda: sum(sender.in_flight.values()) == 0)
        assert not any(row.status == "under_process" for row in world.store.rows.values())
        done = sum(row.status == "completed" for row in world.store.rows.values())
        await trio.sleep(20)
        assert sum(row.status == "completed" for row in world.store.rows.values()) == done < 500


# ---------------------------------------------------------------------------------------------------------------------
# Sync send, remote signers


async def test_sync_send_is_used_for_one_transaction_on_an_idle_lane(autojump_clock: MockClock) -> None:
    world = World()
    world.nodes[0].sync_timeout = 2.0
    async with world.running(block_interval=0.5):
        for i in range(3):
            world.store.add(Kind.USER_DECRYPTION, PUBLIC_BASE + i)
            await world.until(world.all_completed)
    assert world.chain.calls["eth_sendRawTransactionSync"] == 3
    world.check_votes(3)


@pytest.mark.guarantee("TX1")
async def test_sync_send_that_times_out_although_mined_is_not_sent_again(autojump_clock: MockClock) -> None:
    world = World()
    world.nodes[0].sync_timeout = 0.0
    async with world.running(block_interval=0.5):
        for i in range(3):
            world.store.add(Kind.USER_DECRYPTION, PUBLIC_BASE + i)
            await world.until(world.all_completed)
    world.check_votes(3)
    assert len(world.store.journal) == 3


async def test_node_without_sync_send_is_asked_for_it_once(autojump_clock: MockClock) -> None:
    world = World()
    async with world.running(block_interval=0.5):
        for i in range(3):
            world.store.add(Kind.USER_DECRYPTION, PUBLIC_BASE + i)
            await world.until(world.all_completed)
    assert world.chain.calls["eth_sendRawTransactionSync"] == 1


class Faltering(LocalWallet):
    """A remote signer that signs three at a time and is away now and then."""

    is_remote = True
    asked = 0

    async def sign(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        await trio.sleep(0.05)
        self.asked += 1
        if self.asked % 3 == 0:
            raise WalletUnavailable("AWS KMS key x", "throttled")
        return await super().sign(digests[:3])


@pytest.mark.guarantee("TX2")
async def test_prefix_of_what_a_remote_signer_signed_is_committed_without_gaps(autojump_clock: MockClock) -> None:
    world = World()
    waiting(world, 40)
    async with world.running(wallet=Faltering(KEY)):
        await world.until(world.all_completed)
    world.check_votes(40)
    assert sorted(e.nonce for e in world.store.journal.values()) == list(range(40))
