"""What the worker has in hand, and how much room it has for more (QU4); the worker's side of the hand-over."""

import heapq
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import trio

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, DECRYPTIONS, OPERATIONS
from kmsd.ports import Claimed
from kmsd.wakeups import WakeUp

CEREMONY_ROOM = 64
"""Ceremonies in hand at once; most of them only poll."""
DUE_GRAIN = 0.25
"""Seconds to which times of retries are rounded up when the next claim is planned."""
MAX_DUES = 4096
"""Times of retries remembered for each kind; a forgotten one is found by polling."""


class Room:
    """How many requests may be in hand at once, for one kind of decryption or for all ceremonies."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.reserved = 0
        self.changed = trio.Event()

    @property
    def free(self) -> int:
        """Places neither taken nor reserved."""
        return self.limit - self.taken - self.reserved

    def give_back(self, *, reserved: int = 0, taken: int = 0) -> None:
        """Free some places and tell those who wait for room."""
        self.reserved -= reserved
        self.taken -= taken
        self.changed.set()
        self.changed = trio.Event()


class Hands:
    """Rows in hand by kind and id, the room for more, and when rows that were given back are due again.

    It outlives a restart of the worker: what a cancelled task held is still here, to be given back.
    """

    def __init__(self, task_limit: int) -> None:
        ceremonies = Room(CEREMONY_ROOM)
        self.rooms: dict[Kind, Room] = {kind: Room(task_limit) for kind in DECRYPTIONS}
        self.rooms |= dict.fromkeys(CEREMONIES, ceremonies)
        self.backlog: dict[Kind, bool] = dict.fromkeys(OPERATIONS, True)
        self._rows: dict[tuple[Kind, int], Claimed] = {}
        self._dues: dict[Kind, list[float]] = {kind: [] for kind in OPERATIONS}
        self._waits: dict[Kind, trio.CancelScope] = {}
        self._start: Callable[[Claimed], None] | None = None
        self._taking = True
        self._leasing: dict[trio.Event, None] = {}
        self._touched: set[tuple[Kind, int]] | None = None
        self.in_doubt = WakeUp()
        """Rings when a statement that may have leased rows to us ended without an answer."""

    def open(self, start: Callable[[Claimed], None]) -> Sequence[Claimed]:
        """`start` serves each row from now on. What an earlier, cancelled run still held is returned."""
        left = list(self._rows.values())
        self._rows.clear()
        for room in self.rooms.values():
            room.taken = room.reserved = 0
        self._start = start
        return left

    def close(self) -> None:
        """Nothing is started any more, until the next `open`."""
        self._start = None

    def stop(self) -> None:
        """Take nothing more; what is in hand goes on."""
        self._taking = False

    @property
    def taking(self) -> bool:
        """Whether more may be taken."""
        return self._taking

    def take(self, rows: Iterable[Claimed]) -> None:
        """Leased rows, each into a free place."""
        for row in rows:
            self.rooms[row.kind].taken += 1
            self._rows[row.kind, row.id] = row
            if self._touched is not None:
                self._touched.add((row.kind, row.id))
            if self._start is not None:
                self._start(row)

    def let_go(self, row: Claimed) -> None:
        """The row's task has ended, and the database knows."""
        if self._rows.get((row.kind, row.id)) is row:
            del self._rows[row.kind, row.id]
        self.rooms[row.kind].give_back(taken=1)

    def by_kind(self) -> Mapping[Kind, int]:
        """How many rows are in hand."""
        counts = dict.fromkeys(OPERATIONS, 0)
        for kind, _ in self._rows:
            counts[kind] += 1
        return counts

    # -- leases whose rows never arrived here

    @contextmanager
    def leasing(self) -> Iterator[None]:
        """Around a statement that may lease rows to us, up to their arrival in our hands."""
        ended = trio.Event()
        self._leasing[ended] = None
        try:
            yield
        except BaseException:
            self.in_doubt.ring()
            raise
        finally:
            del self._leasing[ended]
            ended.set()

    async def leased_in_vain(
        self, leased: Callable[[], Awaitable[Sequence[tuple[Kind, int]]]]
    ) -> Sequence[tuple[Kind, int]]:
        """Those of the rows that `leased` says are ours which no statement, ended or open, will bring into our hands.

        A row that is or was in hand since before `leased` looked proves nothing: it may have ended, and even been
        claimed again, since. Every statement that was open when it looked is waited for; what has not arrived then was
        leased by one whose answer was lost. Nobody else can have it meanwhile: only pending rows are claimed.
        """
        assert self._touched is None, "one look at a time"
        self._touched = touched = set(self._rows)
        try:
            found = await leased()
            for ended in list(self._leasing):
                await ended.wait()
        finally:
            self._touched = None
        return [key for key in found if key not in touched]

    # -- hand-over (decisions.md 4)

    def reserve(self, kind: Kind, wanted: int) -> int:
        """Places for fresh rows; none while older ones may wait (QU3), and none for ceremonies, which go in order."""
        room = self.rooms[kind]
        if self._start is None or not self._taking or self.backlog[kind] or kind in CEREMONIES:
            return 0
        reserved = max(0, min(wanted, room.free))
        room.reserved += reserved
        return reserved

    def deliver(self, claimed: Sequence[Claimed]) -> None:
        """Committed rows, leased to us, each into a reserved place."""
        for row in claimed:
            self.rooms[row.kind].reserved -= 1
        self.take(claimed)

    def cancel(self, kind: Kind, n: int) -> None:
        """Reserved places that were not needed."""
        self.rooms[kind].give_back(reserved=n)

    # -- when rows that were given back are due

    def due_in(self, kind: Kind, delay: float) -> None:
        """A row of `kind` was given back for `delay` seconds."""
        due = math.ceil((trio.current_time() + delay) / DUE_GRAIN) * DUE_GRAIN
        if len(self._dues[kind]) < MAX_DUES:
            heapq.heappush(self._dues[kind], due)
        if (wait := self._waits.get(kind)) is not None:
            wait.deadline = min(wait.deadline, due)

    async def until_due(self, kinds: Sequence[Kind], wake_up: WakeUp, floor: float) -> None:
        """Wait for a ring, for at most `floor` seconds, and no longer than until a row that was given back is due."""
        with trio.CancelScope(deadline=trio.current_time() + min(floor, self.next_due(kinds))) as scope:
            self._waits |= dict.fromkeys(kinds, scope)
            await wake_up.wait()

    def next_due(self, kinds: Sequence[Kind]) -> float:
        """Seconds until the first of those rows is due; infinity when there is none. Past ones are forgotten."""
        now = trio.current_time()
        first = math.inf
        for kind in kinds:
            dues = self._dues[kind]
            passed = False
            while dues and dues[0] <= now:
                heapq.heappop(dues)
                passed = True
            first = 0.0 if passed else min(first, dues[0] - now if dues else math.inf)
        return first
