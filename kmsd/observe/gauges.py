"""The sibling that counts what waits: queue depths and ages for metrics, checks and `kmsd status`."""

import logging
from collections.abc import Mapping
from typing import Protocol

import trio

from kmsd.config import Settings
from kmsd.observe.board import Board
from kmsd.observe.health import Health
from kmsd.observe.heartbeats import PATIENCE
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.operations.table import DECRYPTIONS, OPERATIONS
from kmsd.ports import Backlog, DependencyDown, Store
from kmsd.wire.ids import short

log = logging.getLogger("kmsd.gauges")

DATABASE = "database"
"""The database's name as a dependency."""


class Busy(Protocol):
    """A sibling that works on rows: tasks in hand by what they are."""

    @property
    def in_flight(self) -> Mapping[Kind, int]: ...


class Gauges:
    """Asks the store every `gauge_update_interval` seconds, which is also the database's background check."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        health: Health,
        worker: Busy | None,
        sender: Busy | None,
        board: Board,
    ) -> None:
        self._interval = settings.gauge_update_interval
        self._store = store
        self._metrics = metrics
        self._health = health
        self._board = board
        self._states: dict[tuple[str, str], str] = {}
        siblings = {"worker": worker, "sender": sender}
        self._siblings = {name: sibling for name, sibling in siblings.items() if sibling is not None}
        metrics.on_read(self._copy_in_flight)

    async def run(self) -> None:
        """Count until cancelled. A database that is down is reported, and asked again after the interval."""
        while True:
            self._health.heartbeats.beat("gauges", self._interval + PATIENCE)
            try:
                backlog = await self._store.backlog()
                self._board.keys = await self._store.key_registry()
            except DependencyDown as down:
                self._health.fault(down.name, down.detail)
            else:
                self._health.ok(DATABASE)
                self.publish(backlog)
                self._tell_changes()
                self._board.keys_at = self._health.now()
            await trio.sleep(self._interval)

    def publish(self, backlog: Backlog) -> None:
        """Set every gauge of the queues; what `backlog` does not name is 0."""
        depth: dict[tuple[str, ...], float] = {}
        age: dict[tuple[str, ...], float] = {}
        open_rows: dict[tuple[object, bool], int] = {}
        for count in backlog.counts:
            labels = (count.kind.value, "response" if count.is_response else "request", count.status)
            depth[labels], age[labels] = float(count.rows), count.oldest_age
            if count.status != "failed":
                key = (count.kind, count.is_response)
                open_rows[key] = open_rows.get(key, 0) + count.rows
        self._metrics.replace("kms_connector_queue_depth", depth)
        self._metrics.replace("kms_connector_queue_oldest_age_seconds", age)
        self._metrics.set("kms_connector_quarantined", float(backlog.quarantined))
        self._metrics.set("kms_connector_ceremonies_unconfirmed", float(backlog.unconfirmed))
        for kind in DECRYPTIONS:
            operation = OPERATIONS[kind]
            self._metrics.set("kms_connector_pending_events", float(open_rows.get((kind, False), 0)), operation.label)
            if operation.response is not None:
                self._metrics.set(
                    "kms_connector_pending_responses", float(open_rows.get((kind, True), 0)), operation.response.label
                )

    def _tell_changes(self) -> None:
        """One line for each key whose state changed, whoever changed it."""
        for row in self._board.keys or ():
            key, state = (row["kind"], row["id"]), row["state"]
            before = self._states.get(key)
            if before is not None and before != state:
                facts = {"by": row.get("changed_by"), "reason": row.get("reason")}
                log.warning("%s is %s now, it was %s", short(int(row["id"], 16)), state, before, extra=facts)
            self._states[key] = state

    def _copy_in_flight(self) -> None:
        """Tasks in hand, at the moment when metrics are read."""
        for name, sibling in self._siblings.items():
            for what, tasks in sibling.in_flight.items():
                self._metrics.set("kms_connector_sibling_in_flight", float(tasks), name, what.value)
