"""The sender's small parts: batches by size, answers of nodes, the gate, works in hand, calldata."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from sender_world import CHAIN_ID, DECRYPTION, KMS_GENERATION, PUBLIC_BASE, Clock, World
from trio.testing import MockClock

from kmsd.chain.fees import Market
from kmsd.chain.jsonrpc import BadAnswer
from kmsd.chain.outcomes import Refusal
from kmsd.observe.health import Health
from kmsd.operations.kinds import Kind
from kmsd.operations.table import WITH_RESPONSE
from kmsd.ports import DependencyDown, Lease, ResponseFate, ResponseOutcome, RpcAnswer, RpcCall, RpcError
from kmsd.sending.calldata import COLUMNS, response_call
from kmsd.sending.gate import FIRST_TRIAL, LONGEST_TRIAL, Gate
from kmsd.sending.questions import BATCH, BATCH_BYTES, Call, Questions, Unanswered, cuts
from kmsd.sending.works import Work, Works
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11.calls import decode_call
from kmsd.wire.v0_11.errors import ERRORS, RevertReason

WALLET = b"\x0a" * 20


class Scripted:
    """A group of nodes that answers from a table."""

    nodes: Sequence[Any] = ()

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.sizes: list[int] = []

    async def read(
        self, calls: Sequence[RpcCall], read: Callable[[Sequence[RpcAnswer]], Any], *, deadline: float
    ) -> Any:
        await trio.lowlevel.checkpoint()
        self.sizes.append(len(calls))
        found = []
        for call in calls:
            answer = self.answers[call.method]
            found.append(RpcAnswer(None, answer) if isinstance(answer, RpcError) else RpcAnswer(answer))
        try:
            return read(found)
        except BadAnswer as bad:
            raise DependencyDown("gateway", str(bad)) from None


def questions(**answers: Any) -> Questions:
    return Questions(Scripted(**answers), WALLET, 5.0)


@given(st.lists(st.integers(0, 2 * BATCH_BYTES), max_size=400))
def test_batches_cover_everything_in_order_and_stay_small(sizes: list[int]) -> None:
    bounds = list(cuts(sizes))
    assert [i for start, end in bounds for i in range(start, end)] == list(range(len(sizes)))
    for start, end in bounds:
        assert 0 < end - start <= BATCH
        assert end - start == 1 or sum(sizes[start:end]) <= BATCH_BYTES


async def test_many_receipts_are_asked_in_batches_and_come_in_order() -> None:
    scripted = Scripted(eth_getTransactionReceipt=None)
    asked = Questions(scripted, WALLET, 5.0)
    assert await asked.receipts([bytes(32)] * 250) == [None] * 250
    assert sorted(scripted.sizes) == [50, 100, 100]
    assert await asked.receipts([]) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RpcError(3, "execution reverted", "0x" + ERRORS["NotKmsTxSender"].encode(WALLET).hex()), "NotKmsTxSender"),
        (RpcError(-32015, "x", "Reverted 0x" + ERRORS["NotKmsTxSender"].encode(WALLET).hex()), "NotKmsTxSender"),
        (RpcError(-32603, "x", {"data": {"data": "0x" + ERRORS["EnforcedPause"].encode().hex()}}), "EnforcedPause"),
        (RpcError(3, "execution reverted", "0x"), ""),
        (RpcError(3, "execution reverted"), ""),
        (RpcError(3, "execution reverted", "0xdeadbeef"), "0xdeadbeef"),
    ],
)
async def test_reverts_of_any_node_are_found(error: RpcError, expected: str) -> None:
    (answer,) = await questions(eth_estimateGas=error).estimates([Call(DECRYPTION, b"\1")])
    assert isinstance(answer, RevertReason)
    assert answer.name == expected
    (replay,) = await questions(eth_call=error).replays([Call(DECRYPTION, b"\1")])
    assert replay == answer


async def test_other_errors_of_calls_are_no_reverts() -> None:
    error = RpcError(-32000, "gas required exceeds allowance")
    (answer,) = await questions(eth_estimateGas=error).estimates([Call(DECRYPTION, b"\1")])
    assert answer == Unanswered(error)


@pytest.mark.parametrize("result", [None, "latest", 5, "0xzz", {}, RpcError(-32000, "no")])
async def test_garbage_is_a_node_that_is_down(result: Any) -> None:
    with pytest.raises(DependencyDown):
        await questions(eth_getBalance=result).balance()
    with pytest.raises(DependencyDown):
        await questions(eth_blockNumber=result, eth_getTransactionCount="0x1").tip(None)


async def test_market_without_fee_history_comes_from_the_gas_price() -> None:
    asked = questions(
        eth_feeHistory=RpcError(-32601, "no"),
        eth_gasPrice="0x64",
        eth_getTransactionCount="0x7",
        eth_getBlockByNumber={
            "number": "0x1",
            "hash": "0x" + "11" * 32,
            "parentHash": "0x" + "22" * 32,
            "timestamp": "0x5",
            "gasLimit": "0x1000",
        },
    )
    conditions = await asked.conditions()
    assert conditions.market == Market(100, 1)
    assert (conditions.mined_count, conditions.pending_count, conditions.block_gas_limit) == (7, 7, 4096)


# ---------------------------------------------------------------------------------------------------------------------


async def test_gate_tries_again_more_and_more_slowly(autojump_clock: MockClock) -> None:
    gate = Gate(Health(Clock()))
    for _ in range(500):
        gate.close(Refusal.SIGNER, "refused")
    assert gate.trial_in == FIRST_TRIAL, "what was under way at once is one refusal"
    waited = []
    for _ in range(10):
        before = trio.current_time()
        await trio.sleep(gate.trial_in)
        waited.append(trio.current_time() - before)
        gate.close(Refusal.SIGNER, "refused")
    assert waited == sorted(waited)
    assert waited[-1] == LONGEST_TRIAL
    gate.open()
    assert gate.is_open


def response(world: World, index: int) -> Any:
    return world.store._claimed(world.store.add(Kind.PUBLIC_DECRYPTION, PUBLIC_BASE + index))


async def test_works_are_handed_out_once_and_counted(autojump_clock: MockClock) -> None:
    world, works = World(), Works()
    works.enqueue([Work(response(world, i)) for i in range(5)])
    assert (len(works), works.queued, works.by_kind()[Kind.PUBLIC_DECRYPTION]) == (5, 5, 5)
    assert works.bytes == 5 * (32 + 65)
    first, second = works.take(2)
    works.put_back([first, second])
    assert works.take(1) == [first]
    done = ResponseOutcome(Lease(*first.key, 1), ResponseFate.PENDING, delay=7.0)
    works.settled([done])
    assert works.next_due(Kind.PUBLIC_DECRYPTION) == 7.0
    works.put_back([first])
    assert works.queued == 4, "what is settled does not come back"
    await trio.sleep(8)
    assert works.next_due(Kind.PUBLIC_DECRYPTION) == float("inf")
    works.requeue([second.key])
    assert works.queued == 3
    works.clear()
    assert (len(works), works.queued, works.bytes) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_RESPONSE)
async def test_calldata_carries_the_columns_unchanged(kind: Kind, autojump_clock: MockClock) -> None:
    world = World()
    row = world.store._claimed(world.store.add(kind, 99))
    to, data = response_call(world.settings, row)
    name, arguments = decode_call(data)
    assert to == (DECRYPTION if kind.value.endswith("decryption") else KMS_GENERATION)
    assert name.removesuffix("Response").lower() == kind.value.replace("_", "")
    assert arguments[0] == 99
    assert [tuple(a) if isinstance(a, tuple) else a for a in arguments[1:]] == [row.fields[c] for c in COLUMNS[kind]]
    assert world.settings.gateway_chain_id == CHAIN_ID


async def test_rows_that_no_call_can_carry_are_named(autojump_clock: MockClock) -> None:
    world = World()
    row = world.store.add(Kind.PUBLIC_DECRYPTION, 1)
    for fields in ({}, {**row.fields, "signature": None}, {**row.fields, "extra_data": "text"}):
        row.fields = fields
        with pytest.raises(WireError):
            response_call(world.settings, world.store._claimed(row))
