"""A small honest world around the worker: nodes with an ACL, buckets, a Core with real results, a store with leases.

In memory and under trio's mock clock. The nodes speak JSON-RPC values, the Core takes encoded requests and signs its
results, the store guards its transitions by lease: everything of kmsd from `Worker` down to its ports is the code under
test.
"""

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import attrs
import trio

from kmsd.chain.chain import Chain
from kmsd.config import Contract, HostChain, Settings
from kmsd.core.pb.kms import v1 as kms
from kmsd.core.window import Window
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, OPERATIONS
from kmsd.ownership import Ownership
from kmsd.ports import (
    Answered,
    Blob,
    BlobFault,
    BlobUnavailable,
    CeremonyRoute,
    Claimed,
    CoreAnswer,
    CoreMethod,
    DependencyDown,
    Failed,
    Finished,
    KeyAllowance,
    Lease,
    RejectedResult,
    RpcAnswer,
    RpcCall,
    RpcError,
    Sent,
    Shard,
    StatusCode,
    TryAgain,
)
from kmsd.sandbox.ciphertexts import fake_ciphertext, fake_public_key
from kmsd.sandbox.core_double_requests import Invalid, parse_decryption
from kmsd.sandbox.core_double_results import Signer, Undecryptable, key_digests
from kmsd.sandbox.handles import clear_value, make_handle
from kmsd.wakeups import WakeUps
from kmsd.wire import ids, signatures
from kmsd.wire.eip712 import Domain
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import calls, events, typed_data, views
from kmsd.wire.v0_11.structs import (
    ContractsInfo,
    DelegationAccounts,
    HandleContractPair,
    KeyDigest,
    RequestValidity,
    SnsMaterial,
)
from kmsd.worker import Worker

GATEWAY_ID, HOST_ID = 123456, 12345
DECRYPTION = bytes.fromhex("d1" * 20)
KMS_GENERATION = bytes.fromhex("d2" * 20)
GATEWAY_CONFIG = bytes.fromhex("d3" * 20)
ACL = bytes.fromhex("ac" * 20)
DAPP = bytes.fromhex("da" * 20)
COPRO_1, COPRO_2 = bytes.fromhex("c1" * 20), bytes.fromhex("c2" * 20)
BUCKET_1, BUCKET_2 = "http://bucket-1/x", "http://bucket-2/x"
KEY_ID = 4 << 248 | 1
PREP_ID = 3 << 248 | 1
USER_KEY, DELEGATOR_KEY = bytes(31) + b"\x01", bytes(31) + b"\x02"
USER, DELEGATOR = signatures.address_of(USER_KEY), signatures.address_of(DELEGATOR_KEY)
SIGNER_KEY = bytes(31) + b"\x11"
EXTRA = b"\0"
HOST_DOMAIN = Domain("Decryption", "1", HOST_ID, DECRYPTION)
START = 1_700_000_000.0


class Clock:
    """ports.Time over trio's clock."""

    def now(self) -> float:
        return START + trio.current_time()


class Chance:
    """ports.Entropy without chance."""

    def random(self) -> float:
        return 0.0

    def token(self, size: int) -> bytes:
        return b"\x05" * size


# ---------------------------------------------------------------------------------------------------------------------
# Requests


def material(number: int, *, fhe_type: int = 5, chain_id: int = HOST_ID, size: int = 200) -> tuple[SnsMaterial, bytes]:
    """The `number`-th ciphertext: what an event says of it, and its bytes."""
    handle = make_handle(number, chain_id, fhe_type)
    body = fake_ciphertext(handle, clear_value(handle), size)
    return SnsMaterial(handle, KEY_ID, keccak256(body), (COPRO_1, COPRO_2)), body


def public_event(number: int, materials: Sequence[SnsMaterial]) -> events.PublicDecryptionRequest:
    """The `number`-th public decryption."""
    return events.PublicDecryptionRequest(1 << 248 | number, tuple(materials), EXTRA)


def user_event(number: int, materials: Sequence[SnsMaterial], user: bytes = USER) -> events.UserDecryptionRequest:
    """The `number`-th user decryption."""
    return events.UserDecryptionRequest(2 << 248 | number, tuple(materials), user, fake_public_key(user), EXTRA)


def user_calldata(event: events.UserDecryptionRequest, *, key: bytes = USER_KEY, **changes: Any) -> bytes:
    """The calldata behind a direct request, signed by `key`; `changes` replace arguments before it is signed."""
    arguments = calls.UserDecryptionRequestArgs(
        tuple(HandleContractPair(one.ct_handle, DAPP) for one in event.sns_materials),
        RequestValidity(1_699_999_000, 10),
        ContractsInfo(HOST_ID, (DAPP,)),
        event.user_address,
        event.public_key,
        b"",
        event.extra_data,
    )._replace(**changes)
    validity = arguments.request_validity
    digest = typed_data.user_request_digest(
        Domain("Decryption", "1", arguments.contracts_info.chain_id, DECRYPTION),
        arguments.public_key,
        arguments.contracts_info.addresses,
        validity.start_timestamp,
        validity.duration_days,
        arguments.extra_data,
    )
    return calls.USER_DECRYPTION_REQUEST.encode(*arguments._replace(signature=signatures.sign(digest, key)))


def delegated_calldata(event: events.UserDecryptionRequest, *, key: bytes = USER_KEY) -> bytes:
    """The calldata behind a delegated request: `event.user_address` is the delegate, who signs with `key`."""
    validity = RequestValidity(1_699_999_000, 10)
    digest = typed_data.delegated_user_request_digest(
        HOST_DOMAIN, event.public_key, (DAPP,), DELEGATOR, validity.start_timestamp, 10, event.extra_data
    )
    return calls.DELEGATED_USER_DECRYPTION_REQUEST.encode(
        tuple(HandleContractPair(one.ct_handle, DAPP) for one in event.sns_materials),
        validity,
        DelegationAccounts(DELEGATOR, event.user_address),
        ContractsInfo(HOST_ID, (DAPP,)),
        event.public_key,
        signatures.sign(digest, key),
        event.extra_data,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Chains


@attrs.define
class NodeDouble:
    """A node of either chain: answers views from plain sets, transactions from a dict; down or erring on demand."""

    name: str
    chain_id: int
    down: bool = False
    latency: float = 0.005
    error: RpcError | None = None
    head: int = 100
    requests: int = 0
    deadlines: list[float] = attrs.field(factory=list)
    asked: Counter[str] = attrs.field(factory=Counter)
    true_views: set[bytes] = attrs.field(factory=set)
    returns: dict[bytes, bytes] = attrs.field(factory=dict)
    transactions: dict[bytes, dict[str, Any]] = attrs.field(factory=dict)
    logs: list[dict[str, Any]] = attrs.field(factory=list)

    def heads(self) -> None:
        return None

    async def batch(self, asked: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        self.requests += 1
        self.deadlines.append(deadline)
        await trio.sleep(min(self.latency, deadline))
        if self.down or self.latency > deadline:
            raise DependencyDown(self.name, "down")
        return [self._answer(call) for call in asked]

    def _answer(self, call: RpcCall) -> RpcAnswer:
        self.asked[call.method] += 1
        if self.error is not None:
            return RpcAnswer(None, self.error)
        if call.method == "eth_blockNumber":
            return RpcAnswer(hex(self.head))
        if call.method == "eth_getTransactionByHash":
            return RpcAnswer(self.transactions.get(bytes.fromhex(call.params[0][2:])))
        if call.method == "eth_getLogs":
            return RpcAnswer(self.logs)
        assert call.method == "eth_call"
        data = bytes.fromhex(call.params[0]["data"][2:])
        self.asked[views.VIEWS[data[:4]].name] += 1
        if data in self.returns:
            return RpcAnswer("0x" + self.returns[data].hex())
        if data[:4] == views.GET_KEY_MATERIALS.selector:
            return RpcAnswer(None, RpcError(3, "execution reverted", "0x"))
        if data[:4] == views.GET_COPROCESSOR.selector:
            return RpcAnswer("0x" + views.GET_COPROCESSOR.encode_return((bytes(20), bytes(20), "")).hex())
        return RpcAnswer("0x" + int(data in self.true_views).to_bytes(32, "big").hex())


# ---------------------------------------------------------------------------------------------------------------------
# Buckets


class BlobsDouble:
    """Objects by URL. `faults` by bucket URL; `holds` counts bytes out for the test of the budget."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, BlobFault] = {}
        self.formats: dict[str, str | None] = {}
        self.wrong: set[str] = set()
        self.delay: dict[str, float] = {}
        self.gets: list[str] = []

    async def get(self, url: str, *, max_bytes: int, patience: float) -> Blob:
        bucket = url.rpartition("/")[0]
        self.gets.append(bucket)
        delay = self.delay.get(bucket, 0.01)
        await trio.sleep(min(delay, patience))
        if delay >= patience:
            raise BlobUnavailable(BlobFault.DEADLINE)
        if (fault := self.faults.get(bucket)) is not None:
            raise BlobUnavailable(fault)
        body = self.objects.get(url)
        if body is None:
            raise BlobUnavailable(BlobFault.NOT_FOUND)
        if bucket in self.wrong:
            body = b"wrong" + body
        if len(body) > max_bytes:
            raise BlobUnavailable(BlobFault.TOO_LARGE, "", len(body))
        return Blob(body, keccak256(body), self.formats.get(bucket, "compressed_on_cpu"))


# ---------------------------------------------------------------------------------------------------------------------
# Core


@attrs.define
class Entry:
    """An operation at the Core: when it ends, and with what reply (None: it fails, or never ends)."""

    ends_at: float
    reply: Any


Override = StatusCode | Callable[[Any], Any]

SENDS = {op.send: op.kind for op in OPERATIONS.values()}
POLLS = {op.poll: op.kind for op in OPERATIONS.values() if op.poll is not None}


class CoreDouble:
    """One Core per shard over common settings: registers, computes `latency` seconds, blocks polls up to 60 s.

    `overrides` by method: statuses that the next calls get (a callable changes the reply instead).
    """

    def __init__(self, shards: int = 1) -> None:
        self.shards = tuple(Shard(index, f"http://core-{index}:50051") for index in range(shards))
        self.latency = 0.08
        self.ceremony = 5.0
        self.down = False
        self.keys = {ids.to_core(KEY_ID)}
        self.signer = Signer(SIGNER_KEY, party_id=1, degree=1, centralized=False)
        self.entries: dict[tuple[str, Kind, int], Entry] = {}
        self.overrides: defaultdict[CoreMethod, deque[Override]] = defaultdict(deque)
        self.always: dict[CoreMethod, StatusCode] = {}
        self.calls: list[tuple[str, CoreMethod, int]] = []
        self.open = Counter[CoreMethod]()
        self.windows = {shard.endpoint: Window(1000) for shard in self.shards}

    def window(self, shard: Shard) -> Window:
        return self.windows[shard.endpoint]

    def sends(self, *kinds: Kind) -> list[int]:
        """Ids in the order in which they were sent."""
        methods = {OPERATIONS[kind].send for kind in kinds or OPERATIONS}
        return [one for _, method, one in self.calls if method in methods]

    def count(self, method: CoreMethod) -> int:
        return sum(called is method for _, called, _ in self.calls)

    def restart(self) -> None:
        """Forget everything."""
        self.entries.clear()

    async def call(self, shard: Shard, method: CoreMethod, request: Any, *, deadline: float) -> CoreAnswer:
        data = request if isinstance(request, bytes) else b"".join(request)
        request_id = 0 if method is CoreMethod.GET_KEY_MATERIAL_AVAILABILITY else int(data[4:68], 16)
        if method in SENDS and method not in (CoreMethod.PUBLIC_DECRYPT, CoreMethod.USER_DECRYPT):
            request_id = int(kms.InitRequest.parse(data).request_id.request_id, 16)
        elif method in POLLS:
            request_id = int(kms.RequestId.parse(data).request_id, 16)
        self.calls.append((shard.endpoint, method, request_id))
        self.open[method] += 1
        try:
            await trio.sleep(0.001)
            if self.down:
                return CoreAnswer(StatusCode.UNAVAILABLE, None, "no connection")
            if method in self.always:
                return CoreAnswer(self.always[method], None, "always")
            override = self.overrides[method].popleft() if self.overrides[method] else None
            if isinstance(override, StatusCode):
                return CoreAnswer(override, None, "as told")
            answer = await self._answer(shard, method, data, request_id, deadline)
        finally:
            self.open[method] -= 1
        if override is not None and answer.status is StatusCode.OK:
            return CoreAnswer(StatusCode.OK, override(answer.message))
        return answer

    async def _answer(
        self, shard: Shard, method: CoreMethod, data: bytes, request_id: int, deadline: float
    ) -> CoreAnswer:
        if method is CoreMethod.GET_KEY_MATERIAL_AVAILABILITY:
            return CoreAnswer(StatusCode.OK, kms.KeyMaterialAvailabilityResponse(fhe_key_ids=sorted(self.keys)))
        if method in POLLS:
            return await self._poll((shard.endpoint, POLLS[method], request_id), deadline)
        key = (shard.endpoint, SENDS[method], request_id)
        if key in self.entries:
            return CoreAnswer(StatusCode.ALREADY_EXISTS, None)
        kind = SENDS[method]
        try:
            reply = self._compute(kind, data, request_id)
        except Invalid as error:
            return CoreAnswer(StatusCode.INVALID_ARGUMENT, None, str(error))
        except Undecryptable:
            reply = None
        self.entries[key] = Entry(trio.current_time() + (self.ceremony if kind in CEREMONIES else self.latency), reply)
        return CoreAnswer(StatusCode.OK, kms.Empty())

    def _compute(self, kind: Kind, data: bytes, request_id: int) -> Any:
        domain = Domain("KMSGeneration", "1", GATEWAY_ID, KMS_GENERATION)
        if kind is Kind.PUBLIC_DECRYPTION:
            return kms.PublicDecryptionResponse.parse(self.signer.public_bytes(parse_decryption(data, user=False)))
        if kind is Kind.USER_DECRYPTION:
            return kms.UserDecryptionResponse.parse(self.signer.user_bytes(parse_decryption(data, user=True)))
        if kind is Kind.PREP_KEYGEN:
            return self.signer.preproc_result(request_id, domain)
        if kind is Kind.KEYGEN:
            preparation = int(kms.KeyGenRequest.parse(data).preproc_id.request_id, 16)
            return self.signer.keygen_result(request_id, preparation, domain)
        if kind is Kind.CRSGEN:
            return self.signer.crs_result(request_id, kms.CrsGenRequest.parse(data).max_num_bits, domain)
        if kind is Kind.KEY_RESHARE:
            asked = kms.InitiateResharingRequest.parse(data)
            if len(asked.key_digests) != 2:
                return None
            key_id, preparation = (int(one.request_id, 16) for one in (asked.key_id, asked.preproc_id))
            return self.signer.reshare_result(request_id, key_id, preparation, domain)
        return None

    async def _poll(self, key: tuple[str, Kind, int], deadline: float) -> CoreAnswer:
        entry = self.entries.get(key)
        if entry is None:
            return CoreAnswer(StatusCode.NOT_FOUND, None)
        wait = entry.ends_at - trio.current_time()
        if wait > 60.0:
            await trio.sleep(min(60.0, deadline))
            return CoreAnswer(StatusCode.UNAVAILABLE, None, "not ready")
        await trio.sleep(max(0.0, wait))
        if self.down:
            return CoreAnswer(StatusCode.UNAVAILABLE, None, "connection lost")
        return CoreAnswer(StatusCode.OK, entry.reply) if entry.reply else CoreAnswer(StatusCode.INTERNAL, None)


# ---------------------------------------------------------------------------------------------------------------------
# Store


@attrs.define
class Row:
    """A request row."""

    kind: Kind
    id: int
    event: Any
    tx_hash: bytes | None = None
    block_number: int | None = 101
    reporting_node: str | None = "one"
    created_at: float = attrs.field(factory=lambda: Clock().now())
    status: str = "pending"
    owner: int | None = None
    already_sent: bool = False
    core_shard: str | None = None
    error_counter: int = 0
    attempts: int = 0
    refusal: str | None = None
    due: float = attrs.field(factory=trio.current_time)
    budget_started: float = attrs.field(factory=trio.current_time)
    last_error: str | None = None
    note: str | None = None
    fields: Mapping[str, Any] | None = None
    otlp_context: bytes = b"trace"


class StoreDouble:
    """The worker's verbs with their guards. `down` makes every verb raise; `lose_reply` does the work, then raises."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Kind, int], Row] = {}
        self.down = False
        self.lose_reply: str | None = None
        self.rejected: list[RejectedResult] = []
        self.allowances: dict[int, KeyAllowance] = {}
        self.generated: set[int] = set()
        self.activated: dict[int, str] = {}
        self.registry: list[Mapping[str, Any]] = []
        self.digests: dict[int, Sequence[KeyDigest]] = {}
        self.slots: dict[str, tuple[Kind, int]] = {}
        self.statements: Counter[str] = Counter()
        self.broken: set[int] = set()
        self._epoch = 6

    def add(self, row: Row) -> Row:
        self.rows[row.kind, row.id] = row
        return row

    def counts(self) -> Counter[str]:
        return Counter(row.status for row in self.rows.values())

    @asynccontextmanager
    async def _statement(self, verb: str) -> AsyncIterator[None]:
        self.statements[verb] += 1
        await trio.sleep(0.002)
        if self.down:
            raise DependencyDown("database", "down")
        yield
        if self.lose_reply == verb:
            self.lose_reply = None
            raise DependencyDown("database", "connection lost")

    async def enrol(self, instance_name: str, roles: Sequence[str]) -> int:
        async with self._statement("enrol"):
            self._epoch += 1
            return self._epoch

    async def beat(self, owner: int) -> bool:
        async with self._statement("beat"):
            return True

    async def claim(self, kind: Kind, owner: int, limit: int) -> Sequence[Claimed]:
        async with self._statement("claim"):
            found = self._due(kind)[:limit]
            return [self._lease(row, owner) for row in found]

    async def claim_ceremonies(self, owner: int, route: CeremonyRoute, limit: int) -> Sequence[Claimed]:
        async with self._statement("claim_ceremonies"):
            claimed: list[Claimed] = []
            waiting = sorted((row for kind in CEREMONIES for row in self._due(kind)), key=lambda row: row.block_number)
            for row in waiting:
                shard = route(row.kind, row.id, getattr(row.event, "prep_keygen_id", None), row.core_shard)
                if not row.already_sent:
                    prep = self.rows.get((Kind.PREP_KEYGEN, getattr(row.event, "prep_keygen_id", 0)))
                    if row.kind is Kind.KEYGEN and prep is not None and prep.fields is None:
                        continue
                    if shard in self.slots:
                        continue
                    self.slots[shard] = (row.kind, row.id)
                row.core_shard = shard
                claimed.append(self._lease(row, owner))
        return claimed[:limit]

    def _due(self, kind: Kind) -> list[Row]:
        now = trio.current_time()
        rows = [row for row in self.rows.values() if row.kind is kind and row.status == "pending" and row.due <= now]
        return sorted(rows, key=lambda row: row.due)

    def _lease(self, row: Row, owner: int) -> Claimed:
        row.status, row.owner = "under_process", owner
        row.attempts += 1
        return Claimed(
            kind=row.kind,
            id=row.id,
            event=row.event,
            tx_hash=row.tx_hash,
            block_number=row.block_number,
            block_hash=bytes(32),
            log_index=0,
            already_sent=row.already_sent,
            error_counter=row.error_counter,
            attempts=row.attempts,
            core_shard=row.core_shard,
            refusal=row.refusal,
            budget_age=trio.current_time() - row.budget_started,
            created_at=row.created_at,
            otlp_context=row.otlp_context,
            lease=owner,
            reporting_node=row.reporting_node,
        )

    def insert_leased(self, row: Row, owner: int) -> Claimed:
        """What the listener's transaction does for a reserved place."""
        return self._lease(self.add(row), owner)

    async def leased(self, kind: Kind, owner: int) -> Sequence[int]:
        async with self._statement("leased"):
            return [row.id for row in self.rows.values() if row.kind is kind and row.owner == owner]

    def _mine(self, lease: Lease) -> Row | None:
        if lease.id in self.broken:
            raise ValueError("the database refuses this item")
        row = self.rows.get((lease.kind, lease.id))
        return row if row is not None and row.status == "under_process" and row.owner == lease.owner else None

    def _free(self, row: Row) -> None:
        self.slots = {core: slot for core, slot in self.slots.items() if slot != (row.kind, row.id)}

    async def _each(self, verb: str, items: Sequence[Any], change: Callable[[Row, Any], None]) -> Sequence[bool]:
        async with self._statement(verb):
            applied = []
            for item in items:
                row = self._mine(item.lease)
                applied.append(row is not None)
                if row is not None:
                    change(row, item)
        return applied

    async def sent(self, items: Sequence[Sent]) -> Sequence[bool]:
        def change(row: Row, item: Sent) -> None:
            row.already_sent, row.core_shard = True, item.core_shard
            if item.fresh:
                row.refusal = None
            self._free(row)

        return await self._each("sent", items, change)

    async def answered(self, items: Sequence[Answered]) -> Sequence[bool]:
        def change(row: Row, item: Answered) -> None:
            row.status, row.owner, row.fields = "completed", None, item.fields
            self._free(row)

        return await self._each("answered", items, change)

    async def finished(self, items: Sequence[Finished]) -> Sequence[bool]:
        def change(row: Row, item: Finished) -> None:
            row.status, row.owner, row.note = "completed", None, item.note
            self._free(row)

        return await self._each("finished", items, change)

    async def try_again(self, items: Sequence[TryAgain]) -> Sequence[bool]:
        def change(row: Row, item: TryAgain) -> None:
            row.status, row.owner, row.last_error = "pending", None, item.last_error
            row.due = trio.current_time() + item.delay
            row.error_counter += item.counted
            row.already_sent = (row.already_sent or item.mark_sent) and not item.clear_sent
            row.refusal = item.refusal or row.refusal
            row.core_shard = item.core_shard or row.core_shard
            self._free(row)

        return await self._each("try_again", items, change)

    async def failed(self, items: Sequence[Failed]) -> Sequence[bool]:
        def change(row: Row, item: Failed) -> None:
            row.status, row.owner, row.last_error = "failed", None, item.last_error
            row.error_counter += item.counted
            self._free(row)

        return await self._each("failed", items, change)

    async def reject(self, items: Sequence[RejectedResult]) -> None:
        async with self._statement("reject"):
            self.rejected += items

    async def key_allowance(self, key_id: int) -> KeyAllowance:
        async with self._statement("key_allowance"):
            return self.allowances.get(key_id, KeyAllowance.ALL)

    async def key_activated(self, key_id: int, reason: str) -> None:
        async with self._statement("key_activated"):
            self.activated[key_id] = reason
            if key_id in self.generated:
                self.allowances[key_id] = KeyAllowance.ALL

    async def key_registry(self) -> Sequence[Mapping[str, Any]]:
        async with self._statement("key_registry"):
            return self.registry

    async def key_digests(self, key_id: int) -> Sequence[Any]:
        async with self._statement("key_digests"):
            return self.digests.get(key_id, ())

    async def keygen_was_sent(self, prep_keygen_id: int) -> bool:
        async with self._statement("keygen_was_sent"):
            return any(
                row.kind is Kind.KEYGEN and row.event.prep_keygen_id == prep_keygen_id and row.already_sent
                for row in self.rows.values()
            )

    async def prep_keygen_known(self, prep_keygen_id: int) -> bool:
        async with self._statement("prep_keygen_known"):
            return (Kind.PREP_KEYGEN, prep_keygen_id) in self.rows


# ---------------------------------------------------------------------------------------------------------------------
# World


class World:
    """Everything around one worker. `core`, `blobs` and `store` take the place of the doubles, for real ones."""

    def __init__(
        self,
        *,
        shards: int = 1,
        traces: Traces = OFF,
        core: Any = None,
        blobs: Any = None,
        store: Any = None,
        buckets: Sequence[str] = (BUCKET_1, BUCKET_2),
        **settings: Any,
    ) -> None:
        self.settings = Settings(
            database_url="postgresql://nowhere/none",
            gateway_chain_id=GATEWAY_ID,
            decryption_contract=Contract(DECRYPTION, "Decryption"),
            kms_generation_contract=Contract(KMS_GENERATION, "KMSGeneration"),
            gateway_config_contract=Contract(GATEWAY_CONFIG, "GatewayConfig"),
            host_chains=(HostChain(HOST_ID, "http://host", ACL),),
            **settings,
        )
        self.gateway = NodeDouble("one", GATEWAY_ID)
        self.gateway_two = NodeDouble("two", GATEWAY_ID)
        self.host = NodeDouble("host", HOST_ID)
        self.blobs = BlobsDouble() if blobs is None else blobs
        self.core = CoreDouble(shards) if core is None else core
        self.store = StoreDouble() if store is None else store
        self.metrics = Metrics()
        self.health = Health(Clock())
        self.wakeups = WakeUps()
        self.ownership = Ownership(self.store, "test", ("worker",))  # type: ignore[arg-type]
        for sender, url in zip((COPRO_1, COPRO_2), buckets, strict=True):
            answer = views.GET_COPROCESSOR.encode_return((sender, sender, url))
            for node in (self.gateway, self.gateway_two):
                node.returns[views.GET_COPROCESSOR.encode(sender)] = answer
        gateway = Chain([self.gateway, self.gateway_two], self.health, name="gateway")
        hosts = {HOST_ID: Chain([self.host], self.health, name=f"host chain {HOST_ID}")}
        self.worker = Worker(
            self.settings,
            self.store,  # type: ignore[arg-type]
            self.ownership,
            self.wakeups,
            self.core,
            self.blobs,
            gateway,
            hosts,
            self.metrics,
            self.health,
            Clock(),
            Chance(),
            traces,
        )

    # -- requests

    def put(self, found: SnsMaterial, body: bytes, *buckets: str) -> None:
        """The ciphertext is in these buckets (default: both)."""
        for bucket in buckets or (BUCKET_1, BUCKET_2):
            self.blobs.objects[f"{bucket}/{found.sns_ciphertext_digest.hex()}"] = body

    def public(self, number: int, *, handles: int = 1, allowed: bool = True, size: int = 200, **row: Any) -> Row:
        """A public decryption that is ready to be served."""
        materials = []
        for part in range(handles):
            found, body = material(1000 * number + part, size=size)
            self.put(found, body)
            materials.append(found)
            if allowed:
                self.host.true_views.add(views.IS_ALLOWED_FOR_DECRYPTION.encode(found.ct_handle))
        event = public_event(number, materials)
        return self.store.add(Row(Kind.PUBLIC_DECRYPTION, event.decryption_id, event, **row))

    def user(self, number: int, *, allowed: bool = True, delegated: bool = False, calldata: Any = None) -> Row:
        """A user decryption that is ready to be served."""
        found, body = material(1000 * number)
        self.put(found, body)
        event = user_event(number, [found])
        handle = found.ct_handle
        owner = DELEGATOR if delegated else USER
        if allowed:
            self.host.true_views |= {views.IS_ALLOWED.encode(handle, owner), views.IS_ALLOWED.encode(handle, DAPP)}
            if delegated:
                delegation = views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION.encode(DELEGATOR, USER, DAPP, handle)
                self.host.true_views.add(delegation)
        tx_hash = keccak256(b"tx" + number.to_bytes(8, "big"))
        data = calldata if calldata is not None else (delegated_calldata if delegated else user_calldata)(event)
        self.transaction(tx_hash, data)
        return self.store.add(Row(Kind.USER_DECRYPTION, event.decryption_id, event, tx_hash=tx_hash))

    def transaction(self, tx_hash: bytes, data: bytes, to: bytes = DECRYPTION) -> None:
        """The Gateway's nodes know this transaction."""
        found = {
            "hash": "0x" + tx_hash.hex(),
            "from": "0x" + USER.hex(),
            "to": "0x" + to.hex(),
            "nonce": "0x1",
            "input": "0x" + data.hex(),
            "blockNumber": "0x65",
            "blockHash": "0x" + bytes(32).hex(),
        }
        for node in (self.gateway, self.gateway_two):
            node.transactions[tx_hash] = found

    def prep(self, number: int = 1, **row: Any) -> Row:
        event = events.PrepKeygenRequest(3 << 248 | number, 0, 1)
        return self.store.add(Row(Kind.PREP_KEYGEN, event.prep_keygen_id, event, **row))

    def keygen(self, number: int = 1, **row: Any) -> Row:
        event = events.KeygenRequest(3 << 248 | number, 4 << 248 | number)
        return self.store.add(Row(Kind.KEYGEN, event.key_id, event, **row))

    def crsgen(self, number: int = 1, **row: Any) -> Row:
        event = events.CrsgenRequest(5 << 248 | number, 2048, 1)
        return self.store.add(Row(Kind.CRSGEN, event.crs_id, event, **row))

    def prss(self, **row: Any) -> Row:
        return self.store.add(Row(Kind.PRSS_INIT, 1, events.PrssInit(), **row))

    def reshare(self, number: int = 1, key_id: int = KEY_ID, digests: bool = True, **row: Any) -> Row:
        if digests:
            self.store.digests[key_id] = key_digests(key_id)
        event = events.KeyReshareSameSet(PREP_ID, key_id, 6 << 248 | number, 1)
        return self.store.add(Row(Kind.KEY_RESHARE, event.key_reshare_id, event, **row))

    # -- running

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """The worker runs until the block is left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ownership.run)
            nursery.start_soon(self.worker.run)
            yield self
            nursery.cancel_scope.cancel()

    async def until(self, condition: Callable[[], Any], seconds: float = 600.0) -> None:
        """Wait (in virtual time) until `condition` holds."""
        pause = 0.01
        with trio.move_on_after(seconds):
            while not condition():  # any condition of the world, in virtual time
                await trio.sleep(pause)
                pause = min(0.25, 1.01 * pause)
            return
        raise AssertionError(f"not within {seconds:g} s; rows: {[(r.status, r.last_error) for r in self.rows()]}")

    async def until_settled(self, seconds: float = 600.0) -> None:
        """Wait until no row is pending or under process."""
        await self.until(lambda: not {"pending", "under_process"} & set(self.store.counts()), seconds)

    def rows(self) -> list[Row]:
        return list(self.store.rows.values())


__all__ = ["AbstractAsyncContextManager", "World", "nullcontext"]
