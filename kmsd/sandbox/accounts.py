"""Accounts of the sandbox and what they send: raw transactions in batches, with nonces of our own."""

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import attrs

from kmsd.chain.transactions import Transaction, assemble, signing_digest
from kmsd.sandbox.rpc import RpcClient, RpcError
from kmsd.wire.addresses import to_checksum
from kmsd.wire.keccak import keccak256
from kmsd.wire.signatures import address_of, sign

BALANCE = 10**24
"""Wei that an account of the sandbox is given."""

MAX_FEE = 500 * 10**9
"""Wei a gas that senders of the sandbox offer: more than a full chain asks for."""

CREATE = b""
"""The recipient of a transaction that creates a contract."""


@attrs.frozen(slots=False)
class Account:
    """A key of 32 bytes and its address."""

    key: bytes = attrs.field(repr=False)

    @cached_property
    def address(self) -> bytes:
        """The 20-byte address."""
        return address_of(self.key)

    @property
    def text(self) -> str:
        """The address in EIP-55 form."""
        return to_checksum(self.address)


def account(label: str) -> Account:
    """The account with this label: the same key in every run. Good for sandboxes only."""
    return Account(keccak256(b"kmsd sandbox account " + label.encode()))


class Call(NamedTuple):
    """A transaction to be: 20 bytes of recipient (or CREATE), calldata, gas limit."""

    to: bytes
    data: bytes
    gas: int = 5_000_000


class Reverted(Exception):
    """A transaction was mined with status 0, or refused. `data` is the revert data where the node gave it."""

    def __init__(self, message: str, data: str = "") -> None:
        self.data = data
        super().__init__(message)


class RawSender:
    """Sends the transactions of one account on one chain, in order, many a call. Blocking.

    Nobody else may send for the account meanwhile: the nonce is read once.
    """

    def __init__(self, who: Account, chain_id: int, rpc: RpcClient, *, batch: int = 100) -> None:
        self.who = who
        self._chain_id = chain_id
        self._rpc = rpc
        self._batch = batch
        self._nonce: int | None = None

    @property
    def nonce(self) -> int:
        """The nonce of the next transaction."""
        if self._nonce is None:
            self._nonce = int(self._rpc.call("eth_getTransactionCount", self.who.text, "pending"), 16)
        return self._nonce

    def forget_nonce(self) -> None:
        """Reads the nonce from the chain before the next transaction."""
        self._nonce = None

    def sign(self, call: Call) -> bytes:
        """The raw transaction for `call` with the next nonce, which is then used up."""
        nonce = self.nonce
        payload = Transaction(self._chain_id, nonce, 10**9, MAX_FEE, call.gas, call.to, 0, call.data).payload()
        self._nonce = nonce + 1
        return assemble(payload, sign(signing_digest(payload), self.who.key))

    def submit(self, calls: Iterable[Call]) -> list[bytes]:
        """Sends the calls and returns their hashes. Raises RpcError when the node refuses one."""
        hashes: list[bytes] = []
        pending = list(calls)
        for start in range(0, len(pending), self._batch):
            raws = [self.sign(call) for call in pending[start : start + self._batch]]
            answers = self._rpc.batch([("eth_sendRawTransaction", ["0x" + raw.hex()]) for raw in raws])
            for answer in answers:
                if isinstance(answer, RpcError):
                    self._nonce = None
                    raise answer
            hashes += [keccak256(raw) for raw in raws]
        return hashes

    def run(self, calls: Iterable[Call], timeout: float = 60.0) -> list[dict[str, Any]]:
        """Sends the calls, waits until they are mined and returns the receipts. Raises Reverted, TimeoutError."""
        batch = list(calls)
        receipts = wait_mined(self._rpc, self.submit(batch), timeout)
        for call, receipt in zip(batch, receipts, strict=True):
            if int(receipt["status"], 16) != 1:
                raise Reverted(*_reason(self._rpc, self.who, call, receipt))
        return receipts


def wait_mined(rpc: RpcClient, hashes: Sequence[bytes], timeout: float = 60.0) -> list[dict[str, Any]]:
    """The receipts of transactions, in order, waiting for them. Raises TimeoutError that says how many are missing.

    Looks at the last missing one only, because a receipt costs a node the more the fuller its block is.
    """
    deadline = time.monotonic() + timeout
    receipts: dict[bytes, dict[str, Any]] = {}
    while missing := [one for one in hashes if one not in receipts]:
        if rpc.call("eth_getTransactionReceipt", "0x" + missing[-1].hex()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(missing)} transactions or fewer were not mined in {timeout:g} s")
            time.sleep(0.02)
            continue
        answers = rpc.batch([("eth_getTransactionReceipt", ["0x" + one.hex()]) for one in missing])
        receipts |= {one: answer for one, answer in zip(missing, answers, strict=True) if isinstance(answer, dict)}
    return [receipts[one] for one in hashes]


def fund(rpc: RpcClient, accounts: Iterable[Account], wei: int = BALANCE) -> None:
    """Gives accounts a balance on a chain of ours."""
    rpc.batch([("anvil_setBalance", [one.text, hex(wei)]) for one in accounts])


def created_address(creator: bytes, nonce: int) -> bytes:
    """The address of the contract that `creator` makes with the transaction of this nonce (CREATE)."""
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    item = number if len(number) == 1 and nonce < 0x80 else bytes((0x80 + len(number),)) + number
    body = b"\x94" + creator + item
    return keccak256(bytes((0xC0 + len(body),)) + body)[12:]


def _reason(rpc: RpcClient, who: Account, call: Call, receipt: dict[str, Any]) -> tuple[str, str]:
    """Why a mined transaction failed, by running it again on its parent block."""
    request = {"from": who.text, "data": "0x" + call.data.hex()}
    if call.to:
        request["to"] = "0x" + call.to.hex()
    where = f"transaction {receipt['transactionHash']} failed"
    try:
        rpc.call("eth_call", request, hex(int(receipt["blockNumber"], 16) - 1))
    except RpcError as error:
        return f"{where}: {error.message}", error.data
    return f"{where}; alone it passes (gas used {int(receipt['gasUsed'], 16)} of {call.gas})", ""
