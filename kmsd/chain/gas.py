"""Gas limits: estimates remembered for each kind and size of calldata, with room above them. Pure.

The vote that crosses the threshold costs more than any estimate made before it, so the percentage of the operations'
table applies where it is larger than the configured one (decisions.md 25a).
"""

from collections import OrderedDict

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS

ESTIMATE_AGE = 60.0
"""Seconds after which an estimate is made again: on Nitro it holds the price of L1 data, which moves."""

SIZE_CLASS = 256
"""Bytes of calldata that share an estimate."""

GAS_PER_BYTE = 160
"""Gas added for each byte of calldata beyond the one estimated (one more handle of a public decryption costs 4,500)."""

MAX_CLASSES = 1024
"""Estimates remembered; the one that was used longest ago is forgotten."""

OUT_OF_GAS_PERCENT = 97
"""A reverted transaction that used this much of its limit may have run out of gas (behind a proxy: 98.5 to 99.5 %)."""

MAX_OUT_OF_GAS = 3
"""Times in a row after which running out of gas counts as an attempt."""


@attrs.frozen
class Estimate:
    """Gas that a node estimated for `size` bytes of calldata; `at` is an instant of the monotonic clock."""

    gas: int
    size: int
    at: float


class GasTable:
    """Estimates by kind and size class, and the limits that follow from them."""

    def __init__(self, multiplier_percent: int) -> None:
        self._multiplier_percent = multiplier_percent
        self._estimates: OrderedDict[tuple[Kind, int], Estimate] = OrderedDict()
        self.block_gas_limit: int | None = None

    def learn(self, kind: Kind, size: int, gas: int, now: float) -> None:
        """Remember a node's estimate for calldata of `size` bytes."""
        key = (kind, size // SIZE_CLASS)
        self._estimates[key] = Estimate(gas, size, now)
        self._estimates.move_to_end(key)
        while len(self._estimates) > MAX_CLASSES:
            self._estimates.popitem(last=False)

    def forget(self, kind: Kind, size: int) -> None:
        """Estimate this class again: a transaction of it ran out of gas or was reverted."""
        self._estimates.pop((kind, size // SIZE_CLASS), None)

    def limit(self, kind: Kind, size: int, now: float, floor: int = 0) -> int | None:
        """The limit for calldata of `size` bytes, at least `floor`; None when it must be estimated first."""
        key = (kind, size // SIZE_CLASS)
        estimate = self._estimates.get(key)
        if estimate is None or now - estimate.at > ESTIMATE_AGE:
            return None
        self._estimates.move_to_end(key)
        return self.limit_from(kind, estimate.gas + max(0, size - estimate.size) * GAS_PER_BYTE, floor)

    def limit_from(self, kind: Kind, gas: int, floor: int = 0) -> int:
        """The limit above an estimate of `gas`, at most the block's gas limit."""
        response = OPERATIONS[kind].response
        percent = max(self._multiplier_percent, response.gas_percent if response is not None else 100)
        limit = max(floor, -(-gas * percent // 100))
        return limit if self.block_gas_limit is None else min(limit, self.block_gas_limit)


def may_be_out_of_gas(gas_used: int, gas_limit: int) -> bool:
    """True when a reverted transaction used so much of its limit that the limit may be the reason."""
    return gas_used * 100 >= gas_limit * OUT_OF_GAS_PERCENT


def after_out_of_gas(gas_limit: int) -> int:
    """The least limit of the next try."""
    return 2 * gas_limit
