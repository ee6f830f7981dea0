"""What the sender asks the Gateway chain, typed, in batches."""

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

from kmsd.chain.fees import HISTORY_BLOCKS, REWARD_PERCENTILE, Market, market_from_history, market_from_price
from kmsd.chain.jsonrpc import (
    BadAnswer,
    Receipt,
    block,
    data,
    mined_receipt,
    objects,
    quantity,
    receipt,
    to_data,
    to_quantity,
)
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

    async def read(self, calls: Sequence[RpcCall], read: Callable[[Sequence[RpcAnswer]], T], *, deadline: float) -> T:
        """What `read` makes of one node's answers; a node whose answers it refuses by BadAnswer is passed over."""


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


class BlockReceipts(NamedTuple):
    """What whole blocks show: receipts of the transactions asked about, and how many transactions there are at all.

    `total` is 0 where the node cannot tell.
    """

    ours: dict[bytes, Receipt]
    total: int


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

        def read(answers: Sequence[RpcAnswer]) -> Tip:
            found = receipt(_plain(answers[2])) if sentinel is not None else None
            return Tip(quantity(_plain(answers[0])), quantity(_plain(answers[1])), found)

        return await self._ask(calls, read)

    async def conditions(self) -> Conditions:
        """Fees, nonces and the block's gas limit, together."""
        calls = (
            RpcCall("eth_feeHistory", (to_quantity(HISTORY_BLOCKS), "latest", [REWARD_PERCENTILE])),
            RpcCall("eth_gasPrice", ()),
            RpcCall("eth_getTransactionCount", (self._wallet, "latest")),
            RpcCall("eth_getTransactionCount", (self._wallet, "pending")),
            RpcCall("eth_getBlockByNumber", ("latest", False)),
        )
        return await self._ask(calls, _conditions)

    async def mined_counts(self) -> list[int]:
        """The wallet's mined transactions in the eyes of each node that answers."""
        call = RpcCall("eth_getTransactionCount", (self._wallet, "latest"))
        counts = []
        for answer in await self._everywhere(call):
            with contextlib.suppress(BadAnswer):
                counts += [quantity(_plain(answer))] if answer is not None else []
        return counts

    async def receipts(self, hashes: Sequence[bytes], sizes: Sequence[int] = ()) -> list[Receipt | None]:
        """The receipt of each transaction, None where the node knows none. `sizes`: bytes of their calldata."""
        calls = [RpcCall("eth_getTransactionReceipt", (to_data(tx_hash),)) for tx_hash in hashes]
        return await self._batches(calls, sizes, lambda answer: receipt(_plain(answer)))

    async def block_receipts(self, numbers: Sequence[int], wanted: Container[bytes]) -> BlockReceipts:
        """Receipts of the `wanted` transactions in these blocks; a block that the node cannot show counts as empty."""

        def read(answers: Sequence[RpcAnswer]) -> BlockReceipts:
            ours: dict[bytes, Receipt] = {}
            total = 0
            for answer in answers:
                for fields in objects(answer.result) if answer.error is None else ():
                    total += 1
                    if (tx_hash := data(fields.get("transactionHash"), 32, "receipt's transaction hash")) in wanted:
                        ours[tx_hash] = mined_receipt(fields)
            return BlockReceipts(ours, total)

        return await self._ask([RpcCall("eth_getBlockReceipts", (to_quantity(number),)) for number in numbers], read)

    async def estimates(self, calls: Sequence[Call]) -> list[int | RevertReason | Unanswered]:
        """Gas that each call from the wallet would use, or how it would be reverted."""
        return await self._each("eth_estimateGas", calls, (), quantity)

    async def replays(self, calls: Sequence[Call]) -> list[RevertReason | Unanswered | None]:
        """How each call from the wallet is reverted on the latest block without a gas limit; None: it succeeds."""
        return await self._each("eth_call", calls, ("latest",), lambda result: None)

    async def view(self, call: Call) -> bytes:
        """The result of one view."""
        answers = await self._each("eth_call", (call,), ("latest",), data)
        if not isinstance(answers[0], bytes):
            raise DependencyDown("gateway", f"a view of {to_data(call.to)} failed")
        return answers[0]

    async def balance(self) -> int:
        """The wallet's balance in wei."""
        call = RpcCall("eth_getBalance", (self._wallet, "latest"))
        return await self._ask((call,), lambda answers: quantity(_plain(answers[0])))

    async def send(self, raws: Sequence[bytes]) -> Sequence[RpcAnswer]:
        """Broadcast raw transactions in one batch, in their order."""
        return await self._ask([RpcCall("eth_sendRawTransaction", (to_data(raw),)) for raw in raws], list)

    async def send_sync(self, raw: bytes) -> RpcAnswer:
        """Broadcast one transaction and let the node wait for its receipt."""
        call = RpcCall("eth_sendRawTransactionSync", (to_data(raw), int(SYNC_TIMEOUT * 1000)))
        return await self._ask((call,), lambda answers: answers[0])

    async def send_everywhere(self, raw: bytes) -> list[RpcAnswer | None]:
        """Broadcast one transaction to every node; None for each that is down."""
        return await self._everywhere(RpcCall("eth_sendRawTransaction", (to_data(raw),)))

    async def trace(self, tx_hash: bytes) -> RevertReason | None:
        """The revert of a mined transaction by debug_traceTransaction; None where no node tells. Raises nothing."""
        options = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}

        def read(answers: Sequence[RpcAnswer]) -> RevertReason | None:
            output = answers[0].result.get("output") if isinstance(answers[0].result, dict) else None
            return decode_revert(data(output)) if isinstance(output, str) and len(output) >= 10 else None

        try:
            return await self._ask((RpcCall("debug_traceTransaction", (to_data(tx_hash), options)),), read)
        except DependencyDown:
            return None

    async def _each(
        self, method: str, calls: Sequence[Call], more: tuple[Any, ...], parse: Callable[[Any], T]
    ) -> list[T | RevertReason | Unanswered]:
        questions = [
            RpcCall(method, ({"from": self._wallet, "to": to_data(call.to), "data": to_data(call.data)}, *more))
            for call in calls
        ]

        def read(answer: RpcAnswer) -> T | RevertReason | Unanswered:
            if answer.error is None:
                return parse(answer.result)
            reverted = _revert_data(answer.error)
            return decode_revert(reverted) if reverted is not None else Unanswered(answer.error)

        answers = await self._batches(questions, [len(call.data) for call in calls], read)
        open_ones = [index for index, answer in enumerate(answers) if isinstance(answer, Unanswered)]
        if open_ones and len(self.nodes) > 1:
            await self._ask_others(questions, open_ones[:BATCH], answers, read)
        return answers

    async def _ask_others(
        self, questions: Sequence[RpcCall], indices: Sequence[int], answers: list[Any], read: Callable[[RpcAnswer], Any]
    ) -> None:
        """Put the calls to every node, since the first one may be what is wrong; fills `answers` where one answers."""
        for node in self.nodes:
            with contextlib.suppress(DependencyDown, BadAnswer):
                calls = [questions[index] for index in indices]
                for index, answer in zip(indices, await node.batch(calls, deadline=self._deadline), strict=True):
                    if isinstance(answers[index], Unanswered):
                        answers[index] = read(answer)

    async def _batches(self, calls: Sequence[RpcCall], sizes: Sequence[int], read: Callable[[RpcAnswer], T]) -> list[T]:
        """Any number of questions in batches, some of them side by side. `sizes`: bytes that each one moves."""
        parts = [calls[start:end] for start, end in cuts(sizes or [0] * len(calls))]
        answers: list[list[T]] = [[] for _ in parts]
        faults: list[DependencyDown] = []
        waiting = iter(range(len(parts)))

        def read_all(part: Sequence[RpcAnswer]) -> list[T]:
            return [read(answer) for answer in part]

        async def ask() -> None:
            for index in waiting:
                try:
                    answers[index] = await self._ask(parts[index], read_all)
                except DependencyDown as down:
                    faults.append(down)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(SIDE_BY_SIDE, len(parts))):
                nursery.start_soon(ask)
        if faults:
            raise faults[0]
        return [answer for part in answers for answer in part]

    async def _ask(self, calls: Sequence[RpcCall], read: Callable[[Sequence[RpcAnswer]], T]) -> T:
        return await self._gateway.read(calls, read, deadline=self._deadline)

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


def _conditions(answers: Sequence[RpcAnswer]) -> Conditions:
    history, price, mined, pending, latest = answers
    head = block(_plain(latest))
    if head is None:
        raise BadAnswer("there is no latest block")
    mined_count = quantity(_plain(mined))
    pending_count = mined_count if pending.error is not None else quantity(pending.result)
    return Conditions(_market(history, price), mined_count, pending_count, head.gas_limit)


def _market(history: RpcAnswer, price: RpcAnswer) -> Market:
    """From eth_feeHistory, or from eth_gasPrice where a node knows no other."""
    fields = history.result if isinstance(history.result, dict) else {}
    base_fees, rewards = fields.get("baseFeePerGas") or (), fields.get("reward") or ()
    if not base_fees:
        return market_from_price(quantity(_plain(price)))
    try:
        return market_from_history(
            [quantity(fee, "base fee") for fee in base_fees],
            [[quantity(tip, "reward") for tip in row or ()] for row in rewards],
        )
    except TypeError:
        raise BadAnswer("an unusable fee history") from None


def _plain(answer: RpcAnswer) -> Any:
    """The result of a plain question, which a healthy node answers without an error."""
    if answer.error is not None:
        raise BadAnswer(f"error {answer.error.code} to a plain question")
    return answer.result


def _revert_data(error: RpcError) -> bytes | None:
    """Revert data inside a node's error; None where it is no revert."""
    found = find_revert_data({"data": error.data})
    return b"" if found is None and error.code == REVERTED else found
