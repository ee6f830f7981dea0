"""Fees of EIP-1559: what the market asks, within caps, and what a replacement must offer. Pure.

All amounts are wei per gas. `cap` is the operator's `max_fee_per_gas`, None without one.
"""

from collections.abc import Sequence
from typing import NamedTuple

BUMP_PERCENT = 10
"""The least by which pools want both fees of a replacement raised (go-ethereum's default `pricebump`)."""

LEAST_PRIORITY = 1
"""wei; pools refuse a tip of nothing where blocks have one."""

MARKET_LIMIT = 5
"""Times the market's price beyond which no replacement goes by itself, whatever its age: a chain that stands still
must not drive fees up."""

HISTORY_BLOCKS = 10
"""Blocks of `eth_feeHistory` that the tip is taken from."""

REWARD_PERCENTILE = 20
"""Percentile of the tips in each of these blocks."""


class Fees(NamedTuple):
    """Both fees of a transaction; `priority` ≤ `max_fee`."""

    max_fee: int
    priority: int


class Market(NamedTuple):
    """What the chain asks now: base fee of the next block, and a customary tip."""

    base_fee: int
    priority: int


def market_from_history(base_fees: Sequence[int], rewards: Sequence[Sequence[int]]) -> Market:
    """The market after `eth_feeHistory`: its last base fee is the next block's; the tip is the median of the rewards.

    Raises ValueError for a history without base fees.
    """
    if not base_fees:
        raise ValueError("a fee history without base fees")
    tips = sorted(row[0] for row in rewards if row and row[0] > 0)
    return Market(base_fees[-1], max(LEAST_PRIORITY, tips[len(tips) // 2] if tips else 0))


def market_from_price(gas_price: int) -> Market:
    """The market of a chain that only knows `eth_gasPrice`: all of it counts as base fee."""
    return Market(gas_price, LEAST_PRIORITY)


def first_fees(market: Market, cap: int | None) -> Fees | None:
    """Fees of a new transaction: twice the base fee (good for six full blocks) and the tip.

    None when even the next block's base fee is above the cap: such a transaction could not be mined now.
    """
    if cap is not None and market.base_fee > cap:
        return None
    return _capped(2 * market.base_fee + market.priority, market.priority, cap)


def replacement_fees(old: Fees, market: Market, cap: int | None) -> Fees | None:
    """Fees that replace `old` in every pool: at least 10 % more of both, more where the market has moved.

    None when the cap leaves no room for 10 % more, or when the price is MARKET_LIMIT times the market's already.
    """
    least_max, least_priority = _raised(old.max_fee), _raised(old.priority)
    if cap is not None and least_max > cap:
        return None
    if least_max > MARKET_LIMIT * (2 * market.base_fee + max(market.priority, old.priority)):
        return None
    priority = max(least_priority, market.priority)
    wanted = max(least_max, 2 * market.base_fee + priority)
    fees = _capped(wanted, priority, cap)
    return fees if fees.priority >= least_priority else None


def _raised(fee: int) -> int:
    return fee + max(1, -(-fee * BUMP_PERCENT // 100))


def _capped(max_fee: int, priority: int, cap: int | None) -> Fees:
    if cap is not None:
        max_fee = min(max_fee, cap)
    return Fees(max_fee, min(priority, max_fee))
