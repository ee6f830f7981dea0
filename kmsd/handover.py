"""Fresh rows go straight from the listener to an idle worker of the same daemon (decisions.md 4).

The listener reserves room, leases that many rows in the transaction that inserts them, and delivers them or cancels;
all of that inside `leasing`, so that the worker knows of rows whose delivery never came.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from kmsd.operations.kinds import Kind
from kmsd.ports import Claimed


class Handover(Protocol):
    """The worker's side, as the listener sees it. No method waits."""

    def leasing(self) -> AbstractContextManager[None]:
        """Around a statement that may lease rows to this daemon, and the delivery of what it leased.

        An exception out of the block leaves open whether it did: the worker looks for such rows at once.
        """

    def reserve(self, kind: Kind, wanted: int) -> int:
        """Reserve up to `wanted` places for fresh rows of `kind`: how many there are, 0 while the worker is busy."""

    def deliver(self, claimed: Sequence[Claimed]) -> None:
        """Hand over committed rows, leased to this daemon, each into a reserved place."""

    def cancel(self, kind: Kind, n: int) -> None:
        """Give back `n` reserved places that were not needed."""


class NoHandover:
    """For a daemon without the role of worker: nothing is ever reserved."""

    def leasing(self) -> AbstractContextManager[None]:
        """Nothing is leased."""
        return nullcontext()

    def reserve(self, kind: Kind, wanted: int) -> int:
        """Nothing."""
        return 0

    def deliver(self, claimed: Sequence[Claimed]) -> None:
        """Never called with rows, since nothing was reserved."""

    def cancel(self, kind: Kind, n: int) -> None:
        """Nothing was reserved."""
