"""Receipts of mined transactions: from whole blocks where many of ours stand in them, else by hash.

A block's receipts are one question and one piece of work for the node, whatever the number of ours. They hold everybody
else's too, so a block of which we are a small part is not worth it. Nothing depends on it: what no block shows is asked
for by hash.
"""

from collections.abc import Sequence

import trio

from kmsd.chain.jsonrpc import Receipt
from kmsd.chain.nonces import Flight
from kmsd.ports import DependencyDown, JournalEntry
from kmsd.sending.questions import BlockReceipts, Questions

MOST_BLOCKS = 8
"""New blocks that are read whole; after a longer silence receipts are asked for by hash."""
WORTH = 32
"""Transactions of ours in a block from which on it may be worth reading."""
LEAST_SHARE = 0.2
"""Share of a block's transactions that has to be ours; one by hash costs as much as five that are not ours."""
PAUSE = 60.0
"""Seconds without reading blocks after one of which too little was ours, or a node that could not tell."""


class Receipts:
    """What the chain says of transactions of ours; remembers those of blocks that were read and not yet asked for."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._known: dict[bytes, Receipt] = {}
        self._head: int | None = None
        self._by_hash_until = float("-inf")

    def forget(self) -> None:
        """Blocks that were read may have fallen out of the chain."""
        self._known.clear()

    async def look_into_blocks(self, head: int, mined: Sequence[Flight]) -> None:
        """The chain's head is `head` now, and `mined` are the flights it has mined."""
        last, self._head = self._head, head
        hashes = {entry.tx_hash: None for flight in mined for entry in flight.attempts}
        self._known = {tx_hash: receipt for tx_hash, receipt in self._known.items() if tx_hash in hashes}
        blocks = head - last if last is not None else 0
        new = len(mined) - len(self._known)
        if not 0 < blocks <= MOST_BLOCKS or new < WORTH * blocks or trio.current_time() < self._by_hash_until:
            return
        try:
            answer = await self._questions.block_receipts(range(head - blocks + 1, head + 1), hashes)
        except DependencyDown:
            answer = BlockReceipts({}, 0)  # blocks too large for the node's patience or ours, or no such method
        self._known.update(answer.ours)
        if len(answer.ours) < LEAST_SHARE * answer.total or answer.total == 0:
            self._by_hash_until = trio.current_time() + PAUSE

    async def of(self, flights: Sequence[Flight]) -> dict[int, tuple[JournalEntry, Receipt]]:
        """By nonce, the attempt that was mined and its receipt. Raises DependencyDown."""
        found: dict[int, tuple[JournalEntry, Receipt]] = {}
        asked: list[tuple[Flight, JournalEntry]] = []
        for flight in flights:
            known = [(entry, self._known[entry.tx_hash]) for entry in flight.attempts if entry.tx_hash in self._known]
            if known:
                found[flight.nonce] = known[-1]
            else:
                asked += [(flight, entry) for entry in flight.attempts]
        answers = await self._questions.receipts(
            [entry.tx_hash for _, entry in asked], [len(entry.raw) for _, entry in asked]
        )
        for (flight, entry), receipt in zip(asked, answers, strict=True):
            if receipt is not None:
                found[flight.nonce] = (entry, receipt)
        return found
