"""Reading one block range of one node, and the proof that the node had it (decisions.md 8; EV3).

One batch asks the node for the cursor's block, the range's last block, the logs, and the last block again. The range
counts as scanned only when the last block's hash is the same before and after; a node that lags or reorganises
meanwhile shows none or another one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import attrs

from kmsd.chain import jsonrpc
from kmsd.chain.jsonrpc import BadAnswer, Block, to_data, to_quantity
from kmsd.chain.ranges import BlockRange
from kmsd.ports import BlockRef, Log, Node, RpcAnswer, RpcCall


@attrs.frozen
class LogFilter:
    """The logs that one stream wants: of one contract, with one of these first topics."""

    address: bytes
    topics: tuple[bytes, ...]

    def matches(self, log: Log) -> bool:
        """True for a log that this filter asks for."""
        return log.address == self.address and bool(log.topics) and log.topics[0] in self.topics

    def query(self, blocks: BlockRange) -> RpcCall:
        """The `eth_getLogs` call for a range."""
        return RpcCall(
            "eth_getLogs",
            (
                {
                    "fromBlock": to_quantity(blocks.first),
                    "toBlock": to_quantity(blocks.last),
                    "address": to_data(self.address),
                    "topics": [[to_data(topic) for topic in self.topics]],
                },
            ),
        )


class Scanned(NamedTuple):
    """A proven range: its last block and its logs in chain order. `strays` counts logs that nobody asked for."""

    blocks: BlockRange
    end: Block
    logs: Sequence[Log]
    strays: int


class Reorganised(NamedTuple):
    """The cursor's block is no longer the node's: `seen` is the hash that stands at its number now."""

    seen: bytes


class Unproven(Exception):
    """The node's answers do not prove that it had the whole range; ask again."""


class RangeRefused(Exception):
    """The node answered `eth_getLogs` with an error: too many blocks, too many logs, or a fault. Ask for less."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"code {code}: {message}")


def block_call(number: int | str) -> RpcCall:
    """A block by number or tag, with hashes of its transactions only."""
    return RpcCall("eth_getBlockByNumber", (number if isinstance(number, str) else to_quantity(number), False))


async def latest_block(node: Node, *, deadline: float) -> Block:
    """The node's newest block. Raises DependencyDown, Unproven."""
    (answer,) = await node.batch([block_call("latest")], deadline=deadline)
    found = _block(answer)
    if found is None:
        raise Unproven("shows no latest block")
    return found


async def block_hashes(node: Node, numbers: Sequence[int], *, deadline: float) -> dict[int, bytes | None]:
    """The node's hash of each block, None where it has none. Raises DependencyDown, Unproven."""
    answers = await node.batch([block_call(number) for number in numbers], deadline=deadline)
    blocks = [_block(answer) for answer in answers]
    return {number: block and block.hash for number, block in zip(numbers, blocks, strict=True)}


async def scan(
    node: Node, cursor: BlockRef | None, blocks: BlockRange, wanted: LogFilter, *, deadline: float
) -> Scanned | Reorganised:
    """Read `blocks` from `node` and prove them. `cursor` is compared where it has a hash.

    Raises DependencyDown, Unproven, RangeRefused. Logs that nobody asked for (another contract, topic, block; marked
    removed) are counted and dropped: they are none of ours whatever the node means by them.
    """
    calls = [block_call(blocks.last), wanted.query(blocks), block_call(blocks.last)]
    compared = cursor if cursor is not None and cursor.hash else None
    if compared is not None:
        calls.insert(0, block_call(compared.number))
    answers = list(await node.batch(calls, deadline=deadline))
    if compared is not None:
        there = _block(answers.pop(0))
        if there is None:
            raise Unproven(f"no longer shows block {compared.number}, which was scanned")
        if there.hash != compared.hash:
            return Reorganised(there.hash)
    before, after = _block(answers[0]), _block(answers[2])
    if before is None or after is None:
        raise Unproven(f"does not have block {blocks.last} yet")
    if before.hash != after.hash:
        raise Unproven(f"showed two hashes of block {blocks.last}")
    if before.number != blocks.last:
        raise Unproven(f"showed block {before.number} instead of {blocks.last}")
    logs, strays = _logs(answers[1], blocks, wanted)
    _check_hashes(logs, [before.ref] if compared is None else [before.ref, compared])
    return Scanned(blocks, before, logs, strays)


def _block(answer: RpcAnswer) -> Block | None:
    """A block, None where the node has none; an error means the same (some say "header not found")."""
    if answer.error is not None:
        return None
    try:
        return jsonrpc.block(answer.result)
    except BadAnswer as bad:
        raise Unproven(f"gave an unusable block: {bad}") from None


def _logs(answer: RpcAnswer, blocks: BlockRange, wanted: LogFilter) -> tuple[list[Log], int]:
    if answer.error is not None:
        raise RangeRefused(answer.error.code, answer.error.message)
    result: Any = answer.result
    try:
        logs, strays = jsonrpc.logs(result)
    except BadAnswer as bad:
        raise Unproven(f"gave unusable logs: {bad}") from None
    ours = [log for log in logs if wanted.matches(log) and blocks.first <= log.block_number <= blocks.last]
    return ours, strays + len(logs) - len(ours)


def _check_hashes(logs: Sequence[Log], known: Sequence[BlockRef]) -> None:
    """One block has one hash: logs of two chains in one answer prove nothing."""
    hashes = {ref.number: ref.hash for ref in known}
    for log in logs:
        if hashes.setdefault(log.block_number, log.block_hash) != log.block_hash:
            raise Unproven(f"gave logs of two blocks {log.block_number}")
