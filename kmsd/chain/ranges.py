"""Which blocks to read next: pure arithmetic of cursor, head and limits (EV1, EV2; decisions.md 7, 8)."""

from typing import NamedTuple

import attrs

MANY_LOGS = 2_000
"""Logs that one range should bring at most; denser blocks make ranges shorter, down to one block."""


FIRST_SPAN = 64
"""New blocks of the first range."""


class BlockRange(NamedTuple):
    """Blocks `first` to `last`, both included."""

    first: int
    last: int


def next_range(cursor: int, head: int, *, confirmations: int, span: int, overlap: int) -> BlockRange | None:
    """The blocks to read after `cursor`, or None while there is nothing new.

    `cursor` is the last block that was scanned (−1: none). At most `span` new blocks, none above
    `head − confirmations`; the last `overlap` blocks before the cursor's end are read again, against balancers whose
    nodes lag. A span of one reads a single block, so that a node's limits can always be met.
    """
    last = min(head - confirmations, cursor + span)
    if last <= cursor:
        return None
    return BlockRange(max(0, cursor + 1 - min(overlap, span - 1)), last)


@attrs.frozen
class Span:
    """How many new blocks one range asks for: halved when a node refuses or fails, grown by an eighth on success."""

    limit: int
    size: int

    @classmethod
    def of(cls, limit: int) -> "Span":
        """Start well below the limit (`get_logs_batch_size` blocks): nobody knows yet how dense the blocks are."""
        return cls(limit, min(limit, FIRST_SPAN))

    def shrunk(self) -> "Span":
        """After a range that the node refused, cut off or did not answer in time."""
        return attrs.evolve(self, size=max(1, self.size // 2))

    def after(self, blocks: int, logs: int) -> "Span":
        """After a range of `blocks` new blocks that brought `logs` logs. Grows only from a range that filled it."""
        if logs > MANY_LOGS:
            return attrs.evolve(self, size=max(1, min(self.size, blocks * MANY_LOGS // logs)))
        if blocks < self.size:
            return self
        return attrs.evolve(self, size=min(self.limit, self.size + max(1, self.size // 8)))
