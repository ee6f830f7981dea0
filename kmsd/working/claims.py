"""Claiming rows: hints wake it, polling is the floor, and it drains until the queue or the room is empty (QU3)."""

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.heartbeats import PATIENCE
from kmsd.observe.metrics import Metrics
from kmsd.operations.core_desk import CoreDesk
from kmsd.operations.kinds import Kind
from kmsd.operations.outcomes import lease_of
from kmsd.operations.table import CEREMONIES, DECRYPTIONS, OPERATIONS
from kmsd.operations.transitions import Transitions
from kmsd.ownership import Ownership
from kmsd.ports import Claimed, DependencyDown, Entropy, Lease, Store, TryAgain
from kmsd.wakeups import WakeUp, WakeUps
from kmsd.wire import ids
from kmsd.working.hands import CEREMONY_ROOM, Hands

log = logging.getLogger("kmsd.worker")

GATHER = 0.05
"""Seconds that a nearly full worker waits for a claim that is worth a statement."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.5
"""Seconds between claims while the database is away."""
SWEEP_INTERVAL = 10.0
"""Seconds between looks for rows that are ours but in nobody's hand."""
SWEEPS_IN_DOUBT = 4
"""Looks after a statement that may have leased rows to us ended without an answer: its commit may still be on its way
to a server that stands still."""
DOUBT_INTERVAL = 2.0
"""Seconds between those looks; the first is at once."""


class Claims:
    """The loops that lease rows to this daemon and put them into its hands."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        ownership: Ownership,
        wakeups: WakeUps,
        hands: Hands,
        core: CoreDesk,
        transitions: Transitions,
        health: Health,
        metrics: Metrics,
        entropy: Entropy,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ownership = ownership
        self._wakeups = wakeups
        self._hands = hands
        self._core = core
        self._transitions = transitions
        self._heartbeats = health.heartbeats
        self._metrics = metrics
        self._entropy = entropy

    async def run(self) -> None:
        """Claim until `Hands.stop`, then only keep watch."""
        settings = self._settings
        async with trio.open_nursery() as nursery:
            for kind in DECRYPTIONS:
                nursery.start_soon(
                    self._claim_for_ever,
                    (kind,),
                    self._wakeups.requests[kind],
                    settings.db_fast_event_polling,
                    settings.events_batch_size,
                    lambda epoch, limit, kind=kind: self._store.claim(kind, epoch, limit),
                )
            any_ceremony = WakeUp()
            for kind in CEREMONIES:
                nursery.start_soon(_forward, self._wakeups.requests[kind], any_ceremony)
            nursery.start_soon(
                self._claim_for_ever,
                CEREMONIES,
                any_ceremony,
                settings.db_long_event_polling,
                CEREMONY_ROOM,
                lambda epoch, limit: self._store.claim_ceremonies(epoch, self._core.route, limit),
            )
            nursery.start_soon(self._sweep)

    async def _claim_for_ever(
        self,
        kinds: Sequence[Kind],
        wake_up: WakeUp,
        floor: float,
        batch: int,
        claim: Callable[[int, int], Awaitable[Sequence[Claimed]]],
    ) -> None:
        pause = FIRST_PAUSE
        room = self._hands.rooms[kinds[0]]
        loop = f"worker claims {kinds[0].value}"
        while self._hands.taking:
            self._heartbeats.rest(loop)  # the database may be away, the hands may be full
            epoch = await self._ownership.epoch()
            limit = min(batch, await self._free(kinds[0], batch))
            if not self._hands.taking:
                break
            self._heartbeats.beat(loop)
            room.reserved += limit
            try:
                with self._hands.leasing():
                    try:
                        rows = await claim(epoch, limit)
                    finally:
                        room.give_back(reserved=limit)
                    self._hands.take(rows)
            except DependencyDown as down:
                for kind in kinds:
                    self._metrics.inc("kms_connector_worker_event_received_errors", OPERATIONS[kind].label)
                log.warning("claims wait for the database: %s", down)
                await trio.sleep(pause * (0.5 + 0.5 * self._entropy.random()))
                pause = min(LONGEST_PAUSE, 2.0 * pause)
                continue
            pause = FIRST_PAUSE
            for row in rows:
                self._metrics.inc("kms_connector_worker_event_received_counter", OPERATIONS[row.kind].label)
            for kind in kinds:
                self._hands.backlog[kind] = len(rows) >= limit
            if len(rows) < limit:
                self._heartbeats.beat(loop, floor + PATIENCE)
                await self._hands.until_due(kinds, wake_up, floor)
        self._heartbeats.rest(loop)

    async def _free(self, kind: Kind, batch: int) -> int:
        """Free places, at least one. With few of them it waits a moment for more: a claim costs a statement."""
        room = self._hands.rooms[kind]
        while room.free < 1:
            self._hands.backlog[kind] = True
            await room.changed.wait()
        worth = min(batch, room.limit // 2)
        with trio.move_on_after(GATHER):
            while room.free < worth:
                await room.changed.wait()
        return max(1, room.free)

    async def _sweep(self) -> None:
        """Give back rows that are leased to us but in nobody's hand: the answer to their claim or hand-over was lost.

        Now and then, since a task may also have ended without writing its row's end; and at once when in doubt.
        """
        hurried = 0
        while True:
            if await self._hands.in_doubt.wait(DOUBT_INTERVAL if hurried else SWEEP_INTERVAL):
                hurried = SWEEPS_IN_DOUBT
            try:
                await self._give_back_strays(await self._ownership.epoch())
            except DependencyDown:
                await trio.sleep(DOUBT_INTERVAL / 2)
                self._hands.in_doubt.ring()
                continue
            hurried = max(0, hurried - 1)

    async def _give_back_strays(self, epoch: int) -> None:
        async def leased() -> list[tuple[Kind, int]]:
            return [(kind, one) for kind in OPERATIONS for one in await self._store.leased(kind, epoch)]

        for kind, row_id in await self._hands.leased_in_vain(leased):
            log.warning("found a lease without a task", extra={"kind": kind.value, "id": ids.short(row_id)})
            await self._transitions.conclude(
                TryAgain(Lease(kind, row_id, epoch), 0.0, "the reply to its claim was lost")
            )
            self._wakeups.ring(kind, is_response=False)


async def give_back(rows: Sequence[Claimed], transitions: Transitions) -> None:
    """Return rows that a cancelled run of the worker held."""
    for row in rows:
        await transitions.conclude(TryAgain(lease_of(row), 0.0, "the worker was restarted"))


async def _forward(source: WakeUp, target: WakeUp) -> None:
    while True:
        await source.wait()
        target.ring()
