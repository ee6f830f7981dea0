"""The listener: every request that the Gateway's contracts announce gets into the database, whatever fails.

For each node, and for each of the two streams of events (decryption, key management), one reader does this for ever:

    wait for a head that is worth looking at                                  listening/heads.py
    plan the next range from the cursor, never from anything else             chain/ranges.py
    read it in one batch that proves that the node had it                     chain/scan.py
    has the cursor's block another hash? go back to the fork                  listening/rewinding.py
    decode; what cannot be decoded goes to quarantine                         listening/decoding.py
    commit everything and the cursor in one transaction, wake the worker      listening/recording.py

All nodes are read and the union is stored: one that omits a log, lags or is dead costs nothing (EV4). Any fault leaves
the cursor where it is and the same range is read again (EV2). This module holds them together, tells the Rust
connector's cursor where a return to it may begin, and raises what an operator must see.
"""

import logging
from collections.abc import Mapping, Sequence

import trio

from kmsd.chain.bloom import Interest
from kmsd.chain.ranges import BlockRange
from kmsd.chain.scan import LogFilter, RangeRefused, Reorganised, Unproven, block_hashes, scan
from kmsd.config import Settings
from kmsd.handover import Handover
from kmsd.listening.around import Around
from kmsd.listening.decoding import contract_of, kind_of, topics_of
from kmsd.listening.heads import HeadFeed
from kmsd.listening.reader import StreamReader
from kmsd.listening.witnesses import Waiting, Witnesses
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import OPERATIONS
from kmsd.ownership import Ownership
from kmsd.ports import BlockRef, DependencyDown, Entropy, Node, Rewind, Store, Time
from kmsd.wakeups import WakeUps

log = logging.getLogger("kmsd.listener")

DOWN_AFTER = 600.0
"""Seconds after which a node that is behind no longer holds `last_block_polled` back, and is alerted."""
LONE_CEREMONY = 6.0
"""Seconds after which a ceremony that one node alone has reported is alerted (within 10 s, decisions.md 12)."""
TEND_INTERVAL = 2.0
"""Seconds between looks at readers and ceremonies."""
FLOOR_INTERVAL = 10.0
"""Seconds between writes of `last_block_polled`."""
GIVE_UP = 15.0
"""Seconds without progress after which a replay leaves a node behind, once another node has read everything."""

UNCONFIRMED_ALERT = "ceremony waits for a second node"


class Listener:
    """All readers of one daemon. `run` follows the chain; `read_to` reads up to a block, for `kmsd --once`."""

    def __init__(
        self,
        settings: Settings,
        nodes: Sequence[Node],
        store: Store,
        ownership: Ownership,
        wakeups: WakeUps,
        handover: Handover,
        metrics: Metrics,
        health: Health,
        time: Time,
        entropy: Entropy,
        traces: Traces = OFF,
    ) -> None:
        self._around = Around(
            settings,
            tuple(nodes),
            store,
            ownership,
            wakeups,
            handover,
            metrics,
            time,
            entropy,
            traces,
            health.heartbeats,
        )
        self._health = health
        interests = {stream: Interest(contract_of(stream, settings), topics_of(stream)) for stream in Stream}
        self._feeds = {
            node.name: HeadFeed(
                node,
                interests,
                metrics,
                time,
                entropy,
                interval=settings.decryption_polling,
                deadline=settings.rpc_timeout,
            )
            for node in nodes
        }
        self._witnesses = {stream: Witnesses([node.name for node in nodes]) for stream in Stream}
        self._readers = [
            StreamReader(self._around, node, stream, self._feeds[node.name], self._witnesses[stream])
            for node in nodes
            for stream in Stream
        ]

    async def run(self) -> None:
        """Listen for ever. Dependencies that are down never end it."""
        async with trio.open_nursery() as nursery:
            for feed in self._feeds.values():
                nursery.start_soon(feed.run)
            for reader in self._readers:
                nursery.start_soon(reader.run)
            nursery.start_soon(self._tend)
            nursery.start_soon(self._keep_floor)

    # -----------------------------------------------------------------------------------------------------------------
    # For `kmsd --once`

    async def head(self) -> int:
        """The highest head that any node shows now. Raises DependencyDown when none answers."""
        heads: list[int] = []
        faults: list[str] = []

        async def ask(feed: HeadFeed) -> None:
            try:
                heads.append(await feed.look())
            except (DependencyDown, Unproven) as fault:
                faults.append(str(fault))

        async with trio.open_nursery() as nursery:
            for feed in self._feeds.values():
                nursery.start_soon(ask, feed)
        if not heads:
            raise DependencyDown("gateway", "; ".join(sorted(faults)))
        return max(heads)

    async def read_to(self, head: int) -> None:
        """Read both streams of every node up to block `head` (less `confirmations`).

        Waits for faults to end like `run`, but once a stream was read from one node, the others are left behind when
        they make no progress for GIVE_UP seconds.
        """
        async with trio.open_nursery() as nursery:
            for stream in Stream:
                readers = [reader for reader in self._readers if reader.stream is stream]
                nursery.start_soon(self._read_stream_to, readers, head)

    async def rewind_to(self, block_number: int) -> None:
        """Move every cursor at or above `block_number` back before it, so that it is read again; repeats nothing.

        A node that does not answer keeps its cursor. Raises DependencyDown when none answers, or for the database.
        """
        back = max(0, block_number - 1)
        faults: list[str] = []
        for reader in self._readers:
            node, stream = reader.node, reader.stream
            cursor = await self._around.store.cursor(node.name, stream)
            if cursor is None:
                reader.start_at(block_number)
            elif cursor.number >= block_number:
                try:
                    (found,) = (await block_hashes(node, [back], deadline=self._around.settings.rpc_timeout)).values()
                except (DependencyDown, Unproven) as fault:
                    log.warning("%s on node %s is not replayed: %s", stream.value, node.name, fault)
                    faults.append(str(fault))
                    continue
                if found is not None:
                    to = BlockRef(back, found)
                    reason = f"replay from block {block_number}"
                    await self._around.store.rewind(Rewind(node.name, stream, cursor, to, (), reason))
                    self._witnesses[stream].rewound(node.name, back)
                    reader.forget_position()
        if len(faults) == len(self._readers):
            raise DependencyDown("gateway", faults[0])

    async def count_after(self, head: int) -> Mapping[Kind, int]:
        """Requests in blocks after `head` as the first node that answers shows them. Raises DependencyDown."""
        faults: list[str] = []
        for node in self._around.nodes:
            try:
                return await self._count_after(node, head)
            except (DependencyDown, Unproven, RangeRefused) as fault:
                faults.append(str(fault))
        raise DependencyDown("gateway", "; ".join(faults))

    async def _count_after(self, node: Node, head: int) -> Mapping[Kind, int]:
        settings = self._around.settings
        counts = dict.fromkeys(OPERATIONS, 0)
        latest = await self._feeds[node.name].look()
        for stream in Stream if latest > head else ():
            wanted = LogFilter(contract_of(stream, settings), topics_of(stream))
            found = await scan(node, None, BlockRange(head + 1, latest), wanted, deadline=settings.rpc_timeout)
            if isinstance(found, Reorganised):
                raise Unproven("compared a cursor that was not given")
            for one in found.logs:
                if (kind := kind_of(one)) is not None:
                    counts[kind] += 1
        return counts

    async def _read_stream_to(self, readers: Sequence[StreamReader], head: int) -> None:
        left = dict.fromkeys(readers)
        someone_finished = trio.Event()

        async def read(reader: StreamReader) -> None:
            await reader.read_to(head)
            del left[reader]
            someone_finished.set()
            if not left:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(read, reader)
            await someone_finished.wait()
            finished_at = trio.current_time()
            while True:
                until = max([finished_at, *(one.good_at for one in left)]) + GIVE_UP
                if until <= trio.current_time():
                    break
                await trio.sleep_until(until)
            for reader in left:
                log.warning(
                    "%s was not read to block %d on node %s, which another node was: %s",
                    reader.stream.value,
                    head,
                    reader.node.name,
                    reader.trouble or "too slow",
                )
            nursery.cancel_scope.cancel()

    # -----------------------------------------------------------------------------------------------------------------
    # What the operator and the Rust connector must know

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_INTERVAL)
            for node in self._around.nodes:
                self._tell_down(node)
            for witnesses in self._witnesses.values():
                for name, count in witnesses.omissions().items():
                    self._around.metrics.inc("kms_connector_listener_events_missed_by_node", name, by=count)
                    log.warning("node %s did not report %d logs that another node reported", name, count)
            self._tell_unconfirmed(self._witnesses[Stream.KEY_MANAGEMENT].waiting(trio.current_time() - LONE_CEREMONY))

    def _tell_down(self, node: Node) -> None:
        key = f"gateway node {node.name} is behind"
        late = [reader for reader in self._readers if reader.node is node and reader.behind() > DOWN_AFTER]
        if not late:
            self._health.clear(key)
            return
        minutes = max(reader.behind() for reader in late) / 60
        self._health.alert(
            key,
            f"{', '.join(reader.stream.value for reader in late)} could not be read from it for {minutes:.0f} min "
            f"({late[0].trouble or 'no answer'}); last_block_polled no longer waits for it. Repair it, or take it out "
            "of gateway_nodes",
        )

    def _tell_unconfirmed(self, waiting: Sequence[Waiting]) -> None:
        if not waiting:
            self._health.clear(UNCONFIRMED_ALERT)
            return
        first = waiting[0]
        silent = ", ".join(f"{name} (has read past it)" if name in first.passed else name for name in first.missing)
        more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
        self._health.alert(
            UNCONFIRMED_ALERT,
            f"{first.words}{more} was reported by node {first.reported_by[0]} alone and is not acted on until another "
            f"one does; not reported by: {silent}. `kmsd retry ID --unconfirmed` goes on without",
        )

    async def _keep_floor(self) -> None:
        """Write `last_block_polled` for the way back to the Rust connector, and for adoption (decisions.md 7)."""
        written: dict[Stream, object] = {}
        while True:
            await trio.sleep(FLOOR_INTERVAL)
            for stream in Stream:
                readers = [r for r in self._readers if r.stream is stream and r.behind() <= DOWN_AFTER]
                state = [(reader.node.name, reader.last_read) for reader in readers]
                if not readers or written.get(stream) == state:
                    continue
                try:
                    await self._around.store.publish_floor(stream, [name for name, _ in state])
                    written[stream] = state
                except DependencyDown as down:
                    log.debug("last_block_polled waits: %s", down)
