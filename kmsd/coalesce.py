"""Coalescers: many tasks await one answer each, one task asks for all of them at once (rule 2 of the design).

Straight-line code awaits `coalescer.ask(item)`; the flushing task takes everything that has gathered, hands it to one
function over a batch, and gives each waiter its answer. Errors of the batch reach every waiter; an `Exception` returned
as an item's answer is raised to that waiter alone.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_EMPTY = object()


class _Waiting(Generic[Item]):
    """One item and the slot for its answer. The event is set once the slot is filled."""

    __slots__ = ("abandoned", "answer", "event", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.event = trio.Event()
        self.answer: object = _EMPTY
        self.abandoned = False


class Coalescer(Generic[Item, Answer]):
    """Gathers items of concurrent tasks into batches of at most `max_batch` and asks `flush` for their answers.

    `flush(items)` returns one answer per item in the same order. Up to `concurrency` batches are asked side by side.
    A batch waits `linger` seconds for company (0: only for what is already waiting, after one scheduler pass). At most
    `capacity` items wait; further tasks wait for room. `run()` must be running for `ask` to return.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_batch: int,
        linger: float = 0.0,
        concurrency: int = 1,
        capacity: int = 10_000,
    ) -> None:
        self._flush = flush
        self._max_batch = max_batch
        self._linger = linger
        self._slots = trio.Semaphore(concurrency)
        self._room = trio.Semaphore(capacity)
        self._waiting: deque[_Waiting[Item]] = deque()
        self._arrived = trio.Event()

    def __len__(self) -> int:
        """Items waiting for a batch: a gauge."""
        return len(self._waiting)

    async def ask(self, item: Item) -> Answer:
        """The answer for `item`; raises what the batch raised, or the item's own exception."""
        try:
            self._room.acquire_nowait()  # as a rule there is room, and no pass through the scheduler is due
        except trio.WouldBlock:
            await self._room.acquire()
        waiting = _Waiting(item)
        self._waiting.append(waiting)
        self._arrived.set()
        try:
            await waiting.event.wait()
        except trio.Cancelled:
            waiting.abandoned = True
            raise
        finally:
            self._room.release()
        if isinstance(waiting.answer, Exception):
            raise waiting.answer
        return waiting.answer  # type: ignore[return-value]  # the flusher fills it with an Answer

    async def run(self) -> None:
        """Flush for ever. Cancelling it leaves the waiting tasks waiting: cancel them too."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._arrived.wait()
                if self._linger and len(self._waiting) < self._max_batch:
                    await trio.sleep(self._linger)
                else:
                    await trio.lowlevel.checkpoint()
                await self._slots.acquire()
                batch = self._take()
                if batch:
                    nursery.start_soon(self._flush_one, batch)
                else:
                    self._slots.release()

    def _take(self) -> list[_Waiting[Item]]:
        batch: list[_Waiting[Item]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.abandoned:
                batch.append(waiting)
        if not self._waiting:
            self._arrived = trio.Event()
        return batch

    async def _flush_one(self, batch: list[_Waiting[Item]]) -> None:
        try:
            answers = await self._flush([waiting.item for waiting in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} got {len(answers)} answers")
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answer = answer
        except Exception as error:
            for waiting in batch:
                waiting.answer = error
        finally:
            self._slots.release()
        for waiting in batch:
            waiting.event.set()
