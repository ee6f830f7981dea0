"""A world for the sender in memory: chain double, store double with an honest journal, nodes that can be down.

Runs under trio's MockClock; nothing here sleeps in real time.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from kmsd.chain.jsonrpc import BadAnswer
from kmsd.chain.wallet import LocalWallet
from kmsd.config import Contract, Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import METRICS, MetricType
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind
from kmsd.ports import (
    ClaimedResponse,
    DependencyDown,
    JournalEntry,
    LaneLost,
    ResponseFate,
    ResponseOutcome,
    RpcAnswer,
    RpcCall,
    RpcError,
    TxState,
)
from kmsd.sandbox.node_double import ChainDouble
from kmsd.sandbox.node_double_contracts import Execution
from kmsd.sandbox.node_double_pool import RpcFailure, Rules
from kmsd.sender import Sender
from kmsd.wakeups import WakeUps
from kmsd.wire.v0_11.calls import decode_call
from kmsd.wire.v0_11.errors import ERRORS
from kmsd.wire.v0_11.views import GET_KMS_NODE

T = TypeVar("T")

CHAIN_ID = 31337
DECRYPTION = b"\xd1" * 20
KMS_GENERATION = b"\xd2" * 20
GATEWAY_CONFIG = b"\xd3" * 20
SIGNER = b"\x51" * 20
STRANGER = b"\x52" * 20
KEY = bytes(31) + b"\x07"
PUBLIC_BASE = 1 << 248


class Clock:
    """ports.Time over trio's clock."""

    def now(self) -> float:
        return 1_700_000_000.0 + trio.current_time()


class Chance:
    """ports.Entropy without chance."""

    def random(self) -> float:
        return 0.5

    def token(self, size: int) -> bytes:
        return b"\x05" * size


class Counted:
    """Stands in for Metrics: sums and last values by name and labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def inc(self, name: str, *labels: str, by: float = 1.0) -> None:
        assert len(METRICS[name].labels) == len(labels)
        self.values[name, *labels] = self.values.get((name, *labels), 0.0) + by

    def observe(self, name: str, value: float, *labels: str) -> None:
        self.inc(name, *labels)

    def set(self, name: str, value: float, *labels: str) -> None:
        assert METRICS[name].type is MetricType.GAUGE
        self.values[name, *labels] = value


class GatewayModel:
    """The response functions: order of checks and errors of wire/gateway.md section 3.

    A signature's first 20 bytes are the address that it "recovers" to, unless `recover` says otherwise.
    """

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.requested: Callable[[int], bool] = lambda row_id: True
        self.votes: dict[tuple[int, bytes], int] = {}
        self.gas: Callable[[int, bool], int] = lambda row_id, commit: 100_000
        self.silent_revert: set[int] = set()
        self.recover: Callable[[bytes], bytes] = lambda signature: signature[:20]

    def __call__(self, sender: bytes, to: bytes, data: bytes, limit: int | None) -> Execution:
        if to == GATEWAY_CONFIG:
            asked = GET_KMS_NODE.decode(data)[0]
            signer = self.nodes.get(asked)
            node = (asked if signer else bytes(20), signer or bytes(20), "", "")
            return Execution(output=GET_KMS_NODE.encode_return(node))
        if not data:
            return Execution(gas=21_000)
        _, arguments = decode_call(data)
        row_id = arguments[0]
        signature = next(value for name, value in zip(arguments._fields, arguments, strict=True) if name == "signature")
        recovered = self.recover(signature)

        def error(name: str, *values: Any) -> Execution:
            return Execution(gas=60_000, reverted=ERRORS[name].encode(*values))

        if sender not in self.nodes:
            return error("NotKmsTxSender", sender)
        if not self.requested(row_id):
            return error("DecryptionNotRequested", row_id)
        if len(signature) != 65:
            return error("ECDSAInvalidSignatureLength", len(signature))
        if recovered not in self.nodes.values():
            return error("NotKmsSigner", recovered)
        if self.nodes[sender] != recovered:
            return error("KmsSignerDoesNotMatchTxSender", recovered, sender)
        if (row_id, recovered) in self.votes:
            return error("KmsNodeAlreadySigned", row_id, recovered)
        if row_id in self.silent_revert:
            return Execution(gas=60_000, reverted=b"")
        gas = self.gas(row_id, limit is not None)
        if limit is not None and gas <= limit:
            self.votes[row_id, recovered] = 1
        return Execution(gas=gas)


class RefundingChain(ChainDouble):
    """A chain whose votes are undone with the blocks that held them."""

    def reorganise(self, depth: int, *, forget: bool, empty_blocks: int | None = None) -> None:
        for block in self.blocks[-depth:]:
            for pooled, receipt in zip(block.transactions, block.receipts, strict=True):
                if receipt["status"] == "0x1" and pooled.signed.transaction.data:
                    _, arguments = decode_call(pooled.signed.transaction.data)
                    self.contracts.votes.pop((arguments[0], arguments.signature[:20]), None)  # type: ignore[attr-defined]
        super().reorganise(depth, forget=forget, empty_blocks=empty_blocks)


class DoubleNode:
    """ports.Node over a ChainDouble, with faults: down, replies lost after the work was done, errors by method."""

    def __init__(self, name: str, chain: ChainDouble) -> None:
        self.name = name
        self.chain = chain
        self.down = False
        self.lose_replies = False
        self.on_call: Callable[[RpcCall], RpcError | None] = lambda call: None
        self.latency = 0.01
        self.sync_timeout: float | None = None
        self.hide_receipts = False
        self.ahead = 0

    @property
    def chain_id(self) -> int:
        return self.chain.chain_id

    def heads(self) -> None:
        return None

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        await trio.sleep(self.latency)
        if self.down:
            raise DependencyDown(f"gateway node {self.name}", "down")
        answers = []
        for call in calls:
            if call.method == "eth_sendRawTransactionSync" and self.sync_timeout is not None:
                answers.append(await self._send_sync(call))
                continue
            if (error := self.on_call(call)) is not None:
                answers.append(RpcAnswer(None, error))
                continue
            try:
                answers.append(RpcAnswer(self._result(call)))
            except RpcFailure as failure:
                answers.append(RpcAnswer(None, RpcError(failure.code, failure.message, failure.data)))
        if self.lose_replies and any(call.method == "eth_sendRawTransaction" for call in calls):
            raise DependencyDown(f"gateway node {self.name}", "connection lost")
        return answers

    def _result(self, call: RpcCall) -> Any:
        result = self.chain.rpc(call.method, call.params)
        if call.method == "eth_getTransactionReceipt" and self.hide_receipts:
            return None
        if call.method == "eth_getTransactionCount" and self.ahead:
            return hex(int(result, 16) + self.ahead)
        return result

    async def _send_sync(self, call: RpcCall) -> RpcAnswer:
        """eth_sendRawTransactionSync as in EIP-7966: the receipt, or code 4 after the node's own patience."""
        self.chain.calls[call.method] = self.chain.calls.get(call.method, 0) + 1
        try:
            tx_hash = self.chain.rpc("eth_sendRawTransaction", call.params[:1])
        except RpcFailure as failure:
            return RpcAnswer(None, RpcError(failure.code, failure.message))
        with trio.move_on_after(self.sync_timeout or 0.0):
            while (receipt := self.chain.rpc("eth_getTransactionReceipt", (tx_hash,))) is None:  # noqa: ASYNC110
                await trio.sleep(0.05)
            return RpcAnswer(receipt)
        return RpcAnswer(
            None, RpcError(4, "the transaction was added to the mempool but not processed in time", tx_hash)
        )


class Group:
    """Nodes with failover, as kmsd.chain.chain.Chain."""

    def __init__(self, nodes: Sequence[DoubleNode]) -> None:
        self.nodes = nodes

    async def read(self, calls: Sequence[RpcCall], read: Callable[[Sequence[RpcAnswer]], T], *, deadline: float) -> T:
        down = DependencyDown("gateway", "no nodes")
        for node in self.nodes:
            try:
                return read(await node.batch(calls, deadline=deadline))
            except DependencyDown as error:
                down = error
            except BadAnswer as bad:
                down = DependencyDown(f"gateway node {node.name}", str(bad))
        raise down


@attrs.define
class Row:
    """A row of a response table."""

    kind: Kind
    id: int
    fields: Mapping[str, Any]
    created_at: float
    status: str = "pending"
    lease: int | None = None
    due: float = 0.0
    attempts: int = 0
    errors: int = 0
    last_error: str | None = None
    completions: int = 0
    otlp_context: bytes = b""


class MemoryStore:
    """The sender's verbs of ports.Store. `down` makes every verb fail before it does anything."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Kind, int], Row] = {}
        self.requests: dict[tuple[Kind, int], Any] = {}
        self.journal: dict[tuple[int, int], JournalEntry] = {}
        self.down = False
        self.lose_claims = 0
        self.lose_appends = 0
        self.lane_holder: int | None = None
        self.lanes_opened = 0
        self.budget_age = 0.0
        self.now: Callable[[], float] = Clock().now
        self.after_append: Callable[[Sequence[JournalEntry]], None] = lambda entries: None

    def _check(self) -> None:
        if self.down:
            raise DependencyDown("database", "down")

    def add(self, kind: Kind, row_id: int, signer: bytes = SIGNER, size: int = 32, **fields: Any) -> Row:
        signature = signer + b"\x11" * 44 + b"\x1b"
        values: dict[str, Any] = {"signature": signature, "extra_data": b""}
        if kind is Kind.PUBLIC_DECRYPTION:
            values["decrypted_result"] = b"\x01" * size
        elif kind is Kind.USER_DECRYPTION:
            values["user_decrypted_shares"] = b"\x02" * size
        elif kind is Kind.CRSGEN:
            values["crs_digest"] = b"\x03" * 32
        elif kind is Kind.KEYGEN:
            values["key_digests"] = ((0, b"\x01" * 32), (1, b"\x02" * 32))
        values.update(fields)
        row = Row(kind, row_id, values, self.now())
        self.rows[kind, row_id] = row
        return row

    def _claimed(self, row: Row) -> ClaimedResponse:
        return ClaimedResponse(
            row.kind,
            row.id,
            row.fields,
            row.created_at,
            row.otlp_context,
            row.attempts,
            row.errors,
            self.budget_age,
            row.lease or 0,
        )

    async def claim_responses(self, kind: Kind, owner: int, limit: int) -> Sequence[ClaimedResponse]:
        await trio.sleep(0.002)
        self._check()
        now = trio.current_time()
        due = [row for row in self.rows.values() if row.kind is kind and row.status == "pending" and row.due <= now]
        taken = sorted(due, key=lambda row: row.due)[:limit]
        for row in taken:
            row.status, row.lease, row.attempts = "under_process", owner, row.attempts + 1
        if taken and self.lose_claims > 0:
            self.lose_claims -= 1
            raise DependencyDown("database", "connection lost")
        return [self._claimed(row) for row in taken]

    async def leased_responses(self, kind: Kind, owner: int) -> Sequence[int]:
        self._check()
        held = [row for row in self.rows.values() if row.status == "under_process" and row.lease == owner]
        return [row.id for row in held if row.kind is kind]

    async def load_responses(self, keys: Sequence[tuple[Kind, int]]) -> Sequence[ClaimedResponse]:
        self._check()
        return [self._claimed(self.rows[key]) for key in keys if key in self.rows]

    async def load_requests(self, keys: Sequence[tuple[Kind, int]]) -> Sequence[Any]:
        self._check()
        return [self.requests.get(key) for key in keys]

    async def lease_responses(self, keys: Sequence[tuple[Kind, int]], owner: int) -> Sequence[bool]:
        self._check()
        done = []
        for key in keys:
            row = self.rows.get(key)
            leasable = row is not None and row.status in ("pending", "under_process")
            if row is not None and leasable:
                row.status, row.lease = "under_process", owner
            done.append(leasable)
        return done

    async def reopen_responses(self, keys: Sequence[tuple[Kind, int]], owner: int) -> Sequence[bool]:
        self._check()
        done = []
        for key in keys:
            row = self.rows.get(key)
            reopens = row is not None and (
                row.status == "completed" or (row.status == "under_process" and row.lease == owner)
            )
            if row is not None and reopens:
                row.status, row.lease = "under_process", owner
            done.append(reopens)
        return done

    def _apply(self, outcome: ResponseOutcome) -> bool:
        row = self.rows.get((outcome.lease.kind, outcome.lease.id))
        if row is None or row.status == "completed":
            return False
        if outcome.fate is ResponseFate.COMPLETED:
            row.status, row.lease, row.completions = "completed", None, row.completions + 1
            row.last_error = outcome.last_error
            return True
        if row.status != "under_process" or row.lease != outcome.lease.owner:
            return False
        row.last_error = outcome.last_error
        row.errors += outcome.counted
        row.status, row.lease = outcome.fate.value, None
        row.due = trio.current_time() + outcome.delay
        return True

    async def settle_responses(self, outcomes: Sequence[ResponseOutcome]) -> Sequence[bool]:
        await trio.sleep(0.002)
        self._check()
        return [self._apply(outcome) for outcome in outcomes]

    @asynccontextmanager
    async def open_lane(self, chain_id: int, wallet: bytes, owner: int) -> AsyncIterator["MemoryLane"]:
        self._check()
        while self.lane_holder is not None:
            await trio.sleep(1.0)
            self._check()
        self.lane_holder = owner
        self.lanes_opened += 1
        lane = MemoryLane(self)
        try:
            yield lane
        finally:
            lane.lost = True
            self.lane_holder = None

    def of(self, *states: TxState) -> list[JournalEntry]:
        return [entry for entry in self.journal.values() if entry.state in states]


class MemoryLane:
    """ports.Lane over the store's journal."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.lost = False

    def _check(self) -> None:
        if self.lost:
            raise LaneLost("the lock is gone")
        self._store._check()

    async def entries(self) -> Sequence[JournalEntry]:
        self._check()
        return sorted(self._store.of(TxState.SIGNED, TxState.MINED), key=lambda e: (e.nonce, e.attempt))

    async def highest_nonce(self) -> int | None:
        self._check()
        return max((nonce for nonce, _ in self._store.journal), default=None)

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        await trio.sleep(0.002)
        self._check()
        for entry in entries:
            key = (entry.nonce, entry.attempt)
            assert key not in self._store.journal, f"attempt {key} is journaled already"
            self._store.journal[key] = entry
        self._store.after_append(entries)
        if self._store.lose_appends > 0:
            self._store.lose_appends -= 1
            raise DependencyDown("database", "connection lost")

    async def settle(self, entries: Sequence[JournalEntry], outcomes: Sequence[ResponseOutcome] = ()) -> Sequence[bool]:
        await trio.sleep(0.002)
        self._check()
        for entry in entries:
            old = self._store.journal[entry.nonce, entry.attempt]
            self._store.journal[entry.nonce, entry.attempt] = attrs.evolve(
                old,
                state=entry.state,
                block_number=entry.block_number,
                block_hash=entry.block_hash,
                receipt_status=entry.receipt_status,
                error=entry.error,
            )
        return [self._store._apply(outcome) for outcome in outcomes]


class FixedOwnership:
    """An Ownership that is enrolled."""

    def __init__(self, epoch: int = 1) -> None:
        self.current: int | None = epoch

    async def epoch(self) -> int:
        while self.current is None:  # noqa: ASYNC110
            await trio.sleep(0.1)
        return self.current


class World:
    """Everything around one or more senders."""

    def __init__(self, rules: Rules = Rules.GETH, nodes: int = 1, **settings: Any) -> None:
        self.model = GatewayModel()
        self.chain = RefundingChain(CHAIN_ID, rules, self.model)
        self.nodes = [DoubleNode(f"n{i}", self.chain) for i in range(nodes)]
        self.store = MemoryStore()
        self.wallet = LocalWallet(KEY)
        self.model.nodes[self.wallet.address] = SIGNER
        self.metrics = Counted()
        self.health = Health(Clock())
        defaults: dict[str, Any] = {
            "database_url": "postgresql:///none",
            "gateway_chain_id": CHAIN_ID,
            "decryption_contract": Contract(DECRYPTION, "Decryption"),
            "kms_generation_contract": Contract(KMS_GENERATION, "KMSGeneration"),
            "gateway_config_contract": Contract(GATEWAY_CONFIG, "GatewayConfig"),
            "database_polling_timeout": 1.0,
        }
        self.settings = Settings(**{**defaults, **settings})
        self.wakeups = WakeUps()
        self.ownership = FixedOwnership()

    def sender(self, wallet: Any = None, ownership: FixedOwnership | None = None, traces: Traces = OFF) -> Sender:
        return Sender(
            self.settings,
            self.store,  # type: ignore[arg-type]
            ownership or self.ownership,  # type: ignore[arg-type]
            self.wakeups,
            Group(self.nodes),
            wallet or self.wallet,
            self.metrics,  # type: ignore[arg-type]
            self.health,
            Clock(),
            Chance(),
            traces,
        )

    async def mine_every(self, seconds: float) -> None:
        """Make blocks for ever."""
        while True:
            await trio.sleep(seconds)
            self.chain.mine()

    async def until(self, condition: Callable[[], bool], timeout: float = 120.0) -> None:
        """Wait in virtual time until `condition` holds."""
        with trio.fail_after(timeout):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.05)

    def all_completed(self) -> bool:
        return all(row.status == "completed" for row in self.store.rows.values())

    @asynccontextmanager
    async def running(self, block_interval: float | None = 1.0, **kwargs: Any) -> AsyncIterator[Sender]:
        """A sender at work on a chain that makes blocks."""
        async with trio.open_nursery() as nursery:
            sender = self.sender(**kwargs)
            nursery.start_soon(sender.run)
            if block_interval is not None:
                nursery.start_soon(self.mine_every, block_interval)
            yield sender
            nursery.cancel_scope.cancel()

    def check_one_calldata_per_nonce(self) -> None:
        """TX2: whatever was signed for a nonce has one calldata, fillers aside, and no nonce is left out."""
        by_nonce: dict[int, set[bytes]] = {}
        for entry in self.store.journal.values():
            if entry.kind is not None:
                by_nonce.setdefault(entry.nonce, set()).add(entry.calldata_hash)
        assert all(len(hashes) == 1 for hashes in by_nonce.values())

    def check_votes(self, count: int) -> None:
        """Each response was accepted, none by two transactions with status 1."""
        assert len(self.model.votes) == count
        accepted = [
            pooled.signed.transaction.data
            for block in self.chain.blocks
            for pooled, receipt in zip(block.transactions, block.receipts, strict=True)
            if receipt["status"] == "0x1" and pooled.signed.transaction.data
        ]
        assert len(accepted) == len(set(accepted)) == count
