"""Nodes as kmsd's ports see them: views of a chain that may lag, stand on another fork, omit, err, or not answer."""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from kmsd.ports import Head, RpcAnswer, RpcCall, RpcError
from kmsd.sandbox.node_double_pool import RpcFailure
from kmsd.wire.v0_11 import views

from . import parties as p
from .chain import Block, GatewayChain
from .contracts import GAS, State, respond, view
from .lives import Life, Link, Trace

WRITES = frozenset({"eth_sendRawTransaction", "eth_sendRawTransactionSync"})


class GatewayNode:
    """One node of the Gateway, shared by all lives. `lag`: blocks that it does not have yet; `lying_lag`: blocks whose
    logs alone it does not have; `fork`: another history, on which it stands; `omits`: requests of which it gives no
    logs; `errs`: chance that a call is answered with an error; `garbles`: chance of an answer that makes no sense."""

    def __init__(self, name: str, chain: GatewayChain, link: Link, chance: random.Random, trace: Trace) -> None:
        self.name = name
        self.chain = chain
        self.link = link
        self.lag = 0
        self.lying_lag = 0
        self.fork: list[Block] | None = None
        self.omits: set[str] = set()
        self.errs = 0.0
        self.garbles = 0.0
        self.pushes = False
        self.lied_about: dict[bytes, None] = {}
        self.on_raw: Callable[[Life, bytes], None] = lambda life, raw: None
        self._chance = chance
        self._trace = trace
        self._subscribers: dict[int, trio.MemorySendChannel[Head]] = {}
        self._subscriptions = 0

    @property
    def blocks(self) -> Sequence[Block]:
        """What it shows."""
        blocks = self.fork or self.chain.blocks
        return blocks[: max(1, len(blocks) - self.lag)] if self.lag else blocks

    def push(self, block: Block) -> None:
        """Tell subscribers of a head."""
        if self.lag or self.fork:
            return
        for subscriber in list(self._subscribers.values()):
            bloom = (b"\xff" if block.logs else b"\0") * 256
            try:
                subscriber.send_nowait(Head(block.number, block.hash, block.parent, bloom))
            except (trio.WouldBlock, trio.BrokenResourceError):
                pass

    def cut_subscriptions(self) -> None:
        """All of them end."""
        for subscriber in list(self._subscribers.values()):
            subscriber.close()
        self._subscribers.clear()

    @asynccontextmanager
    async def subscription(self, life: Life) -> AsyncIterator[AsyncIterator[Head]]:
        """A `newHeads` subscription."""
        await self.link.exchange(life, f"{self.name}.subscribe", lambda: None, deadline=5.0, write=False)
        send, receive = trio.open_memory_channel[Head](64)
        self._subscriptions += 1
        number = self._subscriptions
        self._subscribers[number] = send
        try:
            yield receive
        finally:
            self._subscribers.pop(number, None)
            send.close()
            receive.close()

    def answer(self, call: RpcCall) -> RpcAnswer:
        """One call at this instant."""
        if self.errs and self._chance.random() < self.errs:
            return RpcAnswer(None, RpcError(-32603, "internal error"))
        if self.garbles and self._chance.random() < self.garbles:
            return RpcAnswer({"what": "is this"})
        try:
            return RpcAnswer(self._result(call.method, call.params))
        except RpcFailure as failure:
            return RpcAnswer(None, RpcError(failure.code, failure.message, failure.data))

    def _result(self, method: str, params: Sequence[Any]) -> Any:
        blocks = self.blocks
        head = blocks[-1]
        if method == "eth_blockNumber":
            return hex(head.number)
        if method == "eth_chainId":
            return hex(p.GATEWAY_ID)
        if method == "eth_getBlockByNumber":
            number = head.number if params[0] == "latest" else int(params[0], 16)
            return blocks[number].json() if number < len(blocks) else None
        if method == "eth_getLogs":
            shown = blocks[: len(blocks) - self.lying_lag]
            self.lied_about |= {block.hash: None for block in blocks[len(shown) :]}
            return self._logs(params[0], shown)
        if method == "eth_getTransactionByHash":
            return self._transaction(params[0], head.state)
        if method == "eth_getTransactionReceipt":
            return head.state.mined.get(bytes.fromhex(params[0][2:]))
        if method == "eth_getBlockReceipts":
            number = int(params[0], 16)
            if number >= len(blocks):
                return None
            ours = [pooled.signed.hash for pooled in blocks[number].transactions]
            return [blocks[number].state.mined[tx_hash] for tx_hash in ours]
        if method == "eth_getTransactionCount":
            return hex(self.chain.pending_nonce() if params[1] == "pending" else head.state.nonce)
        if method == "eth_getBalance":
            return hex(self.chain.balance)
        if method == "eth_gasPrice":
            return hex(self.chain.base_fee + 1)
        if method == "eth_feeHistory":
            fees = [hex(block.base_fee) for block in blocks[-int(params[0], 16) :]]
            rewards = [["0x1"] for _ in fees]
            return {"oldestBlock": "0x0", "baseFeePerGas": [*fees, hex(self.chain.base_fee)], "reward": rewards}
        if method in ("eth_call", "eth_estimateGas"):
            return self._call(method, params[0], head.state)
        if method == "eth_sendRawTransaction":
            return "0x" + self.chain.take(bytes.fromhex(params[0][2:])).hex()
        if method == "debug_traceTransaction":
            return {"output": "0x"}
        raise RpcFailure(-32601, f"the method {method} does not exist/is not available")

    def _call(self, method: str, call: Mapping[str, Any], state: State) -> str:
        to, data = bytes.fromhex(call["to"][2:]), bytes.fromhex(call.get("data", "0x")[2:])
        if not data:
            return hex(21_000)
        if data[:4] in views.VIEWS:
            done = view(state, self.chain.registry, data)
        elif to in (p.DECRYPTION, p.KMS_GENERATION):
            done, _ = respond(state, self.chain.registry, bytes.fromhex(call.get("from", "0x")[2:]), data)
        else:
            raise RpcFailure(3, "execution reverted", "0x")
        if done.reverted is not None:
            raise RpcFailure(3, "execution reverted", "0x" + done.reverted.hex())
        return hex(GAS) if method == "eth_estimateGas" else "0x" + done.output.hex()

    def _logs(self, wanted: Mapping[str, Any], blocks: Sequence[Block]) -> list[Any]:
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        address, topics = wanted["address"], wanted["topics"]
        allowed = topics[0] if isinstance(topics[0], list) else [topics[0]]
        return [
            log
            for block in blocks[first : last + 1]
            for log in block.logs
            if log["address"] == address
            and log["topics"][0] in allowed
            and log["transactionHash"] not in self.omits
            and (len(topics) < 2 or log["topics"][1] == topics[1])
        ]

    def _transaction(self, tx_hash: str, state: State) -> Any:
        for one in state.requests.values():
            if "0x" + one.content.tx_hash.hex() == tx_hash:
                return {
                    "hash": tx_hash,
                    "from": "0x" + p.USER.hex(),
                    "to": "0x" + p.DECRYPTION.hex(),
                    "nonce": "0x0",
                    "input": "0x" + one.content.calldata().hex(),
                    "blockNumber": None,
                    "blockHash": None,
                }
        return None


class NodePort:
    """`ports.Node` of one life onto a Gateway node."""

    def __init__(self, node: GatewayNode, life: Life) -> None:
        self._node = node
        self._life = life
        self.name = node.name
        self.chain_id = p.GATEWAY_ID

    def heads(self) -> AbstractAsyncContextManager[AsyncIterator[Head]] | None:
        """Pushed heads where the node pushes."""
        return self._node.subscription(self._life) if self._node.pushes else None

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        """All calls of a batch are answered at one instant, unless one of them waits for a receipt."""
        node, life = self._node, self._life
        raws = [bytes.fromhex(call.params[0][2:]) for call in calls if call.method in WRITES]
        for raw in raws:
            node.on_raw(life, raw)
        if len(calls) == 1 and calls[0].method == "eth_sendRawTransactionSync":
            return (await self._send_sync(calls[0], deadline),)
        verb = f"{node.name}.{calls[0].method if len(calls) == 1 else f'batch{len(calls)}'}"
        return await node.link.exchange(
            life, verb, lambda: [node.answer(call) for call in calls], deadline=deadline, write=bool(raws)
        )

    async def _send_sync(self, call: RpcCall, deadline: float) -> RpcAnswer:
        """eth_sendRawTransactionSync (EIP-7966): the receipt, or code 4 after the node's own patience."""
        node, life = self._node, self._life
        ordinary = RpcCall("eth_sendRawTransaction", call.params[:1])
        taken = await node.link.exchange(
            life, f"{node.name}.sync", lambda: node.answer(ordinary), deadline=deadline, write=True
        )
        if taken.error is not None or not isinstance(taken.result, str):
            return taken
        for _ in range(4):
            await trio.sleep(0.5)
            receipt = node.blocks[-1].state.mined.get(bytes.fromhex(taken.result[2:]))
            if receipt is not None:
                return RpcAnswer(receipt)
        return RpcAnswer(None, RpcError(4, "the transaction was added to the mempool but not processed in time"))


class HostPort:
    """`ports.Node` of one life onto the host chain: an ACL that allows what `allows` says at this instant."""

    def __init__(self, link: Link, life: Life, allows: Callable[[bytes], bool]) -> None:
        self._link = link
        self._life = life
        self._allows = allows
        self.name = str(p.HOST_ID)
        self.chain_id = p.HOST_ID

    def heads(self) -> None:
        """The host chain pushes nothing."""

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        """Views of the ACL."""
        verb = f"host.{len(calls)}"
        return await self._link.exchange(
            self._life, verb, lambda: [self._answer(call) for call in calls], deadline=deadline, write=False
        )

    def _answer(self, call: RpcCall) -> RpcAnswer:
        if call.method != "eth_call":
            return RpcAnswer("0x1")
        data = bytes.fromhex(call.params[0]["data"][2:])
        function = views.VIEWS[data[:4]]
        handle = next(one for one in function.decode(data) if isinstance(one, bytes) and len(one) == 32)
        return RpcAnswer("0x" + function.encode_return(self._allows(handle)).hex())
