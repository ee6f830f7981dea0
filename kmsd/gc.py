"""The sibling that brings dead owners' rows back and lets finished rows go (QU1, QU9).

    every second        rows of owners whose heartbeat stopped → back in the queue, their kinds are woken
    every gc interval   decryptions past their retention → gone, their ids remembered

It never fails a row: only the owner of a row judges its budget (decisions.md 5).
"""

import logging
import math

import trio

from kmsd.config import Settings
from kmsd.observe.heartbeats import Heartbeats
from kmsd.observe.metrics import Metrics
from kmsd.operations.table import OPERATIONS
from kmsd.ports import Store
from kmsd.wakeups import WakeUps

log = logging.getLogger("kmsd.gc")

RECLAIM_INTERVAL = 1.0
"""Seconds between looks for dead owners: with the 12 s of a dead heartbeat, rows are back within 15 s."""
UNOWNED_INTERVAL = 15.0
"""Seconds between looks for rows that nobody owns, in every table; only the Rust connector leaves such."""
EXPIRY_BATCH = 2_000
"""Rows deleted in one transaction."""


class Gc:
    """Recovery and retention. Several daemons may run it side by side: each step is one guarded statement."""

    def __init__(
        self, settings: Settings, store: Store, wakeups: WakeUps, metrics: Metrics, heartbeats: Heartbeats
    ) -> None:
        self._settings = settings
        self._store = store
        self._wakeups = wakeups
        self._metrics = metrics
        self._heartbeats = heartbeats

    async def run(self) -> None:
        """Reclaim and expire until cancelled. Raises DependencyDown when the database is away: the supervisor waits."""
        next_expiry = next_unowned = trio.current_time()
        while True:
            self._heartbeats.beat("gc")
            look = trio.current_time() >= next_unowned
            await self.reclaim(self._settings.gc_decryption_under_process_limit if look else math.inf)
            if look:
                next_unowned = trio.current_time() + UNOWNED_INTERVAL
            if trio.current_time() >= next_expiry:
                await self.expire()
                next_expiry = trio.current_time() + self._settings.gc_run_interval
            await trio.sleep(RECLAIM_INTERVAL)

    async def reclaim(self, unowned_after: float) -> int:
        """Rows of dead owners, and unowned ones after so many seconds, back to pending; how many."""
        total = 0
        for count in await self._store.reclaim(unowned_after=unowned_after):
            log.warning(
                "reclaimed rows of a dead owner", extra={"owner": count.owner, "table": count.table, "rows": count.rows}
            )
            total += count.rows
        if total:
            for kind in OPERATIONS:
                self._wakeups.ring(kind, is_response=False)
                self._wakeups.ring(kind, is_response=True)
            self._metrics.inc("kms_connector_gc_reclaimed_rows", by=total)
        return total

    async def expire(self) -> int:
        """Finished decryptions past their retention go, in batches; how many went."""
        total = 0
        while True:
            self._heartbeats.beat("gc")
            gone = await self._store.expire(
                finished_after=self._settings.gc_decryption_expiry,
                failed_after=self._settings.gc_failed_expiry,
                limit=EXPIRY_BATCH,
            )
            total += gone
            if gone < EXPIRY_BATCH:
                break
        if total:
            log.info("finished decryptions left the tables", extra={"rows": total})
            self._metrics.inc("kms_connector_gc_expired_rows", by=total)
        return total
