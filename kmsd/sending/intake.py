"""Claiming responses: hints wake it, polling is the floor, and it drains until the queue or the room is empty."""

from collections.abc import Callable

import trio

from kmsd.chain.nonces import LaneState
from kmsd.config import Settings
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.ownership import Ownership
from kmsd.ports import DependencyDown, LaneLost, Store
from kmsd.sending.works import Work, Works
from kmsd.wakeups import WakeUps


class Intake:
    """Claims for the lane while it is held; `stop` ends claiming for good."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        ownership: Ownership,
        wakeups: WakeUps,
        works: Works,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ownership = ownership
        self._wakeups = wakeups
        self._works = works
        self._metrics = metrics
        self._stopped = False
        self._asked_for = 0

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopped = True

    async def claim(self, kind: Kind, epoch: int, room: Callable[[Kind], int], state: LaneState) -> None:
        """Claim responses of `kind` while `room` allows. Raises LaneLost when `epoch` is no longer ours."""
        wake_up = self._wakeups.responses[kind]
        while not self._stopped:
            if self._ownership.current != epoch:
                raise LaneLost("the owner epoch changed")
            limit = min(self._settings.responses_batch_size, room(kind) - self._asked_for)
            if limit <= 0:
                with trio.move_on_after(0.5):
                    await self._works.changed()
                continue
            if await self._claim_some(kind, epoch, limit, state) < limit:
                await wake_up.wait(min(self._settings.database_polling_timeout, self._works.next_due(kind)))

    async def _claim_some(self, kind: Kind, epoch: int, limit: int, state: LaneState) -> int:
        response = OPERATIONS[kind].response
        assert response is not None
        self._asked_for += limit
        try:
            claimed = await self._store.claim_responses(kind, epoch, limit)
        except DependencyDown:
            self._metrics.inc("kms_connector_tx_sender_response_received_errors", response.label)
            raise
        finally:
            self._asked_for -= limit
        if claimed:
            self._metrics.inc("kms_connector_tx_sender_response_received_counter", response.label, by=len(claimed))
        carried = dict.fromkeys(state.carried()) if claimed else {}
        fresh = []
        for row in claimed:
            work = Work(row)
            if work.key in carried:  # its transaction is in the journal: nothing new may be signed for it
                self._works.hold(work)
            else:
                fresh.append(work)
        self._works.enqueue(fresh)
        return len(claimed)
