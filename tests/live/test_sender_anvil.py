"""The sender on anvil with the real contracts' doubles: windows, faults, reorganisations, every known revert."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from sender_live import LiveGateway, LiveWorld

from kmsd.chain.gas import GasTable
from kmsd.operations.kinds import Kind
from kmsd.ports import TxState
from kmsd.sandbox import requests
from kmsd.sandbox.accounts import account
from kmsd.sandbox.contracts import Thresholds, committee, update_kms_nodes
from kmsd.sending.signers import signer_of
from kmsd.wire.signatures import address_of, sign

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def gateway(chains: Any) -> LiveGateway:
    """The session's Gateway, ready for requests, a block for each transaction until a test says otherwise."""
    gateway = LiveGateway(chains.gateway, chains.deployment)
    gateway.prepare()
    return gateway


def interval(gateway: LiveGateway, seconds: float) -> None:
    gateway.anvil.set_automine(False)
    gateway.anvil.call("evm_setIntervalMining", seconds)


@pytest.fixture(autouse=True)
def _stop_interval(chains: Any) -> Any:
    yield
    chains.gateway.call("evm_setIntervalMining", 0)
    chains.gateway.call("anvil_dropAllTransactions")


async def test_all_five_kinds_are_accepted_while_all_parties_vote_in_one_block(gateway: LiveGateway) -> None:
    """No vote of ours that crosses the threshold is mined with status 0 (decisions.md 25a)."""
    world = LiveWorld(gateway)
    records = gateway.ask_public(3) + gateway.ask_user(3) + gateway.run([requests.crsgen(gateway.deployment)])
    records += gateway.run([requests.keygen(gateway.deployment)])
    gateway.anvil.set_automine(False)
    gateway.store(world.store, records)
    async with world.running():
        await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == len(records))
        for record in records:
            gateway.vote(record, (2, 3, 4))
        gateway.anvil.mine()
        await world.until(world.all_completed)
        (asked,) = [r for r in records if type(r).__name__ == "PrepKeygenRequest"]
        keygen = _keygen_of(gateway, asked.prep_keygen_id)
        gateway.store(world.store, [keygen])
        await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 1)
        gateway.vote(keygen, (2, 3, 4))
        gateway.anvil.mine()
        await world.until(world.all_completed)
    world.check(len(records) + 1)
    signer = gateway.deployment.parties[0].signer.address
    for key, row in world.store.rows.items():
        assert signer_of(world.settings, world.store._claimed(row), world.store.requests[key]) == signer, key
    assert all(entry.receipt_status == 1 for entry in world.store.journal.values())


def _keygen_of(gateway: LiveGateway, prep_keygen_id: int) -> Any:
    logs = gateway.anvil.call(
        "eth_getLogs",
        {"fromBlock": "0x0", "toBlock": "latest", "address": "0x" + gateway.deployment.kms_generation.hex()},
    )
    records = gateway._records([{"logs": logs}])
    return next(r for r in records if type(r).__name__ == "KeygenRequest" and r.prep_keygen_id == prep_keygen_id)


@pytest.mark.guarantee("TX2")
async def test_dropped_transactions_are_offered_again(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    gateway.store(world.store, gateway.ask_public(30))
    gateway.anvil.set_automine(False)
    async with world.running():
        await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 30)
        dropped = [entry for entry in world.store.journal.values() if entry.nonce % 7 == 3]
        for entry in dropped:
            gateway.anvil.drop_transaction("0x" + entry.tx_hash.hex())
        interval(gateway, 1)
        await world.until(world.all_completed)
    world.check(30)
    assert len(world.store.journal) == 30


@pytest.mark.guarantee("TX1")
async def test_reorganisation_of_five_blocks(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    records = gateway.ask_public(60)
    gateway.anvil.set_automine(False)
    async with world.running() as sender:
        for start in range(0, 60, 12):
            gateway.store(world.store, records[start : start + 12])
            await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 12)
            gateway.anvil.mine()
            await world.until(world.all_completed)
        assert len(gateway.accepted(world.wallet.address)) == 60
        gateway.anvil.reorganise(5)
        gateway.anvil.call("anvil_dropAllTransactions")
        assert not gateway.accepted(world.wallet.address)
        interval(gateway, 1)
        await world.until(lambda: len(gateway.accepted(world.wallet.address)) == 60)
        gateway.anvil.mine(70)
        await world.until(
            lambda: sender.tenure is not None and not (sender.tenure.state.watched or sender.tenure.state.flights)
        )
    world.check(60)
    assert {entry.state for entry in world.store.journal.values()} == {TxState.FINAL}


@pytest.mark.guarantee("TX5")
async def test_base_fee_spike_is_followed_by_replacements(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway, tx_resubmit_after=2.0)
    gateway.store(world.store, gateway.ask_public(10))
    gateway.anvil.set_automine(False)
    async with world.running():
        await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 10)
        highest = max(entry.max_fee_per_gas for entry in world.store.journal.values())
        for _ in range(3):
            gateway.anvil.call("anvil_setNextBlockBaseFeePerGas", hex(highest * 3))
            gateway.anvil.mine()
        interval(gateway, 1)
        await world.until(world.all_completed)
    world.check(10)
    assert max(entry.attempt for entry in world.store.journal.values()) >= 1


async def test_idle_lane_uses_sync_send_on_a_real_node(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    gateway.store(world.store, gateway.ask_public(1))
    async with world.running() as sender:
        await world.until(world.all_completed, timeout=5)
        assert sender.tenure is not None
        assert sender.tenure._broadcaster._sync_works
    world.check(1)


@pytest.mark.guarantee("TX1")
async def test_sync_send_that_times_out_although_mined_later(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    gateway.store(world.store, gateway.ask_public(1))
    gateway.anvil.set_automine(False)
    async with world.running():
        await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 1)
        await trio.sleep(2.5)  # the node's own patience, which nothing announces
        gateway.anvil.mine()
        await world.until(world.all_completed)
    world.check(1)
    assert len(world.store.journal) == 1


async def test_out_of_gas_behind_the_proxy_is_recognised_and_repeated(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LiveWorld(gateway)
    (row,) = gateway.store(world.store, gateway.ask_public(1))
    generous = GasTable.limit_from

    def tight(self: GasTable, kind: Kind, gas: int, floor: int = 0) -> int:
        return generous(self, kind, gas, floor) if floor else gas - 15_000

    monkeypatch.setattr(GasTable, "limit_from", tight)
    async with world.running():
        await world.until(world.all_completed)
    world.check(1)
    first, second = sorted(world.store.journal.values(), key=lambda entry: entry.nonce)
    assert (first.receipt_status, second.receipt_status) == (0, 1)
    assert second.gas_limit >= 2 * first.gas_limit
    assert row.attempts == 1


# ---------------------------------------------------------------------------------------------------------------------
# Every known revert


@pytest.mark.guarantee("TX3")
async def test_already_responded(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    records = gateway.ask_public(2) + gateway.run([requests.crsgen(gateway.deployment)])
    for record in records:
        gateway.vote(record, (1,))
    gateway.store(world.store, records)
    async with world.running():
        await world.until(world.all_completed)
    assert not world.store.journal
    world.check(3)


def stranger(gateway: LiveGateway, fields: dict[str, Any]) -> None:
    fields["signature"] = sign(b"\x01" * 32, account("nobody").key)


def short_signature(gateway: LiveGateway, fields: dict[str, Any]) -> None:
    fields["signature"] = fields["signature"][:64]


def high_s(gateway: LiveGateway, fields: dict[str, Any]) -> None:
    signature = fields["signature"]
    s = ORDER - int.from_bytes(signature[32:64], "big")
    fields["signature"] = signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))


def bad_v(gateway: LiveGateway, fields: dict[str, Any]) -> None:
    fields["signature"] = fields["signature"][:64] + b"\x05"


def other_result(gateway: LiveGateway, fields: dict[str, Any]) -> None:
    fields["decrypted_result"] = b"\x13" * 32


@pytest.mark.guarantee("TX6")
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (stranger, "NotKmsSigner"),
        (other_result, "NotKmsSigner"),
        (short_signature, "ECDSAInvalidSignatureLength"),
        (high_s, "ECDSAInvalidSignatureS"),
        (bad_v, "ECDSAInvalidSignature"),
    ],
)
async def test_spoilt_payloads_fail_by_themselves(
    gateway: LiveGateway, spoil: Callable[[LiveGateway, dict[str, Any]], None], error: str
) -> None:
    world = LiveWorld(gateway)
    rows = gateway.store(world.store, gateway.ask_public(5))
    fields = dict(rows[2].fields)
    spoil(gateway, fields)
    rows[2].fields = fields
    async with world.running():
        await world.until(lambda: all(row.status in ("completed", "failed") for row in rows))
        assert not world.health.alerts
    assert [row.status for row in rows].count("failed") == 1
    assert rows[2].last_error is not None
    assert error in rows[2].last_error
    assert ("here, the payload differs" in rows[2].last_error) is (error == "NotKmsSigner")
    world.check(4)


async def test_answer_of_another_party_fails_by_itself(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    (record,) = gateway.ask_public(1)
    kind, row_id, fields = gateway.fields(record, party=2)
    row = world.store.add(kind, row_id, **fields)
    async with world.running():
        await world.until(lambda: row.status == "failed")
    assert row.last_error is not None
    assert "KmsSignerDoesNotMatchTxSender" in row.last_error


async def test_not_requested_and_empty_digests(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    (record,) = gateway.ask_public(1)
    kind, row_id, fields = gateway.fields(record)
    unknown = world.store.add(kind, row_id + 1000, **fields)
    gateway.run([requests.keygen(gateway.deployment)])
    empty = world.store.add(Kind.KEYGEN, (4 << 248) + 1, key_digests=(), signature=fields["signature"])
    async with world.running():
        await world.until(lambda: unknown.status == empty.status == "failed")
    assert "DecryptionNotRequested" in (unknown.last_error or "")
    assert "EmptyKeyDigests" in (empty.last_error or "")


@pytest.mark.guarantee("TX6")
async def test_unregistered_wallet_pauses_until_it_is_registered(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    deployment = gateway.deployment
    rows = gateway.store(world.store, gateway.ask_public(20))
    others = committee(6)[2:]
    thresholds = Thresholds()
    gateway.run([requests.Call(deployment.gateway_config, update_kms_nodes(others, thresholds), 30_000_000)])
    async with world.running():
        await world.until(lambda: bool(world.health.alerts))
        assert "not registered" in world.health.alerts[0].words
        assert not world.store.journal
        gateway.run(
            [requests.Call(deployment.gateway_config, update_kms_nodes(deployment.parties, thresholds), 30_000_000)]
        )
        await world.until(world.all_completed)
        assert not world.health.alerts
    assert not any(row.errors > 3 for row in rows)
    world.check(20)


@pytest.mark.guarantee("TX6")
async def test_known_signer_refused_pauses_until_it_is_registered(gateway: LiveGateway) -> None:
    deployment = gateway.deployment
    ours = deployment.parties[0]
    world = LiveWorld(gateway, kms_signer_address=address_of(ours.signer.key))
    gateway.store(world.store, gateway.ask_public(10))
    replaced = (type(ours)(ours.tx, account("new signer"), ours.storage_url), *deployment.parties[1:])
    thresholds = Thresholds()
    gateway.run([requests.Call(deployment.gateway_config, update_kms_nodes(replaced, thresholds), 30_000_000)])
    async with world.running():
        await world.until(lambda: any("known signer" in alert.words for alert in world.health.alerts))
        gateway.run(
            [requests.Call(deployment.gateway_config, update_kms_nodes(deployment.parties, thresholds), 30_000_000)]
        )
        await world.until(world.all_completed)
    world.check(10)


@pytest.mark.guarantee("TX6")
async def test_empty_wallet_pauses_until_there_is_money(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    text = gateway.deployment.parties[0].tx.text
    gateway.anvil.set_balance(text, 10**9)
    gateway.store(world.store, gateway.ask_public(10))
    async with world.running():
        await world.until(lambda: any("cannot pay" in alert.words for alert in world.health.alerts))
        gateway.anvil.set_balance(text, 10**24)
        await world.until(world.all_completed)
        await world.until(lambda: not world.health.alerts)
    world.check(10)


@pytest.mark.guarantee("TX2")
async def test_another_program_takes_our_nonces(gateway: LiveGateway) -> None:
    world = LiveWorld(gateway)
    gateway.store(world.store, gateway.ask_public(10))
    gateway.anvil.set_automine(False)
    ours = gateway.deployment.parties[0].tx
    async with world.running():
        await world.until(lambda: int(gateway.anvil.call("txpool_status")["pending"], 16) == 10)
        gateway.anvil.call("anvil_dropAllTransactions")
        gateway.run_unmined([requests.Call(account("nobody").address, b"", 30_000)] * 3, ours)
        interval(gateway, 1)
        await world.until(world.all_completed)
    world.check(10)
    assert any("another program" in alert.key for alert in world.health.alerts)
