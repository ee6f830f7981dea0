"""Which buckets a coprocessor has: `GatewayConfig.getCoprocessor`, asked in batches, kept fresh (weakness W8).

A coprocessor moves its bucket or registers one late: what is known is read again every `refresh` seconds and after
every request that no bucket could serve, an empty answer sooner. While the Gateway does not answer, what was last known
stays in use.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from kmsd.coalesce import Coalescer
from kmsd.observe.metrics import Metrics
from kmsd.ports import DependencyDown, Time
from kmsd.wire.addresses import to_checksum

log = logging.getLogger("kmsd.blobs")

EMPTY_FOR = 10.0
"""Seconds for which an answer without a bucket is believed."""
DOUBT_INTERVAL = 5.0
"""Seconds that must have passed before a doubt makes the Gateway be asked again."""
MAX_SENDERS = 1024
"""Coprocessors remembered; past it the one that was learned longest ago is forgotten."""
BATCH = 100
"""Coprocessors asked about in one request."""

Ask = Callable[[Sequence[bytes]], Awaitable[Sequence[str]]]
"""Bucket URLs of coprocessors by transaction sender ("" for none); raises DependencyDown."""


@attrs.define
class _Known:
    url: str
    asked_at: float


class BucketRegistry:
    """Bucket URLs by coprocessor. `run()` must be running."""

    def __init__(self, ask: Ask, *, refresh: float, metrics: Metrics, time: Time) -> None:
        self._ask = ask
        self._refresh = refresh
        self._metrics = metrics
        self._time = time
        self._known: dict[bytes, _Known] = {}
        self._questions: Coalescer[bytes, str] = Coalescer(self._learn, max_batch=BATCH)

    async def urls(self, senders: Sequence[bytes]) -> tuple[list[str], DependencyDown | None]:
        """The buckets of `senders` in their order, without those that have none.

        With them why some are missing, when the Gateway did not answer about a coprocessor that is not known yet.
        """
        found: list[str] = []
        missing: DependencyDown | None = None
        for sender in senders:
            try:
                found.append(await self._url(sender))
            except DependencyDown as down:
                missing = down
        return [url for url in found if url], missing

    def doubt(self, senders: Sequence[bytes]) -> None:
        """No bucket of `senders` could serve: ask again soon whether they have moved."""
        now = trio.current_time()
        for sender in senders:
            known = self._known.get(sender)
            if known is not None and now - known.asked_at >= DOUBT_INTERVAL:
                known.asked_at = now - self._refresh

    async def run(self) -> None:
        """Answer questions, and read again what is known when it is old."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._questions.run)
            while True:
                await trio.sleep(min(self._refresh, DOUBT_INTERVAL))
                old = [sender for sender in self._known if self._is_old(sender)]
                for start in range(0, len(old), BATCH):
                    try:
                        await self._learn(old[start : start + BATCH])
                    except DependencyDown as down:
                        log.warning("the buckets of coprocessors could not be read again: %s", down)
                        break

    async def _url(self, sender: bytes) -> str:
        known = self._known.get(sender)
        if known is None or (not known.url and trio.current_time() - known.asked_at > EMPTY_FOR):
            return await self._questions.ask(sender)
        return known.url

    def _is_old(self, sender: bytes) -> bool:
        return trio.current_time() - self._known[sender].asked_at >= self._refresh

    async def _learn(self, senders: Sequence[bytes]) -> Sequence[str]:
        urls = await self._ask(senders)
        now = trio.current_time()
        for sender, url in zip(senders, urls, strict=True):
            before = self._known.pop(sender, None)
            if before is not None and before.url != url:
                log.info("coprocessor %s changed its bucket", to_checksum(sender))
            while len(self._known) >= MAX_SENDERS:
                del self._known[next(iter(self._known))]
            self._known[sender] = _Known(url.strip(), now)
        self._metrics.set("kms_connector_copro_registry_timestamp_seconds", self._time.now())
        return [url.strip() for url in urls]
