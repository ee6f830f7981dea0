"""Access checks on the host chains, those of all requests of the moment in one JSON-RPC batch (WK1, rule 2).

Fails closed: a request is allowed only when every question of `access_rules` was answered true. Everything else ends in
one of four exceptions: Malformed (never), NotAllowed (not now), NotYet (cannot be judged now), DependencyDown.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from kmsd.chain import jsonrpc
from kmsd.chain.access_rules import Malformed, Question, public_questions, read_user_request, user_questions
from kmsd.chain.chain import Chain
from kmsd.coalesce import Coalescer
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import DependencyDown, RpcAnswer, RpcCall
from kmsd.wire import ids
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11 import views
from kmsd.wire.v0_11.events import BY_NAME, UserDecryptionRequest

__all__ = ["Access", "HostChainMissing", "Malformed", "NotAllowed", "NotYet"]

log = logging.getLogger("kmsd.access")

BATCH = 100
"""Calls in one JSON-RPC batch: what public nodes take."""
LINGER = 0.002
"""Seconds that a batch waits for company."""

_METRIC = "kms_connector_access_checks"


class NotAllowed(Exception):
    """The host chain answered that the request is not allowed (now: its state may still come)."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class NotYet(Exception):
    """What the judgement needs is not to be seen yet: another try, not a refusal."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class HostChainMissing(Exception):
    """The request needs a host chain that is not configured: the operator's to mend, never the request's fault."""

    def __init__(self, chain_id: int) -> None:
        super().__init__(chain_id)
        self.chain_id = chain_id
        self.words = f"host chain {chain_id} is not configured: add it to host_chains"


class Access:
    """Checks requests against the ACLs. `run()` must be running.

    `acls` are the ACL contracts by host chain id; `decryption` is the Decryption contract's domain on the Gateway.
    """

    def __init__(
        self,
        *,
        gateway: Chain,
        hosts: Mapping[int, Chain],
        acls: Mapping[int, bytes],
        decryption: Domain,
        gateway_deadline: float,
        host_deadline: float,
        host_concurrency: int,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._gateway = gateway
        self._hosts = hosts
        self._acls = acls
        self._decryption = decryption
        self._gateway_deadline = gateway_deadline
        self._host_deadline = host_deadline
        self._metrics = metrics
        self._health = health
        self._questions: dict[int, Coalescer[tuple[bytes, ...], tuple[bool, ...]]] = {
            chain_id: Coalescer(
                partial(self._ask_host, chain_id), max_batch=BATCH, linger=LINGER, concurrency=host_concurrency
            )
            for chain_id in hosts
        }
        # One queue for each node to avoid: a transaction is read from another node than the one that reported it.
        self._transactions: dict[str | None, Coalescer[bytes, jsonrpc.Transaction | None]] = {
            name: Coalescer(partial(self._ask_transactions, name), max_batch=BATCH, linger=LINGER, concurrency=4)
            for name in (None, *(node.name for node in gateway.nodes))
        }

    async def run(self) -> None:
        """Flush batches for ever."""
        async with trio.open_nursery() as nursery:
            for questions in self._questions.values():
                nursery.start_soon(questions.run)
            for transactions in self._transactions.values():
                nursery.start_soon(transactions.run)

    async def check_public(self, handles: Sequence[bytes]) -> None:
        """Return if everybody may see what is behind all `handles`."""
        await self._all_true(public_questions(handles))

    async def check_user(
        self,
        event: UserDecryptionRequest,
        *,
        tx_hash: bytes | None,
        block_number: int | None,
        reporting_node: str | None,
    ) -> None:
        """Return if the user (or delegate) of `event` may see what is behind its handles."""
        if tx_hash is None:
            tx_hash = await self._find_transaction(event, block_number)
        transaction = await self._transactions[reporting_node if reporting_node in self._transactions else None].ask(
            tx_hash
        )
        if transaction is None:
            raise NotYet(f"transaction 0x{tx_hash.hex()} is not to be found on the Gateway's nodes")
        request = read_user_request(transaction.input, transaction.to, event, self._decryption)
        await self._all_true(user_questions(request))

    async def _all_true(self, questions: Sequence[Question]) -> None:
        by_chain: dict[int, list[Question]] = {}
        for question in questions:
            by_chain.setdefault(question.chain_id, []).append(question)
        for chain_id, asked in by_chain.items():
            if chain_id not in self._questions:
                missing = HostChainMissing(chain_id)
                self._health.alert(f"host chain {chain_id} missing", missing.words)
                raise missing
            answers = await self._questions[chain_id].ask(tuple(question.calldata for question in asked))
            for question, answer in zip(asked, answers, strict=True):
                if not answer:
                    raise NotAllowed(f"not allowed: {question.words()} is false")

    async def _ask_host(
        self, chain_id: int, items: Sequence[tuple[bytes, ...]]
    ) -> Sequence[tuple[bool, ...] | Exception]:
        """Answer the questions of several requests, each different question asked once."""
        different = list(dict.fromkeys(calldata for item in items for calldata in item))
        answers: dict[bytes, bool | Exception] = {}
        for start in range(0, len(different), BATCH):
            part = different[start : start + BATCH]
            answers |= zip(part, await self._ask_views(chain_id, part), strict=True)
        results: list[tuple[bool, ...] | Exception] = []
        for item in items:
            verdicts = [answers[calldata] for calldata in item]
            fault = next((verdict for verdict in verdicts if isinstance(verdict, Exception)), None)
            results.append(fault if fault is not None else tuple(verdict is True for verdict in verdicts))
        return results

    async def _ask_views(self, chain_id: int, part: Sequence[bytes]) -> Sequence[bool | Exception]:
        chain, acl = self._hosts[chain_id], self._acls[chain_id]
        try:
            answers = await chain.call_views([(acl, calldata) for calldata in part], deadline=self._host_deadline)
        except DependencyDown as down:
            self._metrics.inc(_METRIC, str(chain_id), "unknown", by=float(len(part)))
            return [down] * len(part)
        verdicts = [_verdict(chain, calldata, answer) for calldata, answer in zip(part, answers, strict=True)]
        for verdict, name in ((True, "allowed"), (False, "denied")):
            if count := sum(one is verdict for one in verdicts):
                self._metrics.inc(_METRIC, str(chain_id), name, by=float(count))
        if unknown := sum(isinstance(one, Exception) for one in verdicts):
            self._metrics.inc(_METRIC, str(chain_id), "unknown", by=float(unknown))
        return verdicts

    async def _ask_transactions(
        self, avoid: str | None, hashes: Sequence[bytes]
    ) -> Sequence[jsonrpc.Transaction | Exception | None]:
        calls = [RpcCall("eth_getTransactionByHash", (jsonrpc.to_data(tx_hash),)) for tx_hash in hashes]
        answers = await self._gateway.batch(calls, deadline=self._gateway_deadline, avoid=avoid)
        return [self._transaction(tx_hash, answer) for tx_hash, answer in zip(hashes, answers, strict=True)]

    def _transaction(self, tx_hash: bytes, answer: RpcAnswer) -> jsonrpc.Transaction | Exception | None:
        if answer.error is not None:
            return DependencyDown(self._gateway.name, f"eth_getTransactionByHash: code {answer.error.code}")
        try:
            found = jsonrpc.transaction(answer.result)
        except jsonrpc.BadAnswer as bad:
            return DependencyDown(self._gateway.name, f"eth_getTransactionByHash: {bad}")
        if found is not None and found.hash != tx_hash:
            return DependencyDown(self._gateway.name, "eth_getTransactionByHash: another transaction than asked for")
        return found

    async def _find_transaction(self, event: UserDecryptionRequest, block_number: int | None) -> bytes:
        """The hash of the transaction of an event stored without one (by an old Rust connector)."""
        if block_number is None:
            raise NotYet(
                "stored without its transaction's hash and block, so who asked cannot be verified: "
                "kmsd rewind to a block before the request stores it anew"
            )
        topic = jsonrpc.to_data(BY_NAME["UserDecryptionRequest"].topic)
        wanted = {
            "address": jsonrpc.to_data(self._decryption.verifying_contract),
            "topics": [topic, jsonrpc.to_data(ids.to_chain(event.decryption_id))],
            "fromBlock": hex(block_number),
            "toBlock": hex(block_number),
        }
        (answer,) = await self._gateway.batch([RpcCall("eth_getLogs", (wanted,))], deadline=self._gateway_deadline)
        try:
            logs, _ = jsonrpc.logs(answer.result) if answer.error is None else ([], 0)
        except jsonrpc.BadAnswer as bad:
            raise DependencyDown(self._gateway.name, f"eth_getLogs: {bad}") from None
        if not logs:
            raise NotYet(f"its event is not to be found in block {block_number}, and its transaction is not known")
        return logs[0].tx_hash


def _verdict(chain: Chain, calldata: bytes, answer: RpcAnswer) -> bool | Exception:
    """What the ACL said; anything but a boolean says nothing about the request."""
    view = views.VIEWS[calldata[:4]]
    if answer.error is not None:
        return DependencyDown(chain.name, f"{view.name} of the ACL failed with code {answer.error.code}")
    try:
        return bool(view.decode_return(answer.result))
    except WireError as error:
        return DependencyDown(chain.name, f"acl_address: {error}")
