"""Changes of state of requests, collected from all flows into few transactions (rule 2 of the design).

A change is written sooner or later: while the database is away it is tried again, for ever, so that a verified result
is never lost to an outage. One item that the store cannot take fails alone.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from kmsd.coalesce import Coalescer
from kmsd.failpoints import failpoint
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.outcomes import Outcome
from kmsd.ports import (
    Answered,
    DependencyDown,
    Entropy,
    Failed,
    Finished,
    RejectedResult,
    Sent,
    Store,
    TryAgain,
)

log = logging.getLogger("kmsd.worker")

BATCH = 256
"""Changes of one statement."""
LINGER = 0.004
"""Seconds that a batch waits for company; besides, what comes while one is being written goes together in the next."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.5
"""Seconds between tries while the database is away."""


class Transitions:
    """Writes changes of state. `run()` must be running. Each verb says whether the row was still ours to change."""

    def __init__(self, store: Store, metrics: Metrics, health: Health, entropy: Entropy) -> None:
        self._store = store
        self._metrics = metrics
        self._health = health
        self._entropy = entropy
        self._sent: Coalescer[Sent, bool] = self._queue("sent", store.sent)
        self._concluded: dict[type[Outcome], Coalescer[Any, bool]] = {
            Answered: self._queue("answered", store.answered),
            Finished: self._queue("finished", store.finished),
            TryAgain: self._queue("try_again", store.try_again),
            Failed: self._queue("failed", store.failed),
        }

    async def run(self) -> None:
        """Write for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sent.run)
            for queue in self._concluded.values():
                nursery.start_soon(queue.run)

    async def sent(self, item: Sent) -> bool:
        """Record that the Core has the request."""
        return await self._sent.ask(item)

    async def conclude(self, outcome: Outcome) -> bool:
        """Record how a try ended."""
        return await self._concluded[type(outcome)].ask(outcome)

    async def reject(self, item: RejectedResult) -> None:
        """Keep a rejected result for forensics; a database that is away costs only that."""
        try:
            await self._store.reject([item])
        except DependencyDown as down:
            log.warning("a rejected result could not be kept: %s", down)

    def _queue(self, verb: str, write: Callable[[Sequence[Any]], Awaitable[Sequence[bool]]]) -> Coalescer[Any, bool]:
        async def flush(items: Sequence[Any]) -> Sequence[bool | Exception]:
            self._metrics.observe("kms_connector_coalescer_batch", float(len(items)), verb)
            return await self._until_written(verb, write, items)

        queue = Coalescer(flush, max_batch=BATCH, linger=LINGER)
        self._metrics.on_read(lambda: self._metrics.set("kms_connector_coalescer_depth", float(len(queue)), verb))
        return queue

    async def _until_written(
        self, verb: str, write: Callable[[Sequence[Any]], Awaitable[Sequence[bool]]], items: Sequence[Any]
    ) -> Sequence[bool | Exception]:
        pause = FIRST_PAUSE
        while True:
            failpoint(f"worker.before_{verb}")
            try:
                applied = await write(items)
            except DependencyDown as down:
                log.warning("changes of state wait for the database", extra={"verb": verb, "detail": down.detail})
                self._health.fault(down.name, down.detail)
                await trio.sleep(pause * (0.5 + 0.5 * self._entropy.random()))
                pause = min(LONGEST_PAUSE, 2.0 * pause)
            except Exception as error:
                if len(items) == 1:
                    return [error]
                results: list[bool | Exception] = []
                for item in items:
                    results += await self._until_written(verb, write, [item])
                return results
            else:
                failpoint(f"worker.after_{verb}")
                return applied
