"""Fees and gas limits: pure arithmetic with the rules of pools and contracts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.chain.fees import (
    LEAST_PRIORITY,
    MARKET_LIMIT,
    Fees,
    Market,
    first_fees,
    market_from_history,
    market_from_price,
    replacement_fees,
)
from kmsd.chain.gas import ESTIMATE_AGE, MAX_CLASSES, GasTable, after_out_of_gas, may_be_out_of_gas
from kmsd.operations.kinds import Kind

wei = st.integers(0, 10**13)


def test_market_is_the_next_base_fee_and_the_median_of_paid_tips() -> None:
    assert market_from_history([100, 110, 120], [[5], [0], [9], [7]]) == Market(120, 7)
    assert market_from_history([100], []) == Market(100, LEAST_PRIORITY)
    assert market_from_price(50) == Market(50, LEAST_PRIORITY)
    with pytest.raises(ValueError, match="base fees"):
        market_from_history([], [])


@given(wei, wei, st.one_of(st.none(), wei))
def test_first_fees_stay_within_the_cap_and_can_be_mined_now(base: int, tip: int, cap: int | None) -> None:
    fees = first_fees(Market(base, tip), cap)
    if cap is not None and base > cap:
        assert fees is None
        return
    assert fees is not None
    assert base <= fees.max_fee
    assert fees.priority <= fees.max_fee
    assert cap is None or fees.max_fee <= cap


@pytest.mark.guarantee("TX5")
@given(wei, wei, wei, wei, st.one_of(st.none(), wei))
def test_replacements_are_ten_percent_dearer_in_both_fees_and_within_the_cap(
    old_max: int, old_tip: int, base: int, tip: int, cap: int | None
) -> None:
    old = Fees(max(old_max, old_tip), min(old_max, old_tip))
    fees = replacement_fees(old, Market(base, tip), cap)
    if fees is None:
        return
    assert fees.max_fee * 100 >= old.max_fee * 110
    assert fees.priority * 100 >= old.priority * 110
    assert fees.max_fee > old.max_fee
    assert fees.priority > old.priority
    assert fees.priority <= fees.max_fee
    assert cap is None or fees.max_fee <= cap


def test_replacement_follows_the_market_and_stops_at_a_multiple_of_it() -> None:
    assert replacement_fees(Fees(200, 1), Market(1000, 50), None) == Fees(2050, 50)
    fees: Fees | None = Fees(201, 1)
    steps = 0
    while fees is not None:
        last, fees = fees, replacement_fees(fees, Market(100, 1), None)
        steps += 1
    assert 10 < steps < 40
    assert last.max_fee <= MARKET_LIMIT * (200 + last.priority)


def test_no_replacement_where_the_cap_leaves_no_room() -> None:
    assert replacement_fees(Fees(100, 1), Market(50, 1), 109) is None
    assert replacement_fees(Fees(100, 1), Market(50, 1), 110) == Fees(110, 2)


# ---------------------------------------------------------------------------------------------------------------------


def test_limits_use_the_larger_of_configured_and_needed_percentage() -> None:
    table = GasTable(115)
    assert table.limit_from(Kind.PUBLIC_DECRYPTION, 100_000) == 175_000
    assert table.limit_from(Kind.USER_DECRYPTION, 100_000) == 125_000
    assert table.limit_from(Kind.PREP_KEYGEN, 100_000) == 160_000
    assert table.limit_from(Kind.KEYGEN, 100_000) == 400_000
    assert table.limit_from(Kind.CRSGEN, 100_000) == 400_000
    assert GasTable(500).limit_from(Kind.USER_DECRYPTION, 100_000) == 500_000


def test_estimates_are_shared_within_a_kind_and_size_class_and_grow_old() -> None:
    table = GasTable(100)
    assert table.limit(Kind.PUBLIC_DECRYPTION, 300, 0.0) is None
    table.learn(Kind.PUBLIC_DECRYPTION, 300, 100_000, 0.0)
    assert table.limit(Kind.PUBLIC_DECRYPTION, 300, 1.0) == 175_000
    assert (table.limit(Kind.PUBLIC_DECRYPTION, 310, 1.0) or 0) > 175_000
    assert table.limit(Kind.PUBLIC_DECRYPTION, 600, 1.0) is None
    assert table.limit(Kind.USER_DECRYPTION, 300, 1.0) is None
    assert table.limit(Kind.PUBLIC_DECRYPTION, 300, ESTIMATE_AGE + 1) is None
    table.learn(Kind.PUBLIC_DECRYPTION, 300, 100_000, 0.0)
    table.forget(Kind.PUBLIC_DECRYPTION, 310)
    assert table.limit(Kind.PUBLIC_DECRYPTION, 300, 1.0) is None


def test_limits_keep_to_floor_and_block() -> None:
    table = GasTable(100)
    assert table.limit_from(Kind.USER_DECRYPTION, 100_000, floor=900_000) == 900_000
    table.block_gas_limit = 500_000
    assert table.limit_from(Kind.USER_DECRYPTION, 100_000, floor=900_000) == 500_000


def test_remembered_estimates_are_bounded() -> None:
    table = GasTable(100)
    for size in range(0, 256 * (MAX_CLASSES + 50), 256):
        table.learn(Kind.USER_DECRYPTION, size, 1, 0.0)
    assert table.limit(Kind.USER_DECRYPTION, 0, 0.0) is None
    assert len(table._estimates) == MAX_CLASSES


def test_crossing_votes_of_thirteen_parties_fit_into_the_limits() -> None:
    """wire/gateway.md 3.3: estimates made on the vote before, and what the crossing vote used."""
    table = GasTable(115)
    for kind, before, crossing in (
        (Kind.PUBLIC_DECRYPTION, 230_500, 364_422),
        (Kind.USER_DECRYPTION, 229_970, 254_559),
        (Kind.PREP_KEYGEN, 127_638, 176_744),
        (Kind.KEYGEN, 140_271, 516_291),
        (Kind.CRSGEN, 132_200, 412_257),
    ):
        assert table.limit_from(kind, before) >= crossing, kind


def test_out_of_gas_is_recognised_by_what_was_used() -> None:
    assert may_be_out_of_gas(98_500, 100_000)
    assert may_be_out_of_gas(97_000, 100_000)
    assert not may_be_out_of_gas(96_999, 100_000)
    assert after_out_of_gas(100_000) == 200_000
