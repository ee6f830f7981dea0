"""EIP-1559 encoding, compared byte by byte with eth-account."""

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.chain.transactions import (
    MalformedTransaction,
    Transaction,
    assemble,
    decode,
    signing_digest,
    transaction_hash,
)
from kmsd.wire.addresses import to_checksum
from kmsd.wire.signatures import address_of, sign

KEY = bytes(range(1, 33))

transactions = st.builds(
    Transaction,
    chain_id=st.integers(1, 2**63),
    nonce=st.integers(0, 2**63),
    max_priority_fee_per_gas=st.integers(0, 2**96),
    max_fee_per_gas=st.integers(0, 2**96),
    gas_limit=st.integers(0, 2**63),
    to=st.binary(min_size=20, max_size=20),
    value=st.integers(0, 2**128),
    data=st.one_of(st.binary(max_size=80), st.binary(min_size=1000, max_size=1100)),
)


@settings(max_examples=150, deadline=None)
@given(transactions)
def test_bytes_and_hash_are_those_of_eth_account(transaction: Transaction) -> None:
    payload = transaction.payload()
    raw = assemble(payload, sign(signing_digest(payload), KEY))
    expected = Account.sign_transaction(
        {
            "type": 2,
            "chainId": transaction.chain_id,
            "nonce": transaction.nonce,
            "maxPriorityFeePerGas": transaction.max_priority_fee_per_gas,
            "maxFeePerGas": transaction.max_fee_per_gas,
            "gas": transaction.gas_limit,
            "to": to_checksum(transaction.to),
            "value": transaction.value,
            "data": transaction.data,
        },
        KEY,
    )
    assert raw == bytes(expected.raw_transaction)
    assert transaction_hash(raw) == bytes(expected.hash)
    signed = decode(raw)
    assert signed.transaction == transaction
    assert signed.sender == address_of(KEY)
    assert signed.hash == bytes(expected.hash)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: b"\x02" + tail)))
def test_garbage_is_malformed_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(MalformedTransaction):
        decode(raw)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255))
def test_damaged_transactions_decode_to_something_else_or_not_at_all(position: int, value: int) -> None:
    payload = Transaction(31337, 5, 1, 10**9, 21_000, b"\x01" * 20, 0, b"\x07" * 40).payload()
    raw = assemble(payload, sign(signing_digest(payload), KEY))
    damaged = raw[: position % len(raw)] + bytes((value,)) + raw[position % len(raw) + 1 :]
    if damaged == raw:
        return
    try:
        signed = decode(damaged)
    except MalformedTransaction:
        return
    assert assemble(signed.transaction.payload(), b"\0" * 64 + b"\x1b")[:1] == b"\x02"
    assert signed.sender != address_of(KEY) or signed.transaction == decode(raw).transaction


def test_signatures_of_another_form_are_refused() -> None:
    payload = Transaction(1, 0, 0, 0, 0, b"\0" * 20, 0, b"").payload()
    for signature in (b"", b"\x01" * 64, b"\x01" * 64 + b"\x01"):
        with pytest.raises(ValueError, match="signature"):
            assemble(payload, signature)


def test_other_types_are_refused() -> None:
    legacy = Account.sign_transaction(
        {"nonce": 0, "gasPrice": 1, "gas": 21_000, "to": "0x" + "01" * 20, "value": 0, "data": b"", "chainId": 1}, KEY
    )
    with pytest.raises(MalformedTransaction):
        decode(bytes(legacy.raw_transaction))
