"""The transaction pool of the node double, by the rules of go-ethereum or of Nitro. Pure."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs

from kmsd.chain.transactions import SignedTransaction

BUMP_PERCENT = 10
"""The least by which go-ethereum wants both fees of a replacement raised."""


class Rules(StrEnum):
    """Whose rules the node keeps."""

    GETH = "geth"
    NITRO = "nitro"


class RpcFailure(Exception):
    """A JSON-RPC error object."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@attrs.define
class Pooled:
    """A transaction that was taken."""

    raw: bytes
    signed: SignedTransaction

    @property
    def nonce(self) -> int:
        """Its nonce."""
        return self.signed.transaction.nonce


def cost(pooled: Pooled) -> int:
    """wei that a node wants the sender to have for a transaction."""
    transaction = pooled.signed.transaction
    return transaction.gas_limit * transaction.max_fee_per_gas + transaction.value


@attrs.frozen
class Account:
    """What the chain says about a sender: balance in wei and mined transactions."""

    balance: int
    mined_count: int


class Pool:
    """Pending transactions by sender and nonce; at most `slots` of them."""

    def __init__(self, rules: Rules, slots: int) -> None:
        self.rules = rules
        self.slots = slots
        self.pending: dict[bytes, dict[int, Pooled]] = {}
        self._dearest = 0

    def take(self, pooled: Pooled, account: Account, base_fee: int) -> None:
        """Add a transaction, or raise RpcFailure as the node would."""
        pending = self.pending.setdefault(pooled.signed.sender, {})
        if self.rules is Rules.NITRO:
            _take_nitro(pooled, account, base_fee, pending)
        else:
            self._take_geth(pooled, account, pending)
        pending[pooled.nonce] = pooled

    def put_back(self, pooled: Pooled) -> None:
        """A transaction of an undone block; whoever stands there now stays."""
        self.pending.setdefault(pooled.signed.sender, {}).setdefault(pooled.nonce, pooled)

    def mined(self, sender: bytes, count: int) -> None:
        """Forget what can no longer be mined."""
        pending = self.pending.get(sender, {})
        for nonce in [nonce for nonce in pending if nonce < count]:
            del pending[nonce]

    def drop(self, hashes: Sequence[bytes] | None) -> None:
        """Forget all, or those with these hashes."""
        for sender, pending in self.pending.items():
            kept = {n: p for n, p in pending.items() if hashes is not None and p.signed.hash not in hashes}
            self.pending[sender] = kept

    def find(self, tx_hash: bytes) -> Pooled | None:
        """A pending transaction by its hash."""
        every = (pooled for pending in self.pending.values() for pooled in pending.values())
        return next((pooled for pooled in every if pooled.signed.hash == tx_hash), None)

    def _take_geth(self, pooled: Pooled, account: Account, pending: Mapping[int, Pooled]) -> None:
        transaction = pooled.signed.transaction
        old = pending.get(transaction.nonce)
        if old is not None and old.signed.hash == pooled.signed.hash:
            raise RpcFailure(-32000, "already known")
        if transaction.max_priority_fee_per_gas < 1:
            raise RpcFailure(-32000, "transaction underpriced: gas tip cap 0, minimum needed 1")
        if transaction.nonce < account.mined_count:
            next_nonce = f"next nonce {account.mined_count}, tx nonce {transaction.nonce}"
            raise RpcFailure(-32000, f"nonce too low: {next_nonce}")
        if old is not None:
            before = old.signed.transaction
            least = (_bumped(before.max_fee_per_gas), _bumped(before.max_priority_fee_per_gas))
            if transaction.max_fee_per_gas < least[0] or transaction.max_priority_fee_per_gas < least[1]:
                raise RpcFailure(-32000, "replacement transaction underpriced")
        elif sum(map(len, self.pending.values())) >= self.slots:
            raise RpcFailure(-32000, "txpool is full")
        self._dearest = max(self._dearest, cost(pooled))
        if account.balance < (len(pending) + 1) * self._dearest:  # else no need to add them up
            _pay(pooled, account, sum(cost(other) for nonce, other in pending.items() if nonce != transaction.nonce))


def _take_nitro(pooled: Pooled, account: Account, base_fee: int, pending: Mapping[int, Pooled]) -> None:
    transaction = pooled.signed.transaction
    state = account.mined_count + len(pending)
    sender = "0x" + pooled.signed.sender.hex()
    where = f"address {sender}, tx: {transaction.nonce} state: {state}"
    if transaction.nonce != state:
        raise RpcFailure(-32000, f"nonce too {'low' if transaction.nonce < state else 'high'}: {where}")
    if transaction.max_fee_per_gas < base_fee:
        fees = f"address {sender}, maxFeePerGas: {transaction.max_fee_per_gas}, baseFee: {base_fee}"
        raise RpcFailure(-32000, f"max fee per gas less than block base fee: {fees}")
    _pay(pooled, account, 0)


def _pay(pooled: Pooled, account: Account, queued: int) -> None:
    overshot = queued + cost(pooled) - account.balance
    if overshot > 0:
        raise RpcFailure(
            -32000,
            f"insufficient funds for gas * price + value: balance {account.balance}, queued cost {queued}, "
            f"tx cost {cost(pooled)}, overshot {overshot}",
        )


def _bumped(fee: int) -> int:
    return -(-fee * (100 + BUMP_PERCENT) // 100)
