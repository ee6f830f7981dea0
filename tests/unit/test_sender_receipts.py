"""Receipts from whole blocks: asked for where they are worth it, and never what anything depends on."""

from collections.abc import Sequence
from typing import Any

import pytest
from sender_world import PUBLIC_BASE, Group, MemoryLane, World
from trio.testing import MockClock

from kmsd.chain.nonces import Flight
from kmsd.operations.kinds import Kind
from kmsd.ports import JournalEntry, ResponseOutcome, RpcCall, RpcError
from kmsd.sending import receipts
from kmsd.sending.confirmer import CONFIRM_BATCH
from kmsd.sending.questions import Questions
from kmsd.sending.receipts import MOST_BLOCKS, PAUSE, WORTH, Receipts

PUBLIC = Kind.PUBLIC_DECRYPTION
BLOCK, BY_HASH = "eth_getBlockReceipts", "eth_getTransactionReceipt"


def filled(count: int, **settings: Any) -> World:
    world = World(**settings)
    for i in range(count):
        world.store.add(PUBLIC, PUBLIC_BASE + i)
    return world


async def test_full_blocks_are_read_whole(autojump_clock: MockClock) -> None:
    world = filled(2000)
    async with world.running():
        await world.until(world.all_completed)
    world.check_votes(2000)
    assert 0 < world.chain.calls[BLOCK] < 20
    assert world.chain.calls[BY_HASH] < 400, "the first small window, and the sentinel of each look"


def no_such_method(call: RpcCall) -> RpcError | None:
    return RpcError(-32601, "the method does not exist") if call.method == BLOCK else None


async def test_a_node_that_cannot_is_asked_once_a_minute_and_costs_nothing(autojump_clock: MockClock) -> None:
    world = filled(1500)
    asked: list[RpcCall] = []

    def refuse(call: RpcCall) -> RpcError | None:
        asked.extend([call] if call.method == BLOCK else [])
        return no_such_method(call)

    world.nodes[0].on_call = refuse
    async with world.running():
        await world.until(world.all_completed, timeout=PAUSE - 1)
    world.check_votes(1500)
    assert 1 <= len(asked) <= MOST_BLOCKS


class Blocks:
    """A sender's chain with its transactions mined, and Receipts over it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.receipts = Receipts(Questions(Group(world.nodes), world.wallet.address, 5.0))

    def flights(self) -> list[Flight]:
        by_nonce: dict[int, list[JournalEntry]] = {}
        for entry in self.world.store.journal.values():
            by_nonce.setdefault(entry.nonce, []).append(entry)
        return [Flight(nonce, entries, None) for nonce, entries in sorted(by_nonce.items())]

    def asked(self, method: str) -> int:
        return self.world.chain.calls.get(method, 0)


async def mined_in_one_block(count: int, others: int = 0) -> Blocks:
    """`count` transactions of ours in the newest block, with `others` beside them."""
    world = filled(count)
    async with world.running(block_interval=None):
        await world.until(lambda: len(world.chain.pending(world.wallet.address)) == count)
    blocks = Blocks(world)
    await blocks.receipts.look_into_blocks(world.chain.head.number, [])
    world.chain.mine()
    block = world.chain.head
    block.receipts += [{**block.receipts[0], "transactionHash": "0x" + f"{i:064x}"} for i in range(others)]
    world.chain.calls.clear()
    return blocks


async def look(blocks: Blocks) -> Sequence[Flight]:
    flights = blocks.flights()
    await blocks.receipts.look_into_blocks(blocks.world.chain.head.number, flights)
    return flights


@pytest.mark.parametrize(("count", "asked"), [(WORTH - 1, 0), (WORTH, 1), (64, 1)])
async def test_few_are_asked_for_by_hash(count: int, asked: int, autojump_clock: MockClock) -> None:
    blocks = await mined_in_one_block(count)
    flights = await look(blocks)
    assert blocks.asked(BLOCK) == asked
    found = await blocks.receipts.of(flights)
    assert [found[f.nonce][0] for f in flights] == [f.last for f in flights]
    assert all(receipt.block_hash == blocks.world.chain.head.hash for _, receipt in found.values())
    assert blocks.asked(BY_HASH) == (0 if asked else count)


async def test_blocks_of_others_are_left_alone_for_a_while(autojump_clock: MockClock) -> None:
    blocks = await mined_in_one_block(40, others=400)
    flights = await look(blocks)
    assert len(await blocks.receipts.of(flights)) == 40
    assert (blocks.asked(BLOCK), blocks.asked(BY_HASH)) == (1, 0)
    blocks.receipts.forget()
    blocks.world.chain.mine()
    await look(blocks)
    assert blocks.asked(BLOCK) == 1
    autojump_clock.jump(PAUSE)
    blocks.world.chain.mine()
    await look(blocks)
    assert blocks.asked(BLOCK) == 2


@pytest.mark.guarantee("TX1")
async def test_what_a_reorganisation_took_back_is_not_believed(autojump_clock: MockClock) -> None:
    blocks = await mined_in_one_block(64)
    flights = await look(blocks)
    blocks.world.chain.reorganise(1, forget=True)
    blocks.receipts.forget()
    assert await blocks.receipts.of(flights) == {}
    flights = await look(blocks)
    assert await blocks.receipts.of(flights) == {}


async def test_after_a_long_silence_receipts_are_asked_for_by_hash(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "WORTH", 1)
    blocks = await mined_in_one_block(64)
    blocks.world.chain.mine(MOST_BLOCKS)
    flights = await look(blocks)
    assert blocks.asked(BLOCK) == 0
    assert len(await blocks.receipts.of(flights)) == 64


@pytest.mark.parametrize("answer", [{}, [1], [{}], [{"transactionHash": "0x12"}], "0x"])
async def test_garbage_instead_of_receipts_costs_nothing(answer: Any, autojump_clock: MockClock) -> None:
    blocks = await mined_in_one_block(64)
    (node,) = blocks.world.nodes
    rpc = node._result
    node._result = lambda call: answer if call.method == BLOCK else rpc(call)  # type: ignore[method-assign]
    flights = await look(blocks)
    assert len(await blocks.receipts.of(flights)) == 64
    assert blocks.asked(BY_HASH) == 64


@pytest.mark.guarantee("TX1")
async def test_a_reorganisation_while_a_block_is_being_settled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of the undone block is forgotten: in its place the rest of the transactions were reverted."""
    first, second, third = 64, 256, 400
    world = filled(first + second + third)
    settle = MemoryLane.settle
    settled: list[tuple[int, int]] = []

    async def settle_then_reorganise(
        lane: MemoryLane, entries: Sequence[JournalEntry], outcomes: Sequence[ResponseOutcome] = ()
    ) -> Sequence[bool]:
        applied = await settle(lane, entries, outcomes)
        if world.chain.head.number == 3 and not settled:
            settled.extend((entry.nonce, entry.attempt) for entry in entries)
            kept = {world.store.journal[key].id for key in settled}
            world.model.requested = lambda row_id: row_id in kept or row_id < PUBLIC_BASE + first + second
            world.chain.reorganise(1, forget=False, empty_blocks=0)
            world.chain.mine()
        return applied

    monkeypatch.setattr(MemoryLane, "settle", settle_then_reorganise)
    async with world.running(block_interval=None):
        for count in (first, second, third):
            await world.until(lambda count=count: len(world.chain.pending(world.wallet.address)) == count)
            world.chain.mine()
        await world.until(lambda: all(row.status in ("completed", "failed") for row in world.store.rows.values()))
    assert len(settled) == CONFIRM_BATCH
    assert [row.status for row in world.store.rows.values()].count("failed") == third - CONFIRM_BATCH
