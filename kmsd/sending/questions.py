"""What the sender asks the Gateway chain, typed, in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

from kmsd.chain.fees import HISTORY_BLOCKS, REWARD_PERCENTILE, Market, market_from_history, market_from_price
from kmsd.chain.jsonrpc import BadAnswer, Receipt, block, data, quantity, receipt, to_data, to_quantity
from kmsd.ports import DependencyDown, Node, RpcAnswer, RpcCall, RpcError
from kmsd.wire.reverts import find_revert_data
from kmsd.wire.v0_11.errors import RevertReason, decode_revert

BATCH = 100
"""Receipts or calls in one JSON-RPC batch (public nodes limit batches to this or more)."""

BATCH_BYTES = 1_000_000
"""Bytes of calldata in one batch: nodes limit a request's body, at twice that in hexadecimal digits, to 5 MB."""

SIDE_BY_SIDE = 4
"""Batches of one question asked at the same time."""

REVERTED = 3
"""The JSON-RPC code of a reverted call (geth, Nitro, anvil)."""

SYNC_TIMEOUT = 2.0
"""Seconds that eth_sendRawTransactionSync may wait for its receipt."""

T = TypeVar("T")


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
        self._wallet = to_data(wallet)
        self._deadline = deadline
        self.nodes = gateway.nodes

    async def tip(self, sentinel: bytes | None) -> Tip:
        """Head, count of mined transactions of the wallet, receipt of the transaction with the hash `sentinel`."""
        calls = [RpcCall("eth_blockNumber", ()), RpcCall("eth_getTransactionCount", (self._wallet, "latest"))]
        if sentinel is not None:
            calls.append(RpcCall("eth_getTransactionReceipt", (to_data(sentinel),)))
        answers = await self._batch(calls)
        found = _read(receipt, answers[2]) if sentinel is not None else None
        return Tip(_read(quantity, answers[0]), _read(quantity, answers[1]), found)

    async def conditions(self) -> Conditions:
        """Fees, nonces and the block's gas limit, together."""
        answers = await self._batch(
            (
                RpcCall("eth_feeHistory", (to_quantity(HISTORY_BLOCKS), "latest", [REWARD_PERCENTILE])),
                RpcCall("eth_gasPrice", ()),
                RpcCall("eth_getTransactionCount", (self._wallet, "latest")),
                RpcCall("eth_getTransactionCount", (self._wallet, "pending")),
                RpcCall("eth_getBlockByNumber", ("latest", False)),
            )
        )
        history, price, mined, pending, latest = answers
        mined_count = _read(quantity, mined)
        head = _read(block, latest)
        if head is None:
            raise DependencyDown("gateway", "the node has no latest block")
        return Conditions(
            _market(history, price),
            mined_count,
            mined_count if pending.error is not None else _read(quantity, pending),
            head.gas_limit,
        )

    async def mined_counts(self) -> list[int]:
        """The wallet's mined transactions in the eyes of each node that answers."""
        call = RpcCall("eth_getTransactionCount", (self._wallet, "latest"))
        return [_read(quantity, answer) for answer in await self._everywhere(call) if answer is not None]

    async def receipts(self, hashes: Sequence[bytes], sizes: Sequence[int] = ()) -> list[Receipt | None]:
        """The receipt of each transaction, None where the node knows none. `sizes`: bytes of their calldata."""
        calls = [RpcCall("eth_getTransactionReceipt", (to_data(tx_hash),)) for tx_hash in hashes]
        return [_read(receipt, answer) for answer in await self._batches(calls, sizes)]

    async def estimates(self, calls: Sequence[Call]) -> list[int | RevertReason | Unanswered]:
        """Gas that each call from the wallet would use, or how it would be reverted."""
        answers = await self._each("eth_estimateGas", calls, ())
        return [_result(quantity, answer) if isinstance(answer, str) else answer for answer in answers]

    async def replays(self, calls: Sequence[Call]) -> list[RevertReason | Unanswered | None]:
        """How each call from the wallet is reverted on the latest block without a gas limit; None: it succeeds."""
        answers = await self._each("eth_call", calls, ("latest",))
        return [None if isinstance(answer, str) else answer for answer in answers]

    async def view(self, call: Call) -> bytes:
        """The result of one view."""
        (answer,) = await self._each("eth_call", (call,), ("latest",))
        if not isinstance(answer, str):
            raise DependencyDown("gateway", f"a view of {to_data(call.to)} failed")
        return _result(data, answer)

    async def balance(self) -> int:
        """The wallet's balance in wei."""
        answers = await self._batch((RpcCall("eth_getBalance", (self._wallet, "latest")),))
        return _read(quantity, answers[0])

    async def send(self, raws: Sequence[bytes]) -> Sequence[RpcAnswer]:
        """Broadcast raw transactions in one batch, in their order."""
        return await self._batch([RpcCall("eth_sendRawTransaction", (to_data(raw),)) for raw in raws])

    async def send_sync(self, raw: bytes) -> RpcAnswer:
        """Broadcast one transaction and let the node wait for its receipt."""
        call = RpcCall("eth_sendRawTransactionSync", (to_data(raw), int(SYNC_TIMEOUT * 1000)))
        return (await self._batch((call,)))[0]

    async def send_everywhere(self, raw: bytes) -> list[RpcAnswer | None]:
        """Broadcast one transaction to every node; None for each that is down."""
        return await self._everywhere(RpcCall("eth_sendRawTransaction", (to_data(raw),)))

    async def trace(self, tx_hash: bytes) -> RevertReason | None:
        """The revert of a mined transaction by debug_traceTransaction; None where the node does not tell."""
        options = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
        answers = await self._batch((RpcCall("debug_traceTransaction", (to_data(tx_hash), options)),))
        output = answers[0].result.get("output") if isinstance(answers[0].result, dict) else None
        if not isinstance(output, str) or len(output) < 10:
            return None
        return decode_revert(_result(data, output))

    async def _each(
        self, method: str, calls: Sequence[Call], more: tuple[Any, ...]
    ) -> list[str | RevertReason | Unanswered]:
        questions = [
            RpcCall(method, ({"from": self._wallet, "to": to_data(call.to), "data": to_data(call.data)}, *more))
            for call in calls
        ]
        found: list[str | RevertReason | Unanswered] = []
        for answer in await self._batches(questions, [len(call.data) for call in calls]):
            if answer.error is None:
                found.append(answer.result if isinstance(answer.result, str) else "")
            elif (reverted := _revert_data(answer.error)) is not None:
                found.append(decode_revert(reverted))
            else:
                found.append(Unanswered(answer.error))
        return found

    async def _batches(self, calls: Sequence[RpcCall], sizes: Sequence[int] = ()) -> Sequence[RpcAnswer]:
        """Any number of questions in batches, some of them side by side. `sizes`: bytes that each one moves."""
        parts = [calls[start:end] for start, end in cuts(sizes or [0] * len(calls))]
        if len(parts) <= 1:
            return await self._batch(calls) if calls else ()
        answers: list[Sequence[RpcAnswer]] = [()] * len(parts)
        faults: list[DependencyDown] = []
        waiting = iter(range(len(parts)))

        async def ask() -> None:
            for index in waiting:
                try:
                    answers[index] = await self._batch(parts[index])
                except DependencyDown as down:
                    faults.append(down)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(SIDE_BY_SIDE, len(parts))):
                nursery.start_soon(ask)
        if faults:
            raise faults[0]
        return [answer for part in answers for answer in part]

    async def _batch(self, calls: Sequence[RpcCall]) -> Sequence[RpcAnswer]:
        return await self._gateway.batch(calls, deadline=self._deadline)

    async def _everywhere(self, call: RpcCall) -> list[RpcAnswer | None]:
        answers: list[RpcAnswer | None] = []
        for node in self.nodes:
            try:
                answers.append((await node.batch((call,), deadline=self._deadline))[0])
            except DependencyDown:
                answers.append(None)
        return answers


def cuts(sizes: Sequence[int], most: int = BATCH) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive batches of at most `most` items and, beyond one item, BATCH_BYTES bytes."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == most or total + size > BATCH_BYTES):
            yield start, index
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _market(history: RpcAnswer, price: RpcAnswer) -> Market:
    """From eth_feeHistory, or from eth_gasPrice where a node knows no other."""
    fields = history.result if isinstance(history.result, dict) else {}
    try:
        base_fees = [quantity(fee, "base fee") for fee in fields.get("baseFeePerGas") or ()]
        rewards = [[quantity(tip, "reward") for tip in row or ()] for row in fields.get("reward") or ()]
    except (BadAnswer, TypeError):
        raise DependencyDown("gateway", "an unusable fee history") from None
    return market_from_history(base_fees, rewards) if base_fees else market_from_price(_read(quantity, price))


def _read(parse: Callable[[Any], T], answer: RpcAnswer) -> T:
    """The value of an answer to a plain question: an error to one, or another form, is the node's fault."""
    if answer.error is not None:
        raise DependencyDown("gateway", f"error {answer.error.code} to a plain question: {answer.error.message[:200]}")
    return _result(parse, answer.result)


def _result(parse: Callable[[Any], T], result: Any) -> T:
    try:
        return parse(result)
    except BadAnswer as bad:
        raise DependencyDown("gateway", str(bad)) from None


def _revert_data(error: RpcError) -> bytes | None:
    """Revert data inside a node's error; None where it is no revert."""
    found = find_revert_data({"data": error.data})
    return b"" if found is None and error.code == REVERTED else found
