"""Access that was granted, for as long as the request lives (weakness W4): a retry asks no host chain again."""

from typing import Any

from kmsd.operations.kinds import Kind
from kmsd.ports import Claimed

MAX_GRANTS = 4096
"""Requests remembered; past it the one that was granted longest ago is asked about anew."""


class Grants:
    """Remembers requests whose access checks all passed.

    A grant is for exactly what was asked by exactly that transaction: after a reorganisation the same id may mean
    another request. It ends with the request, and with the daemon: nothing of it is stored.
    """

    def __init__(self) -> None:
        self._granted: dict[tuple[Kind, int], tuple[Any, bytes | None]] = {}

    def __len__(self) -> int:
        return len(self._granted)

    def has(self, row: Claimed) -> bool:
        """Whether access was granted to this very request."""
        return self._granted.get((row.kind, row.id)) == (row.event, row.tx_hash)

    def add(self, row: Claimed) -> None:
        """Every check of `row` was answered with yes."""
        while len(self._granted) >= MAX_GRANTS:
            del self._granted[next(iter(self._granted))]
        self._granted[row.kind, row.id] = (row.event, row.tx_hash)

    def drop(self, row: Claimed) -> None:
        """The request is over, or no longer ours."""
        self._granted.pop((row.kind, row.id), None)
