"""Where two histories part, and which requests fell with the other one (EV5; decisions.md 9). Pure."""

from collections.abc import Iterable, Mapping, Sequence

from kmsd.chain.ranges import FIRST_SPAN
from kmsd.ports import BlockRef, StoredRef

KEPT = 256
"""Range ends that the store keeps of a node and stream."""
DEEPER = 256
"""Blocks below the oldest kept range end from which to read again when none of them is left."""


def newest_common(ends: Iterable[BlockRef], hashes: Mapping[int, bytes | None]) -> BlockRef | None:
    """The first of `ends` (newest first) that the node still has: everything after it is read again."""
    return next((end for end in ends if end.hash and hashes.get(end.number) == end.hash), None)


def below(ends: Sequence[BlockRef], cursor: int) -> int:
    """The block to go back to when no kept end is left: some way below the oldest one.

    With few ends the oldest is where reading began: then no further than that first range can have reached.
    """
    oldest = min((end.number for end in ends), default=cursor)
    return max(0, oldest - (DEEPER if len(ends) >= KEPT else FIRST_SPAN))


def orphans(rows: Iterable[StoredRef], views: Sequence[Mapping[int, bytes | None]]) -> list[StoredRef]:
    """Rows whose block is in none of the `views` (one of each reachable node: block number → hash)."""
    return [row for row in rows if not any(view.get(row.block_number) == row.block_hash for view in views)]
