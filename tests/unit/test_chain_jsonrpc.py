"""Values and envelopes of JSON-RPC: what is well-formed becomes bytes and numbers, all else one error."""

import copy
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.chain import jsonrpc
from kmsd.chain.jsonrpc import BadAnswer, BatchRefused
from kmsd.ports import Log, RpcAnswer, RpcCall, RpcError

HASH = "0x" + "ab" * 32

BLOCK = {
    "number": "0x1b4",
    "hash": HASH,
    "parentHash": "0x" + "cd" * 32,
    "timestamp": "0x55ba467c",
    "gasLimit": "0x1c9c380",
    "baseFeePerGas": "0x7",
    "logsBloom": "0x" + "00" * 256,
    "transactions": [HASH],
}
LOG = {
    "address": "0x" + "11" * 20,
    "topics": [HASH],
    "data": "0xbeef",
    "blockNumber": "0x1b4",
    "blockHash": HASH,
    "transactionHash": "0x" + "ef" * 32,
    "transactionIndex": "0x0",
    "logIndex": "0x3",
    "removed": False,
}
RECEIPT = {
    "transactionHash": HASH,
    "status": "0x1",
    "blockNumber": "0x1",
    "blockHash": HASH,
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x3b9aca00",
}
TRANSACTION = {
    "hash": HASH,
    "from": "0x" + "11" * 20,
    "to": "0x" + "22" * 20,
    "nonce": "0x0",
    "input": "0xdeadbeef",
    "blockNumber": None,
    "blockHash": None,
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20) | st.just("0x"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(("text", "number"), [("0x0", 0), ("0x00", 0), ("0x1F", 31), ("0x" + "f" * 64, 2**256 - 1)])
def test_quantities(text: str, number: int) -> None:
    assert jsonrpc.quantity(text) == number


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0x",
        "1",
        "0x-1",
        "-0x1",
        "0x1_0",
        " 0x1",
        "0x1 ",
        "0x1\n",
        "0xg",
        "0x" + "1" * 65,
        1,
        None,
        True,
        ["0x1"],
        "0X1",
    ],
)
def test_what_is_no_quantity(value: Any) -> None:
    with pytest.raises(BadAnswer):
        jsonrpc.quantity(value)


@pytest.mark.parametrize(
    "value", ["", "0", "0x0", "0xzz", "0x11 22", "0x 11", "11", 5, None, b"0x11", ["0x11"], "0x1١"]
)
def test_what_is_no_data(value: Any) -> None:
    with pytest.raises(BadAnswer):
        jsonrpc.data(value)


def test_data_of_a_given_size() -> None:
    assert jsonrpc.data("0x0102", 2) == b"\1\2"
    with pytest.raises(BadAnswer, match="topic has 2 bytes instead of 3"):
        jsonrpc.data("0x0102", 3, "topic")


@given(st.binary(max_size=100))
def test_data_both_ways(value: bytes) -> None:
    assert jsonrpc.data(jsonrpc.to_data(value)) == value


@given(st.integers(0, 2**256 - 1))
def test_quantity_both_ways(number: int) -> None:
    assert jsonrpc.quantity(jsonrpc.to_quantity(number)) == number


def test_block() -> None:
    block = jsonrpc.block(BLOCK)
    assert block is not None
    assert (block.number, block.timestamp, block.gas_limit, block.base_fee) == (436, 0x55BA467C, 30_000_000, 7)
    assert block.ref.hash == bytes.fromhex("ab" * 32)
    assert jsonrpc.block(None) is None
    plain = jsonrpc.block({**BLOCK, "baseFeePerGas": None, "logsBloom": None})
    assert plain is not None
    assert plain.base_fee is None
    assert plain.logs_bloom is None


def test_receipt_and_transaction() -> None:
    receipt = jsonrpc.receipt(RECEIPT)
    assert receipt is not None
    assert (receipt.status, receipt.gas_used, receipt.effective_gas_price) == (1, 21_000, 10**9)
    with pytest.raises(BadAnswer):
        jsonrpc.receipt({**RECEIPT, "status": "0x2"})
    transaction = jsonrpc.transaction(TRANSACTION)
    assert transaction is not None
    assert (transaction.to, transaction.input, transaction.block_number) == (b"\x22" * 20, b"\xde\xad\xbe\xef", None)
    assert jsonrpc.receipt(None) is None
    assert jsonrpc.transaction(None) is None


def test_logs_are_sorted_and_said_once() -> None:
    later = {**LOG, "logIndex": "0x9"}
    earlier = {**LOG, "blockNumber": "0x1", "blockHash": "0x" + "01" * 32}
    logs, removed = jsonrpc.logs([later, LOG, earlier, LOG])
    assert [(log.block_number, log.log_index) for log in logs] == [(1, 3), (436, 3), (436, 9)]
    assert removed == 0


def test_logs_of_one_index_must_agree() -> None:
    with pytest.raises(BadAnswer, match="same index"):
        jsonrpc.logs([LOG, {**LOG, "data": "0x"}])


def test_removed_logs_are_none() -> None:
    assert jsonrpc.logs([{**LOG, "removed": True}]) == ([], 1)


@pytest.mark.parametrize(
    ("shape", "parse"),
    [
        (BLOCK, jsonrpc.block),
        (LOG, lambda value: jsonrpc.logs([value])),
        (RECEIPT, jsonrpc.receipt),
        (TRANSACTION, jsonrpc.transaction),
        ({k: BLOCK[k] for k in ("number", "hash", "parentHash", "logsBloom")}, jsonrpc.head),
    ],
)
@given(data=st.data())
def test_a_field_gone_wrong_is_a_bad_answer_or_an_optional_one(shape: Any, parse: Any, data: st.DataObject) -> None:
    broken = copy.deepcopy(shape)
    field = data.draw(st.sampled_from(sorted(broken)))
    broken[field] = data.draw(json_values)
    with suppress(BadAnswer):
        parse(broken)


@given(json_values)
def test_any_json_is_parsed_or_a_bad_answer(value: Any) -> None:
    for parse in (jsonrpc.block, jsonrpc.head, jsonrpc.logs, jsonrpc.receipt, jsonrpc.transaction):
        with suppress(BadAnswer):
            parse(value)


def test_log_fields() -> None:
    assert jsonrpc.log(LOG) == Log(b"\x11" * 20, (b"\xab" * 32,), b"\xbe\xef", 436, b"\xab" * 32, b"\xef" * 32, 3)


# ---------------------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_in_any_order() -> None:
    calls = [RpcCall("eth_chainId", ()), RpcCall("eth_blockNumber", ()), RpcCall("eth_call", ({}, "latest"))]
    sent = orjson.loads(jsonrpc.encode_batch(calls))
    assert [(one["id"], one["method"]) for one in sent] == [(0, "eth_chainId"), (1, "eth_blockNumber"), (2, "eth_call")]
    error = {"code": 3, "message": "execution reverted", "data": "0x01"}
    body = [{"id": 2, "error": error}, {"id": 0, "result": "0x1"}, {"id": 1, "result": None}]
    assert jsonrpc.decode_batch(orjson.dumps(body), 3) == [
        RpcAnswer("0x1"),
        RpcAnswer(None),
        RpcAnswer(None, RpcError(3, "execution reverted", "0x01")),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"[",
        b"7",
        b"[]",
        b'[{"id":0,"result":1}]',
        b'[{"id":0,"result":1},{"id":0,"result":1}]',
        b'[{"id":0,"result":1},{"id":7,"result":1}]',
        b'[{"id":0,"result":1},{"id":true,"result":1}]',
        b'[{"id":0,"result":1},{"id":"1","result":1}]',
        b'[{"id":0,"result":1},{"id":1}]',
        b'[{"id":0,"result":1},{"id":1,"error":"no"}]',
        b'[{"id":0,"result":1},{"id":1,"error":{"message":"no code"}}]',
        b'[{"id":0,"result":1},{"id":1,"error":{"code":"3"}}]',
        b'[{"id":0,"result":1},5]',
        b'{"id":0,"result":1}',
    ],
)
def test_what_is_no_answer_to_a_batch_of_two(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        jsonrpc.decode_batch(body, 2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batches are not supported"}}',
        b'[{"jsonrpc":"2.0","id":0,"error":{"code":-32600,"message":"batch too large"}}]',
        b'[{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}]',
    ],
)
def test_a_refused_batch(body: bytes) -> None:
    with pytest.raises(BatchRefused) as refused:
        jsonrpc.decode_batch(body, 2)
    assert refused.value.error.code == -32600


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_body_is_an_answer_or_one_of_two_errors(body: bytes, count: int) -> None:
    for decode in (lambda: jsonrpc.decode_batch(body, count), lambda: jsonrpc.decode_call(body, 1)):
        with suppress(BadAnswer, BatchRefused):
            decode()


@given(json_values, st.integers(1, 5))
def test_any_json_body_is_an_answer_or_one_of_two_errors(value: Any, count: int) -> None:
    test_any_body_is_an_answer_or_one_of_two_errors.hypothesis.inner_test(orjson.dumps(value), count)
