"""When the chain went another way: find the fork, withdraw what fell, read again from there (EV5; decisions.md 9)."""

import logging
from collections.abc import Iterable, Mapping

import trio

from kmsd.chain import forks
from kmsd.chain.scan import Unproven, block_hashes
from kmsd.listening.around import Around
from kmsd.operations.kinds import Stream
from kmsd.operations.table import OPERATIONS
from kmsd.ports import BlockRef, DependencyDown, Node, Rewind, StoredRef

log = logging.getLogger("kmsd.listener")

ASK_AT_ONCE = 64
"""Blocks asked for in one batch."""


async def rewind(around: Around, node: Node, stream: Stream, cursor: BlockRef, sign: str) -> BlockRef | None:
    """Move the cursor back to the fork and withdraw orphaned requests; the new cursor, None when another daemon did.

    `sign` says how it was noticed. A request is an orphan when no node that answers has its
    block any more. Raises DependencyDown, Unproven.
    """
    fork = await _fork(around, node, stream, cursor)
    rows = await around.store.stored_after(stream, fork.number)
    orphaned = forks.orphans(rows, await _views(around, node, rows)) if rows else []
    reason = f"node {node.name}: {sign}; read again after block {fork.number}"
    if orphaned:
        await _let_others_read_again(around, node, stream, fork.number)
    to = fork
    while not await around.store.rewind(Rewind(node.name, stream, cursor, to, orphaned, reason)):
        # Another node's reader saw the same and took this cursor back too (below): what fell falls all the same.
        moved = await around.store.cursor(node.name, stream)
        if moved is None or moved.number > fork.number or not orphaned:
            return None
        cursor = to = moved
    around.metrics.inc("kms_connector_listener_reorganisations", node.name, stream.value)
    log.warning("%s was reorganised: %s; %d requests fell with it", stream.value, reason, len(orphaned))
    for row in orphaned:
        if row.already_sent:
            log.error(
                "%s %064x was sent to the Core, but its block %d was orphaned", row.kind.value, row.id, row.block_number
            )
        else:
            around.metrics.inc("kms_connector_listener_withdrawn", OPERATIONS[row.kind].label)
    return to


async def _let_others_read_again(around: Around, node: Node, stream: Stream, number: int) -> None:
    """Take back the other nodes' cursors too: what is withdrawn may still stand on a node that did not answer now.

    Before the withdrawal, so that a crash in between costs a second reading and no request. Their readers notice by
    the cursor.
    """
    for other in around.nodes:
        cursor = await around.store.cursor(other.name, stream)
        if other is node or cursor is None or cursor.number <= number:
            continue
        ends = await around.store.range_ends(other.name, stream)
        back = next((end for end in ends if end.number <= number), BlockRef(number, b""))
        await around.store.rewind(Rewind(other.name, stream, cursor, back, (), f"node {node.name} was reorganised"))


async def _fork(around: Around, node: Node, stream: Stream, cursor: BlockRef) -> BlockRef:
    """The newest range end that the node still has, or a block well below all of them."""
    ends = await around.store.range_ends(node.name, stream)
    for start in range(0, len(ends), ASK_AT_ONCE):
        part = ends[start : start + ASK_AT_ONCE]
        hashes = await block_hashes(node, [end.number for end in part], deadline=around.settings.rpc_timeout)
        if (common := forks.newest_common(part, hashes)) is not None:
            return common
    number = forks.below(ends, cursor.number)
    (found,) = (await block_hashes(node, [number], deadline=around.settings.rpc_timeout)).values()
    if found is None:
        raise Unproven(f"shows neither a range end of before nor block {number}")
    return BlockRef(number, found)


async def _views(around: Around, node: Node, rows: Iterable[StoredRef]) -> list[Mapping[int, bytes | None]]:
    """What each node that answers has at the rows' blocks; `node` itself must answer."""
    numbers = sorted({row.block_number for row in rows})
    found: dict[str, Mapping[int, bytes | None]] = {}

    async def ask(one: Node) -> None:
        hashes: dict[int, bytes | None] = {}
        try:
            for start in range(0, len(numbers), ASK_AT_ONCE):
                part = numbers[start : start + ASK_AT_ONCE]
                hashes.update(await block_hashes(one, part, deadline=around.settings.rpc_timeout))
        except (DependencyDown, Unproven) as fault:
            log.warning("node %s was not heard about orphaned blocks: %s", one.name, fault)
        else:
            found[one.name] = hashes

    async with trio.open_nursery() as nursery:
        for one in around.nodes:
            nursery.start_soon(ask, one)
    if node.name not in found:
        raise Unproven("did not say which blocks it still has")
    return [found[one.name] for one in around.nodes if one.name in found]
