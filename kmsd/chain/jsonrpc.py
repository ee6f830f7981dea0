"""JSON-RPC of Ethereum nodes: requests to bytes, answers to `int`, `bytes` and records, strictly.

Everything a node says passes through here before kmsd believes any of it. What does not have the promised shape raises
`BadAnswer`, and nothing else: whoever asked turns that into "this node is down" and asks another one. Unknown extra
fields are ignored (every client has some); known ones must be well-formed.

Source of the shapes: the execution-apis specification of Ethereum (quantities are hexadecimal without leading zeros,
data has two digits a byte). Leading zeros in quantities are accepted, as some nodes send them.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from kmsd.ports import BlockRef, Head, Log, RpcAnswer, RpcCall, RpcError

MAX_MESSAGE = 500
"""Characters kept of an error's message."""

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)


class BadAnswer(Exception):
    """What a node answered is not what the method promises. The words name the field, never hold its content."""


class BatchRefused(Exception):
    """The node answered a batch as a whole with one error, or only part of it: ask less at once."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(f"batch refused with code {error.code}")
        self.error = error


class Block(NamedTuple):
    """What kmsd reads of a block header. `timestamp` in Unix seconds, `base_fee` in wei (None before London)."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    gas_limit: int
    base_fee: int | None
    logs_bloom: bytes | None

    @property
    def ref(self) -> BlockRef:
        """Number and hash."""
        return BlockRef(self.number, self.hash)


class Receipt(NamedTuple):
    """A mined transaction's receipt. `status` 1: succeeded, 0: reverted; gas in units, price in wei."""

    tx_hash: bytes
    status: int
    block_number: int
    block_hash: bytes
    gas_used: int
    effective_gas_price: int | None


class Transaction(NamedTuple):
    """A transaction as `eth_getTransactionByHash` gives it; `to` is None for a creation, block fields while pending."""

    hash: bytes
    sender: bytes
    to: bytes | None
    nonce: int
    input: bytes
    block_number: int | None
    block_hash: bytes | None


# ---------------------------------------------------------------------------------------------------------------------
# To the node


def to_quantity(number: int) -> str:
    """`number` (≥ 0) as a JSON-RPC quantity."""
    return hex(number)


def to_data(value: bytes) -> str:
    """`value` as JSON-RPC data."""
    return "0x" + value.hex()


def encode_call(call: RpcCall, call_id: int) -> bytes:
    """The body of one request."""
    return orjson.dumps({"jsonrpc": "2.0", "id": call_id, "method": call.method, "params": call.params})


def encode_batch(calls: Sequence[RpcCall]) -> bytes:
    """The body of a batch; the call at index i has id i."""
    return orjson.dumps(
        [
            {"jsonrpc": "2.0", "id": index, "method": method, "params": params}
            for index, (method, params) in enumerate(calls)
        ]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Envelopes


def decode_call(body: bytes, call_id: int) -> RpcAnswer:
    """The answer in `body` to the single request `call_id`."""
    reply = _json(body)
    if not isinstance(reply, dict):
        raise BadAnswer("the answer is not an object")
    answer = _envelope(reply)
    if reply.get("id") != call_id and answer.error is None:
        raise BadAnswer("the answer bears another id")
    return answer


def decode_batch(body: bytes, count: int) -> list[RpcAnswer]:
    """The answers in `body` to a batch of `count`, in the order of the calls whatever their order in the body.

    Raises BatchRefused when the node refused the batch as a whole: one error object, or fewer answers than calls with
    an error among them (geth answers a batch that is too large so).
    """
    reply = _json(body)
    if isinstance(reply, dict):
        answer = _envelope(reply)
        if answer.error is None:
            raise BadAnswer("a batch was answered with a single result")
        raise BatchRefused(answer.error)
    if not isinstance(reply, list):
        raise BadAnswer("the answer is neither an object nor a list")
    answers: list[RpcAnswer | None] = [None] * count
    refusal: RpcError | None = None
    for item in reply:
        if not isinstance(item, dict):
            raise BadAnswer("an answer of the batch is not an object")
        answer = _envelope(item)
        index = item.get("id")
        if answer.error is not None:
            refusal = answer.error
            if index is None:
                continue
        if type(index) is not int or not 0 <= index < count or answers[index] is not None:
            raise BadAnswer("an answer of the batch bears an unknown or repeated id")
        answers[index] = answer
    complete = [answer for answer in answers if answer is not None]
    if len(complete) < count:
        if refusal is not None:
            raise BatchRefused(refusal)
        raise BadAnswer(f"{count - len(complete)} of {count} answers of the batch are missing")
    return complete


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadAnswer("the answer is not JSON") from None


def _envelope(reply: dict[str, Any]) -> RpcAnswer:
    error = reply.get("error")
    if error is None:
        if "result" not in reply:
            raise BadAnswer("the answer has neither result nor error")
        return RpcAnswer(reply["result"])
    if not isinstance(error, dict):
        raise BadAnswer("the error is not an object")
    code, message = error.get("code"), error.get("message", "")
    if type(code) is not int or not isinstance(message, str):
        raise BadAnswer("the error has no code")
    return RpcAnswer(None, RpcError(code, message[:MAX_MESSAGE], error.get("data")))


# ---------------------------------------------------------------------------------------------------------------------
# Values


def quantity(value: Any, what: str = "quantity") -> int:
    """A JSON-RPC quantity of at most 256 bits."""
    if type(value) is not str or _QUANTITY.fullmatch(value) is None:
        raise BadAnswer(f"{what} is no quantity")
    return int(value, 16)


def data(value: Any, size: int | None = None, what: str = "data") -> bytes:
    """JSON-RPC data, of exactly `size` bytes when that is given."""
    if type(value) is not str or value[:2] != "0x":
        raise BadAnswer(f"{what} is no data")
    try:
        decoded = bytes.fromhex(value[2:])
    except ValueError:
        raise BadAnswer(f"{what} is no data") from None
    # `fromhex` overlooks white space; the length does not.
    if len(value) != 2 + 2 * len(decoded):
        raise BadAnswer(f"{what} is no data")
    if size is not None and len(decoded) != size:
        raise BadAnswer(f"{what} has {len(decoded)} bytes instead of {size}")
    return decoded


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswer(f"{what} is no object")
    return value


def objects(value: Any) -> list[dict[str, Any]]:
    """A list of JSON objects, empty for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadAnswer("the answer is no list")
    return [_object(item, "item of the list") for item in value]


def block(value: Any) -> Block | None:
    """A block of `eth_getBlockByNumber` or `eth_getBlockByHash`; None where the node has none."""
    if value is None:
        return None
    fields = _object(value, "block")
    bloom, base_fee = fields.get("logsBloom"), fields.get("baseFeePerGas")
    return Block(
        number=quantity(fields.get("number"), "block number"),
        hash=data(fields.get("hash"), 32, "block hash"),
        parent_hash=data(fields.get("parentHash"), 32, "parent hash"),
        timestamp=quantity(fields.get("timestamp"), "timestamp"),
        gas_limit=quantity(fields.get("gasLimit"), "gas limit"),
        base_fee=None if base_fee is None else quantity(base_fee, "base fee"),
        logs_bloom=None if bloom is None else data(bloom, 256, "logs bloom"),
    )


def head(value: Any) -> Head:
    """A header pushed by a `newHeads` subscription."""
    fields = _object(value, "head")
    bloom = fields.get("logsBloom")
    return Head(
        number=quantity(fields.get("number"), "block number"),
        hash=data(fields.get("hash"), 32, "block hash"),
        parent_hash=data(fields.get("parentHash"), 32, "parent hash"),
        logs_bloom=None if bloom is None else data(bloom, 256, "logs bloom"),
    )


def logs(value: Any) -> tuple[list[Log], int]:
    """The logs of an `eth_getLogs` answer in chain order without repetitions, and how many marked `removed` it held.

    Removed logs are of no block of the chain; a node that answers a range with one is at fault, but the log is not lost
    with it: its block's successor is read like any other.
    """
    if not isinstance(value, list):
        raise BadAnswer("logs are no list")
    parsed: dict[tuple[bytes, int], Log] = {}
    removed = 0
    for item in value:
        fields = _object(item, "log")
        if fields.get("removed"):
            removed += 1
            continue
        one = log(fields)
        if parsed.setdefault((one.block_hash, one.log_index), one) != one:
            raise BadAnswer("two different logs bear the same index")
    return sorted(parsed.values(), key=lambda one: (one.block_number, one.log_index)), removed


def log(fields: dict[str, Any]) -> Log:
    """One mined log."""
    topics = fields.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise BadAnswer("topics are no list of at most four")
    return Log(
        address=data(fields.get("address"), 20, "log address"),
        topics=tuple([data(topic, 32, "topic") for topic in topics]),
        data=data(fields.get("data"), None, "log data"),
        block_number=quantity(fields.get("blockNumber"), "log's block number"),
        block_hash=data(fields.get("blockHash"), 32, "log's block hash"),
        tx_hash=data(fields.get("transactionHash"), 32, "log's transaction hash"),
        log_index=quantity(fields.get("logIndex"), "log index"),
    )


def receipt(value: Any) -> Receipt | None:
    """A receipt of `eth_getTransactionReceipt`; None while the transaction is not mined."""
    return None if value is None else mined_receipt(_object(value, "receipt"))


def mined_receipt(fields: dict[str, Any]) -> Receipt:
    """The receipt in a JSON object."""
    price = fields.get("effectiveGasPrice")
    status = quantity(fields.get("status"), "receipt status")
    if status > 1:
        raise BadAnswer("receipt status is neither 0 nor 1")
    return Receipt(
        tx_hash=data(fields.get("transactionHash"), 32, "receipt's transaction hash"),
        status=status,
        block_number=quantity(fields.get("blockNumber"), "receipt's block number"),
        block_hash=data(fields.get("blockHash"), 32, "receipt's block hash"),
        gas_used=quantity(fields.get("gasUsed"), "gas used"),
        effective_gas_price=None if price is None else quantity(price, "effective gas price"),
    )


def transaction(value: Any) -> Transaction | None:
    """A transaction of `eth_getTransactionByHash`; None where the node knows none."""
    if value is None:
        return None
    fields = _object(value, "transaction")
    to, number, block_hash = fields.get("to"), fields.get("blockNumber"), fields.get("blockHash")
    return Transaction(
        hash=data(fields.get("hash"), 32, "transaction hash"),
        sender=data(fields.get("from"), 20, "transaction's sender"),
        to=None if to is None else data(to, 20, "transaction's recipient"),
        nonce=quantity(fields.get("nonce"), "nonce"),
        input=data(fields.get("input"), None, "calldata"),
        block_number=None if number is None else quantity(number, "transaction's block number"),
        block_hash=None if block_hash is None else data(block_hash, 32, "transaction's block hash"),
    )
