"""Responses in hand: leased to this daemon's sender, not yet settled. They outlive a lost lane."""

import heapq
import math
from collections import Counter, deque
from collections.abc import Container, Iterable, Sequence

import attrs
import trio

from kmsd.operations.kinds import Kind
from kmsd.ports import ClaimedResponse, ResponseFate, ResponseOutcome
from kmsd.wire import ids

Key = tuple[Kind, int]
"""Kind and id: what names a response."""


@attrs.define(eq=False)
class Work:
    """One response on its way: its row, its call once encoded, and what earlier transactions of it taught.

    `gas_floor`: least gas limit of the next transaction; `out_of_gas`: times in a row that it ran out; `suspect`: ask
    the node what the call would do before signing; `since`: the event loop's time when it came into hand; `signed_by`:
    the address that its signature recovers to here, once that was found out (`kmsd.sending.signers`).
    """

    response: ClaimedResponse
    to: bytes = b""
    calldata: bytes = b""
    gas_floor: int = 0
    out_of_gas: int = 0
    suspect: bool = False
    since: float = 0.0
    signed_by: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of its fields: about what its calldata and its transaction take each."""
        return sum(len(value) for value in self.response.fields.values() if isinstance(value, bytes))

    @property
    def facts(self) -> dict[str, str | int]:
        """Which response a span is about."""
        return {"kind": self.response.kind.value, "id": ids.short(self.response.id)}

    @property
    def key(self) -> Key:
        """Kind and id of the response."""
        return self.response.kind, self.response.id


class Works:
    """Every response in hand by key; those that wait for a nonce stand in a queue, oldest claim first."""

    def __init__(self) -> None:
        self._all: dict[Key, Work] = {}
        self._queue: deque[Work] = deque()
        self._due: dict[Kind, list[float]] = {}
        self.bytes = 0
        """Bytes of all fields in hand."""
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, key: Key) -> bool:
        return key in self._all

    @property
    def queued(self) -> int:
        """How many wait for a nonce."""
        return len(self._queue)

    def queued_by_kind(self) -> Counter[Kind]:
        """How many of each kind wait for a nonce."""
        return Counter(work.response.kind for work in self._queue)

    def by_kind(self) -> Counter[Kind]:
        """How many are in hand of each kind."""
        return Counter(kind for kind, _ in self._all)

    def get(self, key: Key | None) -> Work | None:
        """The work of this key if it is in hand."""
        return self._all.get(key) if key is not None else None

    def hold(self, work: Work) -> None:
        """Take into hand what already has a nonce."""
        self._add(work)

    def enqueue(self, works: Iterable[Work]) -> None:
        """Take into hand, at the end of the queue; nothing stands in it twice."""
        for work in works:
            work.since = trio.current_time()
            self._add(work)
            self._queue.append(work)
        self._ring()

    def put_back(self, works: Sequence[Work]) -> None:
        """Back to the front of the queue, in their order."""
        for work in reversed(works):
            if self._all.get(work.key) is work:
                self._queue.appendleft(work)
        self._ring()

    def take(self, limit: int) -> list[Work]:
        """Up to `limit` from the front of the queue."""
        return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def settled(self, outcomes: Iterable[ResponseOutcome]) -> None:
        """These tries are over, and the rows are no longer ours; remembers when they are due again."""
        now = trio.current_time()
        for outcome in outcomes:
            work = self._all.pop((outcome.lease.kind, outcome.lease.id), None)
            self.bytes -= work.size if work is not None else 0
            if outcome.fate is ResponseFate.PENDING:
                heapq.heappush(self._due.setdefault(outcome.lease.kind, []), now + outcome.delay)
        self._ring()

    def next_due(self, kind: Kind) -> float:
        """Seconds until a response of `kind` that we gave back is due again; infinite when there is none."""
        due = self._due.get(kind, [])
        now = trio.current_time()
        while due and due[0] <= now:
            heapq.heappop(due)
        return due[0] - now if due else math.inf

    def requeue(self, in_flight: Iterable[Key]) -> None:
        """After a lost lane: everything in hand that no nonce carries stands in the queue again."""
        carried = dict.fromkeys(in_flight)
        self._queue = deque(work for key, work in self._all.items() if key not in carried)
        self._ring()

    def keep(self, keys: Container[Key]) -> None:
        """Only these are still ours: the others are let go, also from the queue."""
        for work in [work for key, work in self._all.items() if key not in keys]:
            del self._all[work.key]
            self.bytes -= work.size
        self._queue = deque(work for work in self._queue if self._all.get(work.key) is work)
        self._ring()

    def clear(self) -> None:
        """Nothing is ours any more: our epoch was declared dead."""
        self._all.clear()
        self._queue.clear()
        self.bytes = 0
        self._ring()

    async def changed(self) -> None:
        """Wait until something came or went."""
        await self._changed.wait()

    def _add(self, work: Work) -> None:
        known = self._all.get(work.key)
        self.bytes += work.size - (known.size if known is not None else 0)
        self._all[work.key] = work

    def _ring(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
