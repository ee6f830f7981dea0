"""A JSON-RPC node double that keeps the rules which anvil does not: a light chain for tests and benchmarks.

`ChainDouble` is the chain, pure and synchronous; `kmsd/sandbox/node_double_server.py` puts it behind HTTP. Two sets of
rules: GETH has a mempool with gaps, eviction and replacements from 10 % more on; NITRO has none: a gap is "nonce too
high", the first transaction of a nonce is the only one. What contracts do is a function given to it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from kmsd.chain.transactions import MalformedTransaction, decode
from kmsd.sandbox.node_double_contracts import Contracts, Execution, nothing_happens
from kmsd.sandbox.node_double_pool import Account, Pool, Pooled, RpcFailure, Rules
from kmsd.wire.keccak import keccak256

EMPTY_BLOOM = "0x" + "00" * 256


@attrs.define
class Block:
    """A block with its transactions and their receipts as JSON values."""

    number: int
    hash: bytes
    parent: bytes
    timestamp: int
    base_fee: int
    gas_limit: int
    gas_used: int = 0
    transactions: list[Pooled] = attrs.field(factory=list)
    receipts: list[dict[str, Any]] = attrs.field(factory=list)


class ChainDouble:
    """One chain with one node. Amounts in wei; every account has `balance` unless set otherwise."""

    def __init__(
        self,
        chain_id: int,
        rules: Rules = Rules.GETH,
        contracts: Contracts = nothing_happens,
        *,
        base_fee: int = 100_000_000,
        block_gas_limit: int = 2_000_000_000,
        balance: int = 10**24,
        pool_slots: int = 100_000,
        start_time: int = 1_700_000_000,
    ) -> None:
        self.chain_id = chain_id
        self.rules = rules
        self.contracts = contracts
        self.base_fee = base_fee
        self.block_gas_limit = block_gas_limit
        self.default_balance = balance
        self.pool = Pool(rules, pool_slots)
        self.clock: Callable[[], int] = itertools.count(start_time).__next__
        self.balances: dict[bytes, int] = {}
        self.blocks: list[Block] = []
        self.mined: dict[bytes, tuple[Block, int]] = {}
        self.nonces: dict[bytes, int] = {}
        self.refuse: Callable[[Pooled], RpcFailure | None] = lambda pooled: None
        """For tests: refuse a transaction before any rule."""
        self.calls: dict[str, int] = {}
        """How often each method was asked."""
        self._salt = 0
        self._seal([])
        self._methods: Mapping[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(self.chain_id),
            "net_version": lambda: str(self.chain_id),
            "web3_clientVersion": lambda: f"node-double/{self.rules.value}",
            "eth_blockNumber": lambda: hex(self.head.number),
            "eth_gasPrice": lambda: hex(self.base_fee + 1),
            "eth_maxPriorityFeePerGas": lambda: "0x1",
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": lambda address, tag="latest": hex(self.balance(_bytes(address))),
            "eth_getCode": lambda address, tag="latest": "0x00",
            "eth_getTransactionCount": self._transaction_count,
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getBlockReceipts": lambda tag: [dict(r) for r in self._block(tag).receipts],
            "eth_getTransactionReceipt": self._receipt,
            "eth_getTransactionByHash": self._transaction,
            "eth_getLogs": self._logs,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate,
            "eth_sendRawTransaction": lambda raw: "0x" + self.take(_bytes(raw)).hex(),
            "debug_traceTransaction": self._trace,
        }

    # -----------------------------------------------------------------------------------------------------------------
    # For the one who directs the scene

    @property
    def head(self) -> Block:
        """The newest block."""
        return self.blocks[-1]

    def balance(self, address: bytes) -> int:
        """Balance of an account."""
        return self.balances.get(address, self.default_balance)

    def mine(self, count: int = 1) -> None:
        """Make `count` blocks with what the pool has and the gas limit and base fee allow."""
        for _ in range(count):
            self._seal(self._pick())

    def reorganise(self, depth: int, *, forget: bool, empty_blocks: int | None = None) -> None:
        """Undo the last `depth` blocks and make as many other ones (or `empty_blocks`).

        Their transactions go back to the pool, or are forgotten.
        """
        undone = self.blocks[-depth:]
        del self.blocks[-depth:]
        back: list[Pooled] = []
        for block in undone:
            for pooled in block.transactions:
                del self.mined[pooled.signed.hash]
                back.append(pooled)
        for pooled in reversed(back):
            self.nonces[pooled.signed.sender] = pooled.nonce
        if not forget:
            for pooled in back:
                self.pool.put_back(pooled)
        self._salt += 1
        for _ in range(depth if empty_blocks is None else empty_blocks):
            self._seal([])

    def drop_pool(self, hashes: Sequence[bytes] | None = None) -> None:
        """Forget pending transactions: all, or those with these hashes."""
        self.pool.drop(hashes)

    def pending(self, address: bytes) -> list[int]:
        """Nonces of an account in the pool."""
        return sorted(self.pool.pending.get(address, {}))

    # -----------------------------------------------------------------------------------------------------------------
    # JSON-RPC

    def rpc(self, method: str, params: Sequence[Any]) -> Any:
        """The result of one call; raises RpcFailure."""
        self.calls[method] = self.calls.get(method, 0) + 1
        known = self._methods.get(method)
        if known is None:
            raise RpcFailure(-32601, f"the method {method} does not exist/is not available")
        try:
            return known(*params)
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            raise RpcFailure(-32602, f"invalid params: {error}") from error

    def answer(self, request: Any) -> Any:
        """The JSON-RPC answer object to one request object, or answers to a batch."""
        if isinstance(request, list):
            return [self.answer(one) for one in request]
        answer = {"jsonrpc": "2.0", "id": request.get("id")}
        try:
            answer["result"] = self.rpc(request["method"], request.get("params") or ())
        except RpcFailure as failure:
            answer["error"] = {"code": failure.code, "message": failure.message}
            if failure.data is not None:
                answer["error"]["data"] = failure.data
        return answer

    def take(self, raw: bytes) -> bytes:
        """A raw transaction by the rules; its hash. Raises RpcFailure."""
        try:
            pooled = Pooled(raw, decode(raw))
        except MalformedTransaction as error:
            raise RpcFailure(-32000, f"rlp: {error}") from error
        if (failure := self.refuse(pooled)) is not None:
            raise failure
        transaction, sender = pooled.signed.transaction, pooled.signed.sender
        if transaction.chain_id != self.chain_id:
            raise RpcFailure(-32000, "invalid chain id for signer")
        if transaction.gas_limit > self.block_gas_limit:
            raise RpcFailure(-32000, "exceeds block gas limit")
        if transaction.gas_limit < 21_000 + 16 * len(transaction.data) // 4:
            raise RpcFailure(-32000, "intrinsic gas too low")
        self.pool.take(pooled, Account(self.balance(sender), self.nonces.get(sender, 0)), self.base_fee)
        return pooled.signed.hash

    # -----------------------------------------------------------------------------------------------------------------
    # Blocks

    def _pick(self) -> list[Pooled]:
        """Executable transactions in nonce order per account, as far as base fee and gas limit allow."""
        picked: list[Pooled] = []
        room = self.block_gas_limit
        for sender, pending in self.pool.pending.items():
            nonce = self.nonces.get(sender, 0)
            while (pooled := pending.get(nonce)) is not None:
                transaction = pooled.signed.transaction
                if transaction.max_fee_per_gas < self.base_fee or transaction.gas_limit > room:
                    break
                room -= min(transaction.gas_limit, 300_000)  # a block is filled by gas used, which is known later
                picked.append(pooled)
                nonce += 1
        return picked

    def _seal(self, picked: list[Pooled]) -> None:
        number = len(self.blocks)
        parent = self.blocks[-1].hash if self.blocks else bytes(32)
        seed = parent + number.to_bytes(8, "big") + self._salt.to_bytes(4, "big") + len(picked).to_bytes(4, "big")
        block = Block(number, keccak256(seed), parent, self.clock(), self.base_fee, self.block_gas_limit)
        log_index = 0
        for index, pooled in enumerate(picked):
            transaction, sender = pooled.signed.transaction, pooled.signed.sender
            done = self.contracts(sender, transaction.to, transaction.data, transaction.gas_limit)
            gas_used = min(done.gas, transaction.gas_limit)
            reverted = done.reverted is not None or done.gas > transaction.gas_limit
            block.gas_used += gas_used
            logs = () if reverted else done.logs
            price = min(transaction.max_fee_per_gas, self.base_fee + transaction.max_priority_fee_per_gas)
            where = {
                "blockNumber": hex(number),
                "blockHash": _hex(block.hash),
                "transactionHash": _hex(pooled.signed.hash),
                "transactionIndex": hex(index),
            }
            block.receipts.append(
                {
                    **where,
                    "type": "0x2",
                    "status": "0x0" if reverted else "0x1",
                    "from": _hex(sender),
                    "to": _hex(transaction.to),
                    "contractAddress": None,
                    "gasUsed": hex(gas_used),
                    "cumulativeGasUsed": hex(block.gas_used),
                    "effectiveGasPrice": hex(price),
                    "logsBloom": EMPTY_BLOOM,
                    "logs": [
                        {
                            **where,
                            "address": _hex(log.address),
                            "topics": [_hex(topic) for topic in log.topics],
                            "data": _hex(log.data),
                            "logIndex": hex(log_index + i),
                            "removed": False,
                        }
                        for i, log in enumerate(logs)
                    ],
                }
            )
            log_index += len(logs)
            block.transactions.append(pooled)
            self.mined[pooled.signed.hash] = (block, index)
            self.nonces[sender] = transaction.nonce + 1
            self.balances[sender] = self.balance(sender) - gas_used * price
        for sender in dict.fromkeys(pooled.signed.sender for pooled in picked):
            self.pool.mined(sender, self.nonces[sender])
        self.blocks.append(block)

    def _block(self, tag: str) -> Block:
        if tag in ("latest", "pending", "safe", "finalized"):
            return self.head
        number = 0 if tag == "earliest" else int(tag, 16)
        if number >= len(self.blocks):
            raise RpcFailure(-32001, "header not found")
        return self.blocks[number]

    def _block_by_number(self, tag: str, full: bool = False) -> Any:
        try:
            return self._block_json(self._block(tag), full)
        except RpcFailure:
            return None

    def _block_by_hash(self, block_hash: str, full: bool = False) -> Any:
        wanted = _bytes(block_hash)
        found = next((block for block in reversed(self.blocks) if block.hash == wanted), None)
        return self._block_json(found, full) if found is not None else None

    def _block_json(self, block: Block, full: bool) -> dict[str, Any]:
        return {
            "number": hex(block.number),
            "hash": _hex(block.hash),
            "parentHash": _hex(block.parent),
            "timestamp": hex(block.timestamp),
            "baseFeePerGas": hex(block.base_fee),
            "gasLimit": hex(block.gas_limit),
            "gasUsed": hex(block.gas_used),
            "logsBloom": EMPTY_BLOOM.replace("0", "f") if any(r["logs"] for r in block.receipts) else EMPTY_BLOOM,
            "transactions": [
                self._transaction(_hex(p.signed.hash)) if full else _hex(p.signed.hash) for p in block.transactions
            ],
        }

    # -----------------------------------------------------------------------------------------------------------------
    # The other methods

    def _transaction_count(self, address: str, tag: str = "latest") -> str:
        account = _bytes(address)
        count = self.nonces.get(account, 0)
        if tag == "pending":
            pending = self.pool.pending.get(account, {})
            while count in pending:
                count += 1
        return hex(count)

    def _fee_history(self, count: str | int, newest: str, percentiles: Sequence[float] = ()) -> dict[str, Any]:
        blocks = self.blocks[-(count if isinstance(count, int) else int(count, 16)) :]
        return {
            "oldestBlock": hex(blocks[0].number),
            "baseFeePerGas": [hex(block.base_fee) for block in blocks] + [hex(self.base_fee)],
            "gasUsedRatio": [block.gas_used / block.gas_limit for block in blocks],
            "reward": [["0x1" if block.transactions else "0x0" for _ in percentiles] for block in blocks],
        }

    def _receipt(self, tx_hash: str) -> Any:
        found = self.mined.get(_bytes(tx_hash))
        return found[0].receipts[found[1]] if found is not None else None

    def _transaction(self, tx_hash: str) -> Any:
        wanted = _bytes(tx_hash)
        block: Block | None = None
        found = self.mined.get(wanted)
        if found is not None:
            block, pooled = found[0], found[0].transactions[found[1]]
        else:
            maybe = self.pool.find(wanted)
            if maybe is None:
                return None
            pooled = maybe
        transaction = pooled.signed.transaction
        return {
            "hash": _hex(wanted),
            "type": "0x2",
            "nonce": hex(transaction.nonce),
            "from": _hex(pooled.signed.sender),
            "to": _hex(transaction.to),
            "input": _hex(transaction.data),
            "gas": hex(transaction.gas_limit),
            "maxFeePerGas": hex(transaction.max_fee_per_gas),
            "maxPriorityFeePerGas": hex(transaction.max_priority_fee_per_gas),
            "value": hex(transaction.value),
            "blockNumber": hex(block.number) if block is not None else None,
            "blockHash": _hex(block.hash) if block is not None else None,
        }

    def _logs(self, wanted: Mapping[str, Any]) -> list[Any]:
        first, last = self._block(wanted.get("fromBlock", "latest")), self._block(wanted.get("toBlock", "latest"))
        address = wanted.get("address")
        addresses = {a.lower() for a in ([address] if isinstance(address, str) else address or ())}
        topics = [[t] if isinstance(t, str) else t for t in wanted.get("topics") or ()]
        return [
            log
            for block in self.blocks[first.number : last.number + 1]
            for receipt in block.receipts
            for log in receipt["logs"]
            if (not addresses or log["address"] in addresses)
            and all(
                allowed is None or (i < len(log["topics"]) and log["topics"][i] in allowed)
                for i, allowed in enumerate(topics)
            )
        ]

    def _ask(self, call: Mapping[str, Any]) -> Execution:
        data = _bytes(call.get("data") or call.get("input") or "0x")
        done = self.contracts(_bytes(call.get("from") or "0x" + "00" * 20), _bytes(call["to"]), data, None)
        if done.reverted is not None:
            raise RpcFailure(3, "execution reverted", _hex(done.reverted))
        return done

    def _call(self, call: Mapping[str, Any], tag: str = "latest") -> str:
        done = self._ask(call)
        gas = call.get("gas")
        if gas is not None and int(gas, 16) < done.gas:
            raise RpcFailure(3, "execution reverted", "0x")
        return _hex(done.output)

    def _estimate(self, call: Mapping[str, Any], tag: str = "latest") -> str:
        return hex(self._ask(call).gas)

    def _trace(self, tx_hash: str, options: Mapping[str, Any] | None = None) -> Any:
        found = self.mined.get(_bytes(tx_hash))
        if found is None:
            raise RpcFailure(-32000, "transaction not found")
        return {"type": "CALL", "gasUsed": found[0].receipts[found[1]]["gasUsed"], "output": "0x"}


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
