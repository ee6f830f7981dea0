"""A small honest world around the listener: a chain of blocks with logs, nodes that show it well or badly, a store.

In memory and under trio's mock clock. The nodes speak JSON-RPC values as real ones do, so that everything from
`kmsd.chain.scan` upwards is the code under test.
"""

import itertools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import attrs
import trio

from kmsd.chain.bloom import bits
from kmsd.config import Contract, GatewayNode, Settings
from kmsd.listener import Listener
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind, Stream
from kmsd.ports import (
    Arrival,
    BlockRef,
    ChainFact,
    Claimed,
    DependencyDown,
    Head,
    QuarantinedLog,
    RangeOutcome,
    RangeRecord,
    Rewind,
    RpcAnswer,
    RpcCall,
    RpcError,
    StoredRef,
)
from kmsd.wakeups import WakeUps
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.structs import KeyDigest, SnsMaterial

CHAIN_ID = 123456
DECRYPTION = bytes.fromhex("d1" * 20)
KMS_GENERATION = bytes.fromhex("d2" * 20)
KEY_ID = 4 << 248 | 1


def public_request(number: int, extra_data: bytes = b"\0") -> events.PublicDecryptionRequest:
    """The `number`-th public decryption request."""
    material = SnsMaterial(keccak256(bytes([number % 256])), KEY_ID, keccak256(b"ct"), (b"\x0c" * 20,))
    return events.PublicDecryptionRequest(1 << 248 | number, (material,), extra_data)


def user_request(number: int) -> events.UserDecryptionRequest:
    """The `number`-th user decryption request."""
    return events.UserDecryptionRequest(2 << 248 | number, public_request(number)[1], b"\x0e" * 20, b"key" * 9, b"\0")


def crsgen_request(number: int) -> events.CrsgenRequest:
    """The `number`-th crsgen request."""
    return events.CrsgenRequest(5 << 248 | number, 4096, 0)


def activate_crs(number: int) -> events.ActivateCrs:
    """The consensus about a CRS."""
    return events.ActivateCrs(5 << 248 | number, ("http://a",), b"\x0d" * 32)


def activate_key() -> events.ActivateKey:
    """The consensus about a key."""
    return events.ActivateKey(KEY_ID, ("http://a",), (KeyDigest(0, b"\x0f" * 32),))


@attrs.frozen
class RawLog:
    """A log with given topics and data, decodable or not."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


def raw(record: Any) -> RawLog:
    """The log of an event's record."""
    topics, data = events.encode(record)
    address = DECRYPTION if events.event_of(record).contract == events.DECRYPTION else KMS_GENERATION
    return RawLog(address, topics, data)


@attrs.frozen
class Block:
    """One block; `logs` as JSON."""

    number: int
    hash: bytes
    parent: bytes
    timestamp: int
    logs: tuple[dict[str, Any], ...]
    bloom: bytes


class Chain:
    """Blocks from 0 on; `mine` adds one, `reorganise` replaces the last ones."""

    def __init__(self, length: int = 10) -> None:
        self.blocks: list[Block] = []
        self._salts = itertools.count()
        for _ in range(length + 1):
            self.mine()

    @property
    def head(self) -> int:
        return self.blocks[-1].number

    def mine(self, *records: Any) -> Block:
        """A new block with the logs of `records` (event records or RawLogs)."""
        number = len(self.blocks)
        parent = self.blocks[-1].hash if self.blocks else bytes(32)
        block_hash = keccak256(parent + number.to_bytes(8, "big") + next(self._salts).to_bytes(8, "big"))
        mask = 0
        logs = []
        for index, record in enumerate(records):
            one = record if isinstance(record, RawLog) else raw(record)
            mask |= bits(one.address)
            for topic in one.topics:
                mask |= bits(topic)
            logs.append(
                {
                    "address": "0x" + one.address.hex(),
                    "topics": ["0x" + topic.hex() for topic in one.topics],
                    "data": "0x" + one.data.hex(),
                    "blockNumber": hex(number),
                    "blockHash": "0x" + block_hash.hex(),
                    "transactionHash": "0x" + keccak256(block_hash + bytes([index % 256])).hex(),
                    "logIndex": hex(index),
                    "removed": False,
                }
            )
        block = Block(number, block_hash, parent, 1_700_000_000 + number, tuple(logs), mask.to_bytes(256, "big"))
        self.blocks.append(block)
        return block

    def reorganise(self, depth: int, *blocks: Sequence[Any]) -> None:
        """Forget the last `depth` blocks and mine `blocks` (each a sequence of records) instead."""
        del self.blocks[len(self.blocks) - depth :]
        for records in blocks:
            self.mine(*records)

    def copy(self) -> "Chain":
        """The same history with a future of its own."""
        other = Chain.__new__(Chain)
        other.blocks = list(self.blocks)
        other._salts = itertools.count(next(self._salts) + 1_000_000)
        return other


class ChainNode:
    """A node that shows `chain`, well unless told otherwise.

    `lag` hides the newest blocks; `lying_lag` hides them only from `eth_getLogs`, which answers as if there were none;
    `omits` drops logs; `down` makes every batch fail; `refuse` may answer a call; `max_blocks` and `max_logs` are
    limits of `eth_getLogs`.
    """

    def __init__(self, name: str, chain: Chain, *, pushes: bool = False) -> None:
        self.name = name
        self.chain = chain
        self.chain_id = CHAIN_ID
        self.lag = 0
        self.lying_lag = 0
        self.omits: Callable[[dict[str, Any]], bool] = lambda log: False
        self.adds: list[dict[str, Any]] = []
        self.down = False
        self.refuse: Callable[[RpcCall], RpcAnswer | None] = lambda call: None
        self.between: Callable[[], None] = lambda: None
        self.max_blocks = math.inf
        self.max_logs = math.inf
        self.ranges: list[tuple[int, int]] = []
        self.batches = 0
        self.latency = 0.001
        self._pushes = pushes
        self._subscribers: list[trio.MemorySendChannel[Head]] = []

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        await trio.sleep(self.latency)
        self.batches += 1
        if self.down:
            raise DependencyDown(f"gateway node {self.name}", "connection refused")
        answers = []
        for call in calls:
            answers.append(self.refuse(call) or self._answer(call))
            self.between()
        return answers

    def heads(self) -> Any:
        return self._subscription() if self._pushes else None

    @asynccontextmanager
    async def _subscription(self) -> AsyncIterator[AsyncIterator[Head]]:
        if self.down:
            raise DependencyDown(f"gateway node {self.name}", "connection refused")
        send, receive = trio.open_memory_channel[Head](100)
        self._subscribers.append(send)
        try:
            yield receive
        finally:
            if send in self._subscribers:
                self._subscribers.remove(send)

    def push(self, block: Block, *, with_bloom: bool = True) -> None:
        """Tell subscribers about a block."""
        for subscriber in self._subscribers:
            subscriber.send_nowait(Head(block.number, block.hash, block.parent, block.bloom if with_bloom else None))

    def cut_subscriptions(self) -> None:
        for subscriber in self._subscribers:
            subscriber.close()
        self._subscribers.clear()

    def _answer(self, call: RpcCall) -> RpcAnswer:
        visible = self.chain.blocks[: len(self.chain.blocks) - self.lag]
        if call.method == "eth_chainId":
            return RpcAnswer(hex(self.chain_id))
        if call.method == "eth_getBlockByNumber":
            tag = call.params[0]
            number = visible[-1].number if tag == "latest" else int(tag, 16)
            return RpcAnswer(block_json(visible[number]) if number < len(visible) else None)
        if call.method == "eth_getLogs":
            return self._logs(call.params[0], visible[: len(visible) - self.lying_lag])
        return RpcAnswer(None, RpcError(-32601, "the method does not exist"))

    def _logs(self, wanted: dict[str, Any], visible: Sequence[Block]) -> RpcAnswer:
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        self.ranges.append((first, last))
        if last - first + 1 > self.max_blocks:
            return RpcAnswer(None, RpcError(-32602, "query exceeds max block range"))
        logs = [
            log
            for block in visible[first : last + 1]
            for log in block.logs
            if log["address"] == wanted["address"] and log["topics"][0] in wanted["topics"][0] and not self.omits(log)
        ]
        if len(logs) > self.max_logs:
            return RpcAnswer(None, RpcError(-32005, "query returned more than allowed results"))
        return RpcAnswer(logs + self.adds)


def block_json(block: Block) -> dict[str, Any]:
    """A block as `eth_getBlockByNumber` gives it."""
    return {
        "number": hex(block.number),
        "hash": "0x" + block.hash.hex(),
        "parentHash": "0x" + block.parent.hex(),
        "timestamp": hex(block.timestamp),
        "gasLimit": "0x1c9c380",
        "baseFeePerGas": "0x5f5e100",
        "logsBloom": "0x" + block.bloom.hex(),
        "transactions": [],
    }


@attrs.define
class Row:
    """A stored request."""

    arrival: Arrival
    owner: int | None = None
    already_sent: bool = False
    confirmed_by: set[str] = attrs.field(factory=set)


class MemoryStore:
    """The listener's verbs of the store, transactional like the real one.

    `fail` is asked with a verb's name before it ("lose" answers after the commit instead of before it).
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[Kind, int], Row] = {}
        self.withdrawn: list[StoredRef] = []
        self.reported: list[StoredRef] = []
        self.quarantine: list[QuarantinedLog] = []
        self.facts: list[ChainFact] = []
        self.cursors: dict[tuple[str, Stream], BlockRef] = {}
        self.ends: dict[tuple[str, Stream], list[BlockRef]] = {}
        self.rust_cursor: int | None = None
        self.floors: dict[Stream, int] = {}
        self.records: list[RangeRecord] = []
        self.fail: Callable[[str], str | None] = lambda verb: None
        self.latency = 0.001
        self.moved = trio.Event()

    def _begin(self, verb: str) -> None:
        if self.fail(verb) == "down":
            raise DependencyDown("database", "connection refused")

    async def cursor(self, node: str, stream: Stream) -> BlockRef | None:
        self._begin("cursor")
        await trio.lowlevel.checkpoint()
        return self.cursors.get((node, stream))

    async def lowest_cursor(self, stream: Stream) -> BlockRef | None:
        self._begin("lowest_cursor")
        await trio.lowlevel.checkpoint()
        known = [ref for (_, one), ref in self.cursors.items() if one is stream]
        if known:
            return min(known)
        return None if self.rust_cursor is None else BlockRef(self.rust_cursor, b"")

    async def range_ends(self, node: str, stream: Stream) -> Sequence[BlockRef]:
        self._begin("range_ends")
        await trio.lowlevel.checkpoint()
        return list(reversed(self.ends.get((node, stream), [])))[:256]

    async def record_range(self, record: RangeRecord) -> RangeOutcome:
        fault = self.fail("record_range")
        await trio.sleep(self.latency)
        if fault == "down":
            raise DependencyDown("database", "connection refused")
        lose = fault == "lose"
        key = (record.node, record.stream)
        if self.cursors.get(key) != record.expected:
            return RangeOutcome(committed=False)
        self.records.append(record)
        stored: dict[Kind, int] = {}
        leased: list[Claimed] = []
        fresh: list[Arrival] = []
        duplicates = 0
        for arrival in record.arrivals:
            row = self.rows.get((arrival.kind, arrival.id))
            if row is None:
                row = self.rows[arrival.kind, arrival.id] = Row(arrival)
                fresh.append(arrival)
                stored[arrival.kind] = stored.get(arrival.kind, 0) + 1
                taken = sum(one.kind is arrival.kind for one in leased)
                if record.owner is not None and taken < record.hand_over.get(arrival.kind, 0):
                    row.owner = record.owner
                    leased.append(_claimed(arrival, record.owner))
            else:
                duplicates += 1
            row.confirmed_by.add(record.node)
        self.quarantine += record.quarantined
        self.facts += record.facts
        self.cursors[key] = record.end
        self.ends.setdefault(key, []).append(record.end)
        self._signal()
        if lose:
            raise DependencyDown("database", "connection lost")
        return RangeOutcome(True, stored, duplicates, leased=leased, fresh=fresh)

    async def stored_after(self, stream: Stream, block_number: int) -> Sequence[StoredRef]:
        self._begin("stored_after")
        await trio.lowlevel.checkpoint()
        return [
            StoredRef(kind, number, row.arrival.block_number, row.arrival.block_hash, row.already_sent)
            for (kind, number), row in self.rows.items()
            if row.arrival.block_number > block_number
            and (stream is Stream.DECRYPTION) == kind.value.endswith("decryption")
        ]

    async def rewind(self, rewind: Rewind) -> bool:
        self._begin("rewind")
        await trio.lowlevel.checkpoint()
        key = (rewind.node, rewind.stream)
        if self.cursors.get(key) != rewind.expected:
            return False
        for ref in rewind.orphaned:
            row = self.rows.get((ref.kind, ref.id))
            if row is None or row.arrival.block_hash != ref.block_hash:
                continue  # the row decides, as in the real store
            if row.already_sent:
                self.reported.append(ref)
            else:
                del self.rows[ref.kind, ref.id]
                self.withdrawn.append(ref)
        self.cursors[key] = rewind.to
        self.ends[key] = [end for end in self.ends.get(key, []) if end.number <= rewind.to.number]
        self._signal()
        return True

    async def publish_floor(self, stream: Stream, nodes: Sequence[str]) -> None:
        self._begin("publish_floor")
        await trio.lowlevel.checkpoint()
        known = [ref.number for (node, one), ref in self.cursors.items() if one is stream and node in nodes]
        if known:
            self.floors[stream] = min(known)

    def _signal(self) -> None:
        self.moved.set()
        self.moved = trio.Event()

    async def until(self, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Wait until a commit makes `condition` true."""
        with trio.fail_after(seconds):
            while not condition():
                await self.moved.wait()


def _claimed(arrival: Arrival, owner: int) -> Claimed:
    return Claimed(
        kind=arrival.kind,
        id=arrival.id,
        event=arrival.event,
        tx_hash=arrival.tx_hash,
        block_number=arrival.block_number,
        block_hash=arrival.block_hash,
        log_index=arrival.log_index,
        already_sent=False,
        error_counter=0,
        attempts=0,
        core_shard=None,
        refusal=None,
        budget_age=0.0,
        created_at=arrival.created_at,
        otlp_context=arrival.otlp_context,
        lease=owner,
    )


class Hands:
    """A worker's hand-over desk with `room` places per kind."""

    def __init__(self, room: int = 0) -> None:
        self.room = dict.fromkeys(Kind, room)
        self.reserved = dict.fromkeys(Kind, 0)
        self.delivered: list[Claimed] = []

    def leasing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def reserve(self, kind: Kind, wanted: int) -> int:
        granted = min(wanted, self.room[kind])
        self.room[kind] -= granted
        self.reserved[kind] += granted
        return granted

    def deliver(self, claimed: Sequence[Claimed]) -> None:
        for one in claimed:
            self.reserved[one.kind] -= 1
        self.delivered += claimed

    def cancel(self, kind: Kind, n: int) -> None:
        self.reserved[kind] -= n
        self.room[kind] += n


class WorldTime:
    """Wall clock over trio's."""

    def now(self) -> float:
        return 1_700_000_000.0 + trio.current_time() % 1e9


class Counting:
    """Entropy without chance."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def random(self) -> float:
        return 0.5

    def token(self, size: int) -> bytes:
        return (next(self._next).to_bytes(8, "big") * size)[:size]  # no part of it is zero: trace ids may not be


class Owner:
    """Ownership that is enrolled under `current`."""

    def __init__(self, current: int | None = 7) -> None:
        self.current = current


@attrs.define
class World:
    """A listener and everything around it. `restart()` gives a new listener over the same chain and store."""

    nodes: list[ChainNode]
    store: MemoryStore
    settings: Settings
    hands: Hands = attrs.field(factory=Hands)
    owner: Owner = attrs.field(factory=Owner)
    metrics: Metrics = attrs.field(factory=Metrics)
    health: Health = attrs.field(factory=lambda: Health(WorldTime()))
    wakeups: WakeUps = attrs.field(factory=WakeUps)
    traces: Traces = OFF

    @property
    def chain(self) -> Chain:
        return self.nodes[0].chain

    def listener(self) -> Listener:
        """A fresh listener, as after a start of the process."""
        return Listener(
            self.settings,
            self.nodes,
            self.store,  # type: ignore[arg-type]
            self.owner,  # type: ignore[arg-type]
            self.wakeups,
            self.hands,
            self.metrics,
            self.health,
            WorldTime(),
            Counting(),
            self.traces,
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Run a fresh listener inside the block; leaving it kills it where it stands."""
        listener = self.listener()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            nursery.cancel_scope.cancel()

    def ids(self, kind: Kind = Kind.PUBLIC_DECRYPTION) -> list[int]:
        """Counters of the stored requests of one kind, in order."""
        return sorted(number & (1 << 248) - 1 for one, number in self.store.rows if one is kind)

    async def stored(self, *numbers: int, kind: Kind = Kind.PUBLIC_DECRYPTION, seconds: float = 60.0) -> None:
        """Wait until exactly these requests of one kind are stored."""
        try:
            await self.store.until(lambda: self.ids(kind) == sorted(numbers), seconds=seconds)
        except trio.TooSlowError:
            raise AssertionError(f"stored {self.ids(kind)}, expected {sorted(numbers)}") from None

    async def read_up_to(self, block: int, *, seconds: float = 60.0) -> None:
        """Wait until every node's cursors of both streams are at `block` or above."""

        def done() -> bool:
            cursors = self.store.cursors
            return all(
                (ref := cursors.get((node.name, stream))) is not None and ref.number >= block
                for node in self.nodes
                for stream in Stream
            )

        await self.store.until(done, seconds=seconds)


def world(*, nodes: int = 1, length: int = 10, pushes: bool = False, **settings: Any) -> World:
    """A world with `nodes` nodes of one chain of `length` blocks; further settings as in `Settings`."""
    chain = Chain(length)
    names = ("main", "second", "third")[:nodes]
    return World(
        nodes=[ChainNode(name, chain, pushes=pushes) for name in names],
        store=MemoryStore(),
        settings=Settings(
            database_url="postgresql://unused",
            gateway_chain_id=CHAIN_ID,
            gateway_nodes=tuple(GatewayNode(name, f"http://{name}") for name in names),
            decryption_contract=Contract(DECRYPTION, "Decryption"),
            kms_generation_contract=Contract(KMS_GENERATION, "KMSGeneration"),
            **settings,
        ),
    )
