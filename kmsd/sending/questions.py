"""What the sender asks the Gateway chain, typed, in batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from kmsd.chain.fees import HISTORY_BLOCKS, REWARD_PERCENTILE, Market, market_from_history, market_from_price
from kmsd.ports import DependencyDown, Node, RpcAnswer, RpcCall, RpcError
from kmsd.wire.reverts import find_revert_data
from kmsd.wire.v0_11.errors import RevertReason, decode_revert

BATCH = 100
"""Transactions, receipts or calls in one JSON-RPC batch (public nodes limit batches to this or more)."""

REVERTED = 3
"""The JSON-RPC code of a reverted call (geth, Nitro, anvil)."""

SYNC_TIMEOUT = 2.0
"""Seconds that eth_sendRawTransactionSync may wait for its receipt."""


class NodeGroup(Protocol):
    """Nodes of one chain with failover, as `kmsd.chain.chain.Chain`."""

    @property
    def nodes(self) -> Sequence[Node]: ...

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        """Answers in the order of the calls; raises DependencyDown when no node answers."""


class Call(NamedTuple):
    """A call from the wallet to a contract."""

    to: bytes
    data: bytes


class Receipt(NamedTuple):
    """What the sender reads of a receipt. `status` 1 is success."""

    tx_hash: bytes
    status: int
    block_number: int
    block_hash: bytes
    gas_used: int


class Tip(NamedTuple):
    """Head, the wallet's mined transactions, and the sentinel's receipt, asked together."""

    head: int
    mined_count: int
    sentinel: Receipt | None


class Conditions(NamedTuple):
    """What new transactions depend on: fees, the wallet's next nonces by the chain, the block's gas limit."""

    market: Market
    mined_count: int
    pending_count: int
    block_gas_limit: int


class Unanswered(NamedTuple):
    """A call that neither succeeded nor was reverted: the node's own error."""

    error: RpcError


class Questions:
    """Typed questions over `gateway`. All raise DependencyDown when no node gives a usable answer in `deadline` s."""

    def __init__(self, gateway: NodeGroup, wallet: bytes, deadline: float) -> None:
        self._gateway = gateway
        self._wallet = "0x" + wallet.hex()
        self._deadline = deadline
        self.nodes = gateway.nodes

    async def tip(self, sentinel: bytes | None) -> Tip:
        """Head, count of mined transactions of the wallet, receipt of the transaction with the hash `sentinel`."""
        calls = [RpcCall("eth_blockNumber", ()), RpcCall("eth_getTransactionCount", (self._wallet, "latest"))]
        if sentinel is not None:
            calls.append(RpcCall("eth_getTransactionReceipt", (_hex(sentinel),)))
        answers = await self._batch(calls)
        receipt = _receipt(_result(answers[2])) if sentinel is not None else None
        return Tip(_quantity(_result(answers[0])), _quantity(_result(answers[1])), receipt)

    async def conditions(self) -> Conditions:
        """Fees, nonces and the block's gas limit, together."""
        answers = await self._batch(
            (
                RpcCall("eth_feeHistory", (hex(HISTORY_BLOCKS), "latest", [REWARD_PERCENTILE])),
                RpcCall("eth_gasPrice", ()),
                RpcCall("eth_getTransactionCount", (self._wallet, "latest")),
                RpcCall("eth_getTransactionCount", (self._wallet, "pending")),
                RpcCall("eth_getBlockByNumber", ("latest", False)),
            )
        )
        history, price, mined, pending, block = answers
        mined_count = _quantity(_result(mined))
        return Conditions(
            _market(history, price),
            mined_count,
            mined_count if pending.error else _quantity(pending.result),
            _quantity(_member(_result(block), "gasLimit")),
        )

    async def receipts(self, hashes: Sequence[bytes]) -> list[Receipt | None]:
        """The receipt of each transaction, None where the node knows none."""
        found: list[Receipt | None] = []
        for start in range(0, len(hashes), BATCH):
            part = hashes[start : start + BATCH]
            answers = await self._batch([RpcCall("eth_getTransactionReceipt", (_hex(h),)) for h in part])
            found += [_receipt(_result(answer)) for answer in answers]
        return found

    async def estimates(self, calls: Sequence[Call]) -> list[int | RevertReason | Unanswered]:
        """Gas that each call from the wallet would use, or how it would be reverted."""
        answers = await self._each("eth_estimateGas", calls, ())
        return [answer if not isinstance(answer, str) else _quantity(answer) for answer in answers]

    async def replays(self, calls: Sequence[Call]) -> list[RevertReason | Unanswered | None]:
        """How each call from the wallet is reverted on the latest block without a gas limit; None: it succeeds."""
        answers = await self._each("eth_call", calls, ("latest",))
        return [None if isinstance(answer, str) else answer for answer in answers]

    async def view(self, call: Call) -> bytes:
        """The result of one view."""
        answers = await self._each("eth_call", (call,), ("latest",))
        if not isinstance(answers[0], str):
            raise DependencyDown("gateway", f"a view of 0x{call.to.hex()} failed")
        return bytes.fromhex(answers[0][2:])

    async def balance(self) -> int:
        """The wallet's balance in wei."""
        answers = await self._batch((RpcCall("eth_getBalance", (self._wallet, "latest")),))
        return _quantity(_result(answers[0]))

    async def send(self, raws: Sequence[bytes]) -> Sequence[RpcAnswer]:
        """Broadcast raw transactions in one batch, in their order."""
        return await self._batch([RpcCall("eth_sendRawTransaction", (_hex(raw),)) for raw in raws])

    async def send_sync(self, raw: bytes) -> RpcAnswer:
        """Broadcast one transaction and let the node wait for its receipt."""
        call = RpcCall("eth_sendRawTransactionSync", (_hex(raw), int(SYNC_TIMEOUT * 1000)))
        return (await self._batch((call,)))[0]

    async def send_everywhere(self, raw: bytes) -> list[RpcAnswer | None]:
        """Broadcast one transaction to every node; None for each that is down."""
        answers: list[RpcAnswer | None] = []
        for node in self.nodes:
            try:
                call = RpcCall("eth_sendRawTransaction", (_hex(raw),))
                answers.append((await node.batch((call,), deadline=self._deadline))[0])
            except DependencyDown:
                answers.append(None)
        return answers

    async def trace(self, tx_hash: bytes) -> RevertReason | None:
        """The revert of a mined transaction by debug_traceTransaction; None where the node does not tell."""
        options = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
        answers = await self._batch((RpcCall("debug_traceTransaction", (_hex(tx_hash), options)),))
        output = answers[0].result.get("output") if isinstance(answers[0].result, dict) else None
        if not isinstance(output, str) or len(output) < 10:
            return None
        return decode_revert(bytes.fromhex(output[2:]))

    async def _each(
        self, method: str, calls: Sequence[Call], more: tuple[Any, ...]
    ) -> list[str | RevertReason | Unanswered]:
        found: list[str | RevertReason | Unanswered] = []
        for start in range(0, len(calls), BATCH):
            part = calls[start : start + BATCH]
            questions = [
                RpcCall(method, ({"from": self._wallet, "to": _hex(call.to), "data": _hex(call.data)}, *more))
                for call in part
            ]
            for answer in await self._batch(questions):
                if answer.error is None:
                    found.append(_text(answer.result))
                elif (data := _revert_data(answer.error)) is not None:
                    found.append(decode_revert(data))
                else:
                    found.append(Unanswered(answer.error))
        return found

    async def _batch(self, calls: Sequence[RpcCall]) -> Sequence[RpcAnswer]:
        return await self._gateway.batch(calls, deadline=self._deadline)


def _market(history: RpcAnswer, price: RpcAnswer) -> Market:
    base_fees = history.result.get("baseFeePerGas") if isinstance(history.result, dict) else None
    if not base_fees:
        return market_from_price(_quantity(_result(price)))
    rewards = history.result.get("reward") or ()
    return market_from_history(
        [_quantity(fee) for fee in base_fees], [[_quantity(tip) for tip in row] for row in rewards]
    )


def _receipt(value: Any) -> Receipt | None:
    if value is None or _member(value, "blockHash") is None:
        return None
    return Receipt(
        _bytes(_member(value, "transactionHash")),
        _quantity(_member(value, "status")),
        _quantity(_member(value, "blockNumber")),
        _bytes(_member(value, "blockHash")),
        _quantity(_member(value, "gasUsed")),
    )


def _result(answer: RpcAnswer) -> Any:
    if answer.error is not None:
        raise DependencyDown("gateway", f"error {answer.error.code} to a plain question: {answer.error.message[:200]}")
    return answer.result


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise DependencyDown("gateway", f"an answer without {name}")
    return value[name]


def _quantity(value: Any) -> int:
    try:
        return int(_text(value), 16)
    except ValueError:
        raise DependencyDown("gateway", f"{str(value)[:40]!r} where a quantity belongs") from None


def _bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(_text(value)[2:])
    except ValueError:
        raise DependencyDown("gateway", f"{str(value)[:40]!r} where bytes belong") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise DependencyDown("gateway", f"{str(value)[:40]!r} where hexadecimal text belongs")
    return value


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _revert_data(error: RpcError) -> bytes | None:
    """Revert data inside a node's error; None where it is no revert."""
    found = find_revert_data({"data": error.data})
    return b"" if found is None and error.code == REVERTED else found
