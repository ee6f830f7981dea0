"""One stream of one node, read from its cursor on: range by range, proven, stored, rewound (EV1 to EV5)."""

import logging
import math
from typing import NamedTuple

import trio

from kmsd.chain.ranges import Span, next_range
from kmsd.chain.scan import LogFilter, RangeRefused, Reorganised, Scanned, Unproven, block_hashes, scan
from kmsd.listening.around import Around
from kmsd.listening.decoding import contract_of, topics_of
from kmsd.listening.heads import FIRST_PAUSE, HeadFeed, pause_after
from kmsd.listening.recording import Recorder
from kmsd.listening.rewinding import rewind
from kmsd.listening.witnesses import Witnesses
from kmsd.operations.kinds import Stream
from kmsd.ports import BlockRef, DependencyDown, Node

log = logging.getLogger("kmsd.listener")

ADOPTED_OVERLAP = 100
"""Blocks read again below a cursor of the Rust connector, whose cursor may pass events that it lost
(reference-connector.md 3.1, L2), and below another node's cursor that stands on a history which this node does not
show: what that history's blocks hold here was read by nobody."""


LAG_PAUSE = 0.1
"""Seconds before a node that does not have the block yet is asked again; doubling."""
PATIENCE = 3
"""Failures of the database in a row after which ranges get shorter, whatever the reason; at once when it was too slow:
a range may be too much for a statement's deadline."""


class _Position(NamedTuple):
    """Where reading stands: `stored` is this node's own cursor, None before its first range."""

    stored: BlockRef | None
    last_read: int


class _Ahead(NamedTuple):
    """A range that was read while the one before it was being stored; good only if the cursor is `cursor` then."""

    cursor: BlockRef
    found: Scanned | Reorganised


class StreamReader:
    """Reads one stream of one node.

    `good_at` is the clock of trio when everything that the node showed was stored, `trouble` what went wrong since.
    """

    def __init__(self, around: Around, node: Node, stream: Stream, feed: HeadFeed, witnesses: Witnesses) -> None:
        self._around = around
        self._feed = feed
        self._witnesses = witnesses
        self._filter = LogFilter(contract_of(stream, around.settings), topics_of(stream))
        self._recorder = Recorder(around, node.name, stream, witnesses)
        self._span = Span.of(around.settings.get_logs_batch_size)
        self._position: _Position | None = None
        self._ahead: _Ahead | None = None
        self._beginning: int | None = None
        self._stands_on: BlockRef | None = None
        """The block of another node's cursor after which this one begins, for the first range to be compared with."""
        self._scanned_at = -math.inf
        self.node = node
        self.stream = stream
        self.good_at = trio.current_time()
        self.trouble = ""

    @property
    def last_read(self) -> int | None:
        """The last block stored of this node; None while that is unknown."""
        return self._position.last_read if self._position is not None else None

    async def run(self) -> None:
        """Follow the node's head for ever. What fails is tried again after a pause, from the same cursor (EV2)."""
        settings = self._around.settings
        is_decryption = self.stream is Stream.DECRYPTION
        interval = settings.decryption_polling if is_decryption else settings.key_management_polling
        failures = 0
        loop = f"listener {self.node.name} {self.stream.value}"
        while True:
            self._around.heartbeats.beat(loop)
            try:
                position = await self._where()
                self._around.heartbeats.rest(loop)  # a chain may stand still
                head = await self._feed.news(
                    self.stream,
                    position.last_read,
                    confirmations=settings.confirmations,
                    not_before=self._scanned_at + interval,
                )
                self._around.heartbeats.beat(loop)
                if head < position.last_read:
                    await self._look_below(position, head)
                while await self.advance(head):
                    self._around.heartbeats.beat(loop)
                    failures = 0
            except (DependencyDown, Unproven, RangeRefused) as fault:
                failures += 1
                await self._recover(fault, failures)

    async def read_to(self, head: int) -> None:
        """Read until nothing up to block `head` is left; faults as in `run`."""
        failures = 0
        while True:
            try:
                while await self.advance(head):
                    failures = 0
                return
            except (DependencyDown, Unproven, RangeRefused) as fault:
                failures += 1
                await self._recover(fault, failures)

    async def advance(self, head: int) -> bool:
        """Read and store one range below `head`; False when none is left.

        Raises DependencyDown, Unproven, RangeRefused; then nothing has moved, or the cursor will say so.
        """
        position = await self._where(head)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.cursor == position.stored:
            found: Scanned | Reorganised | None = ahead.found
        else:
            found = await self._scan(position, head)
        if found is None:
            self._show(position.last_read, head)
            return False
        # Until the store has answered, only the store knows where the cursor is.
        self._position = None
        if isinstance(found, Reorganised):
            if position.stored is None:
                # The block after which it was to begin is gone, and with it what this node showed below.
                self._beginning, self._stands_on = max(-1, position.last_read - ADOPTED_OVERLAP), None
            await self._go_back(position, position.last_read, found.seen)
            return True
        self._span = self._span.after(found.end.number - position.last_read, len(found.logs))
        if await self._record(position, found, head):
            self._position = _Position(found.end.ref, found.end.number)
            self._show(found.end.number, head, timestamp=found.end.timestamp)
        return True

    async def _scan(self, position: _Position, head: int) -> Scanned | Reorganised | None:
        """Read the range after `position` from the node; None when there is none below `head`."""
        settings = self._around.settings
        blocks = next_range(
            position.last_read,
            head,
            confirmations=settings.confirmations,
            span=self._span.size,
            overlap=settings.rescan_overlap if position.stored is not None else 0,
        )
        if blocks is None:
            return None
        self._scanned_at = started = trio.current_time()
        compared = position.stored if position.stored is not None else self._stands_on
        found = await scan(self.node, compared, blocks, self._filter, deadline=settings.rpc_timeout)
        seconds = trio.current_time() - started
        self._around.metrics.observe("kms_connector_listener_scan_seconds", seconds, self.node.name)
        return found

    async def _record(self, position: _Position, found: Scanned, head: int) -> bool:
        """Store the range; while the store works, read the one after it if there is a backlog."""
        fault: DependencyDown | None = None
        committed = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_ahead, found, head)
            try:
                committed = await self._recorder.record(position.stored, found)
            except DependencyDown as down:
                fault = down
                nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault
        return committed

    async def _read_ahead(self, found: Scanned, head: int) -> None:
        """Read the range after `found`, to be used only if that is what the cursor says then."""
        cursor = found.end.ref
        try:
            after = await self._scan(_Position(cursor, cursor.number), head)
        except (DependencyDown, Unproven, RangeRefused) as fault:
            log.debug("reading ahead on node %s: %s", self.node.name, fault)
            return
        self._ahead = None if after is None else _Ahead(cursor, after)

    def start_at(self, block_number: int) -> None:
        """Begin at this block, should there be no cursor (a replay)."""
        self._beginning = block_number - 1
        self._position = None

    def forget_position(self) -> None:
        """The cursor was moved by somebody else: read it again."""
        self._position = None

    async def _where(self, head: int | None = None) -> _Position:
        """The position, from the store where this reader does not know it: at start, after a fault, after a move."""
        if self._position is None:
            stored = await self._around.store.cursor(self.node.name, self.stream)
            if stored is not None:
                # What this daemon read beyond it may have been withdrawn by another one since.
                self._witnesses.rewound(self.node.name, stored.number)
                self._position = _Position(stored, stored.number)
            else:
                if self._beginning is None:
                    # Decided once: were it the newest head each time, faults before the first commit would open a gap.
                    self._beginning = await self._begin(head)
                self._position = _Position(None, self._beginning)
        return self._position

    async def _begin(self, head: int | None) -> int:
        """The block before the first one that a node without a cursor reads (EV7; decisions.md 7)."""
        settings = self._around.settings
        name = f"{self.stream.value} on node {self.node.name}"
        lowest = await self._around.store.lowest_cursor(self.stream)
        if lowest is not None:
            last_read = lowest.number
            if await self._has(lowest):
                self._stands_on = lowest
            else:
                last_read = max(-1, lowest.number - ADOPTED_OVERLAP)
            log.info("%s has no cursor: reading after block %d, where the stream stands", name, last_read)
            return last_read
        is_decryption = self.stream is Stream.DECRYPTION
        configured = (
            settings.decryption_from_block_number if is_decryption else settings.kms_operation_from_block_number
        )
        if configured is not None:
            log.info("%s has no cursor: reading from the configured block %d", name, configured)
            return configured - 1
        first = max(0, (await self._feed.look() if head is None else head) - settings.confirmations)
        log.warning(
            "%s has no cursor: reading from the head, block %d; earlier requests are not served unless %s says so",
            name,
            first,
            "decryption_from_block_number" if is_decryption else "kms_operation_from_block_number",
        )
        return first - 1

    async def _has(self, cursor: BlockRef) -> bool:
        """Whether another node's cursor stands on this node's chain. Raises DependencyDown, Unproven."""
        if not cursor.hash:
            return False
        hashes = await block_hashes(self.node, [cursor.number], deadline=self._around.settings.rpc_timeout)
        return hashes[cursor.number] == cursor.hash

    async def _look_below(self, position: _Position, head: int) -> None:
        """The head stays below the cursor: does the node lag, or was its chain cut back to another history?"""
        ends = await self._around.store.range_ends(self.node.name, self.stream)
        known = next((end for end in ends if end.number <= head and end.hash), None)
        if known is None:
            return
        hashes = await block_hashes(self.node, [known.number], deadline=self._around.settings.rpc_timeout)
        seen = hashes[known.number]
        if seen is not None and seen != known.hash:
            await self._go_back(position, known.number, seen)

    async def _go_back(self, position: _Position, number: int, seen: bytes) -> None:
        """Block `number`, which was read, is `seen` now: read again from the fork on."""
        self._position = None
        if position.stored is not None:
            sign = f"block {number} is 0x{seen.hex()} now"
            fork = await rewind(self._around, self.node, self.stream, position.stored, sign)
            if fork is not None:
                self._position = _Position(fork, fork.number)
                self._witnesses.rewound(self.node.name, fork.number)

    async def _recover(self, fault: Exception, failures: int) -> None:
        """Wait a little; ask for less next time if it was the range that failed and not the node."""
        self.trouble = str(fault)
        name = self.node.name
        words = str(fault) if isinstance(fault, DependencyDown) else f"node {name} {fault}"
        log.log(
            logging.WARNING if failures in (1, 10, 100) else logging.DEBUG,
            "%s on node %s waits (failure %d in a row): %s",
            self.stream.value,
            name,
            failures,
            words,
        )
        first = LAG_PAUSE if isinstance(fault, Unproven) else FIRST_PAUSE
        await trio.sleep(pause_after(failures, self._around.entropy, first))
        self._scanned_at = -math.inf
        if await self._was_the_range(fault, failures):
            self._span = self._span.shrunk()

    async def _was_the_range(self, fault: Exception, failures: int) -> bool:
        """Was the range too much, rather than its node or the database away?"""
        if not isinstance(fault, DependencyDown):
            return isinstance(fault, RangeRefused)
        if fault.name == "database":
            return fault.too_slow or failures >= PATIENCE
        try:
            await self._feed.look()
        except (DependencyDown, Unproven):
            return False
        return True

    def behind(self) -> float:
        """For how many seconds this reader has not been able to say that everything is stored; 0 when it is."""
        feed, position = self._feed, self._position
        if position is not None and feed.head is not None:
            caught_up = feed.head - self._around.settings.confirmations <= position.last_read
            if caught_up and feed.answered_at > self.good_at:
                self.good_at = feed.answered_at
        return trio.current_time() - self.good_at

    def _show(self, last_read: int, head: int, timestamp: int | None = None) -> None:
        settings, metrics = self._around.settings, self._around.metrics
        labels = (self.node.name, self.stream.value)
        lag = max(0, head - settings.confirmations - last_read)
        if lag == 0 or timestamp is not None:
            self.good_at, self.trouble = trio.current_time(), ""
        metrics.set("kms_connector_listener_lag_blocks", lag, *labels)
        if timestamp is not None:
            metrics.set("kms_connector_listener_cursor_block", last_read, *labels)
            metrics.set("kms_connector_listener_cursor_timestamp_seconds", timestamp, *labels)
            metrics.set("kms_connector_listener_scan_timestamp_seconds", self._around.time.now(), *labels)
            metrics.set("kms_connector_listener_range_blocks", self._span.size, *labels)
