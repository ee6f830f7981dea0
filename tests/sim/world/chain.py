"""The Gateway chain: blocks with requests and transactions, a pool, reorganisations. Pure and synchronous."""

import random
from typing import Any

import attrs

from kmsd.chain.transactions import SignedTransaction, decode
from kmsd.operations.kinds import Kind
from kmsd.sandbox.node_double_pool import Account, Pool, Pooled, RpcFailure, Rules
from kmsd.wire.ids import make_id
from kmsd.wire.keccak import keccak256

from . import parties as p
from .contracts import Included, Key, Registry, State, announcement, respond
from .parties import Content

GAS_LIMIT = 30_000_000
LATER = 4
"""Blocks after which a request that waits in the pool again is included."""
NO_BLOOM, FULL_BLOOM = "0x" + "00" * 256, "0x" + "ff" * 256


@attrs.define(eq=False)
class Block:
    """A block with the logs that it emitted, and the state after it."""

    number: int
    hash: bytes
    parent: bytes
    timestamp: int
    base_fee: int
    state: State
    requests: list[Included] = attrs.field(factory=list)
    transactions: list[Pooled] = attrs.field(factory=list)
    logs: list[dict[str, Any]] = attrs.field(factory=list)
    agreed: list[Content] = attrs.field(factory=list)

    def json(self) -> dict[str, Any]:
        """As `eth_getBlockByNumber` gives it."""
        return {
            "number": hex(self.number),
            "hash": "0x" + self.hash.hex(),
            "parentHash": "0x" + self.parent.hex(),
            "timestamp": hex(self.timestamp),
            "gasLimit": hex(GAS_LIMIT),
            "baseFeePerGas": hex(self.base_fee),
            "logsBloom": FULL_BLOOM if self.logs else NO_BLOOM,
            "transactions": [],
        }


class GatewayChain:
    """The canonical chain and its pool. `waiting` are requests for the next blocks."""

    def __init__(self, chance: random.Random, rules: Rules, clock: Any) -> None:
        self._chance = chance
        self._clock = clock
        self._salt = 0
        self._decoded: dict[bytes, SignedTransaction] = {}
        self.rules = rules
        self.pool = Pool(rules, 10_000)
        self.registry = Registry()
        self.balance = 10**20
        self.base_fee = 100_000_000
        self.waiting: list[Content] = []
        self.finished_by_others: list[Content] = []
        self.halted = False
        self.later: list[tuple[int, Content]] = []
        """Requests that fell out of the chain, with the number of the block in which they come again."""
        self.blocks: list[Block] = []
        self.ever: dict[bytes, Block] = {}
        """Every block that ever was canonical, by hash."""
        for _ in range(3):
            self.mine()

    @property
    def head(self) -> Block:
        """The newest block."""
        return self.blocks[-1]

    def mine(self) -> Block:
        """The next block, with all that waits."""
        number, parent = len(self.blocks), self.blocks[-1].hash if self.blocks else bytes(32)
        state = self.blocks[-1].state if self.blocks else State()
        picked = self._pick(state)
        self.waiting += [content for due, content in self.later if due <= number]
        self.later = [(due, content) for due, content in self.later if due > number]
        if self.waiting or self.finished_by_others or picked:
            state = state.copy()
        block_hash = keccak256(parent + number.to_bytes(8, "big") + self._salt.to_bytes(4, "big"))
        block = Block(number, block_hash, parent, int(self._clock()), self.base_fee, state)
        self._include_requests(block)
        for index, pooled in enumerate(picked):
            self._execute(block, index, pooled)
        for content in self.finished_by_others[:]:
            found = next((one for one in state.requests.values() if one.content == content), None)
            if found is not None:
                self._agree(block, found, content.tx_hash)
                block.agreed.append(content)
            again = [one for _, one in self.later]
            if found is not None or content not in (*self.waiting, *again):
                self.finished_by_others.remove(content)
        self.blocks.append(block)
        self.ever[block.hash] = block
        self.pool.mined(p.WALLET, state.nonce)
        return block

    def reorganise(self, depth: int, *, fate: str, forget: bool) -> list[Block]:
        """Undo the last `depth` blocks and make one more than those; the undone ones.

        Their requests come again at once ("again"), some blocks later ("later"), in another order and so under other
        ids ("swap"), or some of the decryptions never do ("gone"). Their transactions go back to the pool, or are
        forgotten.
        """
        depth = min(depth, len(self.blocks) - 2)
        undone = self.blocks[-depth:]
        del self.blocks[-depth:]
        self._salt += 1
        back = [pooled for block in undone for pooled in block.transactions]
        if not forget:
            for pooled in back:
                self.pool.put_back(pooled)
        if self.rules is Rules.NITRO:  # it has no pool where a transaction could wait for its predecessors
            pending, nonce = self.pool.pending.get(p.WALLET, {}), self.head.state.nonce
            while nonce in pending:
                nonce += 1
            self.pool.drop([pooled.signed.hash for one, pooled in pending.items() if one > nonce])
        again = [one.content for block in undone for one in block.requests]
        if fate == "later":
            self.later += [(len(self.blocks) + depth + 1 + LATER, content) for content in again]
            again = []
        if fate == "swap":
            again.reverse()
        if fate == "gone":
            again = [c for c in again if not c.kind.value.endswith("decryption") or self._chance.random() < 0.5]
        self.waiting[:0] = again
        self.finished_by_others += [content for block in undone for content in block.agreed]
        for _ in range(depth + 1):
            self.mine()
        return undone

    def take(self, raw: bytes) -> bytes:
        """A raw transaction by the rules; its hash. Raises RpcFailure."""
        signed = self._decoded.get(raw) or self._decoded.setdefault(raw, decode(raw))
        pooled = Pooled(raw, signed)
        if pooled.signed.transaction.gas_limit > GAS_LIMIT:
            raise RpcFailure(-32000, "exceeds block gas limit")
        account = Account(self.balance, self.head.state.nonce)
        self.pool.take(pooled, account, self.base_fee)
        return signed.hash

    def pending_nonce(self) -> int:
        """The wallet's next nonce with its pool."""
        count, pending = self.head.state.nonce, self.pool.pending.get(p.WALLET, {})
        while count in pending:
            count += 1
        return count

    def _pick(self, state: State) -> list[Pooled]:
        picked = []
        nonce, pending = state.nonce, self.pool.pending.get(p.WALLET, {})
        while (pooled := pending.get(nonce)) is not None and len(picked) < 100:
            if pooled.signed.transaction.max_fee_per_gas < self.base_fee:
                break
            picked.append(pooled)
            nonce += 1
        return picked

    def _include_requests(self, block: Block) -> None:
        state, left = block.state, []
        for content in self.waiting:
            preparation = 0
            if content.kind is Kind.KEYGEN:
                wanted = attrs.evolve(content, kind=Kind.PREP_KEYGEN)
                found = next((one for one in state.requests.values() if one.content == wanted), None)
                if found is None:
                    left.append(content)
                    continue
                preparation = found.id
            counter = state.counters.get(content.kind, p.FIRST_COUNTERS.get(content.kind, 1))
            state.counters[content.kind] = counter + 1  # type: ignore[index]
            request_id = counter if content.kind is Kind.PRSS_INIT else make_id(p.ID_TYPES[content.kind], counter)
            included = Included(content, request_id, preparation)
            state.requests[content.kind, request_id] = included  # type: ignore[index]
            block.requests.append(included)
            topics, data = p.log_words(content, request_id, preparation)
            contract = p.DECRYPTION if content.kind.value.endswith("decryption") else p.KMS_GENERATION
            self._log(block, contract, topics, data, content.tx_hash)
        self.waiting = left

    def _execute(self, block: Block, index: int, pooled: Pooled) -> None:
        state, transaction = block.state, pooled.signed.transaction
        vote: Key | None = None
        gas, failed = 21_000, False
        if transaction.data:
            done, vote = respond(state, self.registry, p.WALLET, transaction.data)
            gas = int(done.gas * self.registry.factor) if vote is not None else done.gas
            self.registry.factor = 1.0 if vote is not None else self.registry.factor
            failed = done.reverted is not None
        if gas > transaction.gas_limit:
            gas, failed = int(transaction.gas_limit * 0.99), True
        state.nonce = transaction.nonce + 1
        self.balance -= gas * block.base_fee
        block.transactions.append(pooled)
        state.mined[pooled.signed.hash] = {  # type: ignore[index]
            "transactionHash": "0x" + pooled.signed.hash.hex(),
            "status": "0x0" if failed else "0x1",
            "blockNumber": hex(block.number),
            "blockHash": "0x" + block.hash.hex(),
            "gasUsed": hex(gas),
            "effectiveGasPrice": hex(block.base_fee),
        }
        if vote is not None and not failed:
            state.votes[vote] = transaction.data  # type: ignore[index]
            self._agree(block, state.requests[vote], pooled.signed.hash)

    def _agree(self, block: Block, included: Included, tx_hash: bytes) -> None:
        """The committee agrees: announced once."""
        key = (included.content.kind, included.id)
        if key in block.state.done:
            return
        block.state.done[key] = tx_hash  # type: ignore[index]
        told = announcement(included)
        if told is not None:
            contract, topics, data = told
            self._log(block, contract, tuple("0x" + t.hex() for t in topics), "0x" + data.hex(), tx_hash)

    def _log(self, block: Block, contract: bytes, topics: tuple[str, ...], data: str, tx_hash: bytes) -> None:
        block.logs.append(
            {
                "address": "0x" + contract.hex(),
                "topics": list(topics),
                "data": data,
                "blockNumber": hex(block.number),
                "blockHash": "0x" + block.hash.hex(),
                "transactionHash": "0x" + tx_hash.hex(),
                "transactionIndex": "0x0",
                "logIndex": hex(len(block.logs)),
                "removed": False,
            }
        )
