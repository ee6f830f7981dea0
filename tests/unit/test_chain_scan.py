"""The proof of one range, the search for a fork, block filters, and who witnessed what."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listener_world import DECRYPTION, Chain, ChainNode, block_json, crsgen_request, public_request

from kmsd.chain import forks
from kmsd.chain.bloom import bits
from kmsd.chain.ranges import FIRST_SPAN, BlockRange
from kmsd.chain.scan import (
    LogFilter,
    RangeRefused,
    Reorganised,
    Scanned,
    Unproven,
    block_hashes,
    latest_block,
    scan,
)
from kmsd.listening.decoding import topics_of
from kmsd.listening.witnesses import MARGIN, MAX_LOGS, Witnesses
from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import BlockRef, Log, RpcAnswer, RpcCall, RpcError, StoredRef
from kmsd.wire.keccak import keccak256

WANTED = LogFilter(DECRYPTION, topics_of(Stream.DECRYPTION))


def _node(length: int = 10) -> ChainNode:
    node = ChainNode("main", Chain(length))
    node.latency = 0.0
    return node


async def _scan(node: ChainNode, first: int, last: int, cursor: BlockRef | None = None) -> Scanned | Reorganised:
    return await scan(node, cursor, BlockRange(first, last), WANTED, deadline=1)


async def test_a_proven_range() -> None:
    node = _node()
    node.chain.mine(public_request(1), crsgen_request(1))
    block = node.chain.mine(public_request(2))
    found = await _scan(node, 9, 12, BlockRef(10, node.chain.blocks[10].hash))
    assert isinstance(found, Scanned)
    assert found.end.ref == BlockRef(12, block.hash)
    assert found.end.timestamp == block.timestamp
    assert [log.block_number for log in found.logs] == [11, 12]
    assert found.strays == 0
    assert node.batches == 1, "one batch"


async def test_no_cursor_or_one_without_a_hash_is_not_compared() -> None:
    node = _node()
    for cursor in (None, BlockRef(3, b"")):
        assert isinstance(await _scan(node, 4, 5, cursor), Scanned)


async def test_another_hash_at_the_cursor() -> None:
    node = _node()
    assert await _scan(node, 6, 7, BlockRef(5, b"\1" * 32)) == Reorganised(node.chain.blocks[5].hash)


def _at(position: int, answer: RpcAnswer) -> Callable[[RpcCall], RpcAnswer | None]:
    """Replace the answer at one position of the batch."""
    seen = -1

    def refuse(call: RpcCall) -> RpcAnswer | None:
        nonlocal seen
        seen += 1
        return answer if seen == position else None

    return refuse


NONE, ERROR, NONSENSE = RpcAnswer(None), RpcAnswer(None, RpcError(-32000, "no")), RpcAnswer({"number": "x"})


@pytest.mark.guarantee("EV3")
@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("answer", [NONE, ERROR, NONSENSE])
async def test_a_block_that_is_not_shown_proves_nothing(position: int, answer: RpcAnswer) -> None:
    node = _node()
    node.refuse = _at(position, answer)
    with pytest.raises(Unproven):
        await _scan(node, 6, 7, BlockRef(5, node.chain.blocks[5].hash))


@pytest.mark.guarantee("EV3")
@pytest.mark.parametrize("position", [1, 3])
async def test_two_hashes_of_the_last_block_prove_nothing(position: int) -> None:
    node = _node()
    other = _node().chain.blocks[7]
    node.refuse = _at(position, RpcAnswer({**block_json(other), "hash": "0x" + "77" * 32}))
    with pytest.raises(Unproven, match="showed two hashes of block 7"):
        await _scan(node, 6, 7, BlockRef(5, node.chain.blocks[5].hash))


async def test_another_block_than_was_asked_for_proves_nothing() -> None:
    node = _node()
    six = RpcAnswer(block_json(node.chain.blocks[6]))
    node.refuse = lambda call: six if call.params[0] == "0x7" else None
    with pytest.raises(Unproven, match="showed block 6 instead of 7"):
        await _scan(node, 6, 7)


@pytest.mark.parametrize("block", [5, 7, 6])
async def test_logs_of_another_history_prove_nothing(block: int) -> None:
    """A log of the range's last block, of the cursor's, or two of one block, under another hash than was shown."""
    node = _node(4)
    for number in (1, 2, 3):
        node.chain.mine(public_request(number))
    ours = node.chain.blocks[block].logs[0]
    node.adds = [{**ours, "blockHash": "0x" + "66" * 32, "logIndex": "0x1"}]
    with pytest.raises(Unproven, match=f"logs of two blocks {block}"):
        await _scan(node, 5, 7, BlockRef(5, node.chain.blocks[5].hash))


async def test_refused_logs() -> None:
    node = _node()
    node.max_blocks = 1
    with pytest.raises(RangeRefused, match="code -32602"):
        await _scan(node, 6, 7)


@pytest.mark.parametrize("result", [None, {}, "0x", [1], [{"address": "0x"}]])
async def test_unusable_logs(result: Any) -> None:
    node = _node()
    node.refuse = lambda call: RpcAnswer(result) if call.method == "eth_getLogs" else None
    with pytest.raises(Unproven, match="unusable logs"):
        await _scan(node, 6, 7)


async def test_blocks_by_number() -> None:
    node = _node()
    assert (await latest_block(node, deadline=1)).number == 10
    assert await block_hashes(node, [3, 11], deadline=1) == {3: node.chain.blocks[3].hash, 11: None}
    node.refuse = lambda call: NONE
    with pytest.raises(Unproven):
        await latest_block(node, deadline=1)


# ---------------------------------------------------------------------------------------------------------------------


def _ref(number: int, tag: int = 0) -> BlockRef:
    return BlockRef(number, bytes([tag]) * 32)


def test_the_newest_common_end() -> None:
    ends = [_ref(30, 1), _ref(20, 1), _ref(10, 1)]
    assert forks.newest_common(ends, {30: b"\2" * 32, 20: b"\1" * 32, 10: b"\1" * 32}) == ends[1]
    assert forks.newest_common(ends, {30: None, 20: None}) is None
    assert forks.newest_common([BlockRef(3, b"")], {3: b""}) is None


def test_below_all_ends() -> None:
    assert forks.below([_ref(number) for number in range(2000, 2000 - forks.KEPT, -1)], 2000) == 1745 - forks.DEEPER
    assert forks.below([_ref(1000), _ref(900)], 1100) == 900 - FIRST_SPAN, "reading began there"
    assert forks.below([], 1100) == 1100 - FIRST_SPAN
    assert forks.below([_ref(5)], 7) == 0


@given(
    common=st.integers(0, 20),
    ours=st.lists(st.integers(1, 5), max_size=30),
)
def test_nothing_before_the_fork_is_read_again_but_at_most_one_range(common: int, ours: Sequence[int]) -> None:
    """Ends at growing numbers; blocks up to `common` are shared. The search finds the last end that is."""
    numbers, at = [], 0
    for step in ours:
        at += step
        numbers.append(at)
    ends = [_ref(number, 1) for number in reversed(numbers)]
    node = {number: (b"\1" if number <= common else b"\2") * 32 for number in numbers}
    found = forks.newest_common(ends, node)
    shared = [number for number in numbers if number <= common]
    assert (found.number if found else None) == (shared[-1] if shared else None)


def test_orphans() -> None:
    rows = [StoredRef(Kind.CRSGEN, number, number, b"\1" * 32, False) for number in (1, 2, 3)]
    one, two = {1: b"\1" * 32, 2: b"\2" * 32, 3: None}, {1: b"\2" * 32, 2: b"\2" * 32, 3: b"\1" * 32}
    assert [row.id for row in forks.orphans(rows, [one])] == [2, 3]
    assert [row.id for row in forks.orphans(rows, [one, two])] == [2]


def test_filter_bits_are_those_of_geth() -> None:
    """The hash that go-ethereum's own test expects of the filter of these hundred items."""
    mask = 0
    for number in range(100):
        mask |= bits(f"xxxxxxxxxx data {number} yyyyyyyyyyyyyy".encode())
    expected = "c8d3ca65cdb4874300a9e39475508f23ed6da09fdbc487f89a2dcf50b09eb263"
    assert keccak256(mask.to_bytes(256, "big")).hex() == expected


# ---------------------------------------------------------------------------------------------------------------------


def _log(block: int, index: int = 0, tag: int = 0) -> Log:
    return Log(bytes(20), (), b"", block, bytes([tag]) + block.to_bytes(31, "big"), bytes(32), index)


def _words(log: Log) -> dict[tuple[bytes, int], str]:
    return {(log.block_hash, log.log_index): "crsgen 1"}


def test_what_a_node_has_reported() -> None:
    witnesses = Witnesses(["a", "b"])
    one = _log(1)
    assert not witnesses.known_to("a", one)
    witnesses.saw("a", [one], 1, 0.0, {})
    assert witnesses.known_to("a", one)
    assert not witnesses.known_to("b", one)


def test_omissions_count_once_and_only_well_behind_the_cursor() -> None:
    witnesses = Witnesses(["a", "b"])
    witnesses.saw("a", [_log(1), _log(2)], 5, 0.0, {})
    witnesses.saw("b", [_log(2)], 1 + MARGIN, 0.0, {})
    assert witnesses.omissions() == {}
    witnesses.saw("b", [], 3 + MARGIN, 0.0, {})
    assert witnesses.omissions() == {"b": 1}
    assert witnesses.omissions() == {}


def test_a_ceremony_waits_until_another_node_has_the_same_log() -> None:
    witnesses = Witnesses(["a", "b", "c"])
    log = _log(5)
    witnesses.saw("a", [log], 5, 100.0, _words(log))
    assert witnesses.waiting(99.0) == []
    (waiting,) = witnesses.waiting(100.0)
    assert waiting.words == "crsgen 1"
    assert waiting.reported_by == ("a",)
    assert waiting.missing == ("b", "c")
    assert waiting.passed == ()
    witnesses.saw("c", [], 6, 101.0, {})
    assert witnesses.waiting(100.0)[0].passed == ("c",)
    witnesses.saw("b", [_log(5, tag=1)], 6, 102.0, {})
    assert len(witnesses.waiting(103.0)) == 1, "another block's log is another log"
    witnesses.saw("c", [log], 7, 103.0, _words(log))
    assert witnesses.waiting(103.0) == []


def test_one_node_has_nobody_to_wait_for() -> None:
    log = _log(5)
    alone = Witnesses(["a"])
    alone.saw("a", [log], 5, 0.0, _words(log))
    assert alone.waiting(10.0) == []


def test_a_rewind_forgets_what_only_that_node_reported() -> None:
    witnesses = Witnesses(["a", "b"])
    mine, both, below = _log(7), _log(8), _log(3)
    witnesses.saw("a", [below, mine, both], 8, 0.0, _words(mine))
    witnesses.saw("b", [both], 8, 0.0, {})
    witnesses.rewound("a", 5)
    assert witnesses.waiting(1.0) == []
    assert not witnesses.known_to("a", mine)
    assert witnesses.known_to("b", both)
    assert not witnesses.known_to("a", both)
    assert witnesses.known_to("a", below)


def test_memory_is_bounded() -> None:
    witnesses = Witnesses(["a"])
    for start in range(0, 3 * MAX_LOGS, 1000):
        witnesses.saw("a", [_log(number) for number in range(start, start + 1000)], start, 0.0, {})
    assert len(witnesses._sightings) == MAX_LOGS
    assert witnesses.known_to("a", _log(3 * MAX_LOGS - 1))
