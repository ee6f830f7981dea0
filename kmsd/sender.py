"""The sender: every response lands on the Gateway once (guarantees TX1 to TX7).

It waits for the wallet's lock, then serves the lane until the lock or the database is lost, and starts again. The
parts of a tenure stand in `kmsd/sending/`; the pure rules in `kmsd/chain/` (outcomes, nonces, fees, gas).
"""

import logging
from collections.abc import Mapping

import trio

from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind
from kmsd.operations.table import WITH_RESPONSE
from kmsd.ownership import Ownership
from kmsd.ports import (
    DependencyDown,
    Entropy,
    LaneLost,
    Lease,
    ResponseFate,
    ResponseOutcome,
    Store,
    Time,
    Wallet,
    WalletUnavailable,
)
from kmsd.sending.broadcaster import until_up
from kmsd.sending.intake import Intake
from kmsd.sending.questions import NodeGroup
from kmsd.sending.tenure import Surroundings, Tenure
from kmsd.sending.works import Works
from kmsd.wakeups import WakeUps
from kmsd.wire.addresses import to_checksum

log = logging.getLogger("kmsd.sender")

STAND_BY = 3.0
"""Seconds without the wallet's lock after which, and then every so often, what we hold is given back."""
GIVEN_BACK = "given back: another daemon has the wallet"


class Sender:
    """The sibling that submits responses as transactions of `wallet`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        ownership: Ownership,
        wakeups: WakeUps,
        gateway: NodeGroup,
        wallet: Wallet,
        metrics: Metrics,
        health: Health,
        time: Time,
        entropy: Entropy,
        traces: Traces = OFF,
    ) -> None:
        self._around = Surroundings(settings, store, gateway, wallet, metrics, health, time, entropy, traces)
        self._ownership = ownership
        self._works = Works()
        self._intake = Intake(settings, store, ownership, wakeups, self._works, metrics)
        self._epoch: int | None = None
        self._giving_back = trio.Lock()
        self._tenures = 0
        self.tenure: Tenure | None = None
        """The present tenure, None while another daemon has the wallet."""

    @property
    def in_flight(self) -> Mapping[Kind, int]:
        """Responses in hand by kind: to be signed, or in transactions that are not mined yet."""
        return self._works.by_kind()

    @property
    def progressing(self) -> int:
        """Transactions that are signed and not mined yet: progress, however long the chain takes."""
        return len(self.tenure.state.flights) if self.tenure is not None else 0

    def stop_intake(self) -> None:
        """Claim no more; what is in hand is sent and confirmed."""
        self._intake.stop()

    async def run(self) -> None:
        """Send for ever. Only unexpected exceptions come out."""
        faults = 0
        while True:
            lost: BaseException | None = None
            tenures = self._tenures
            try:
                await self._serve()
            except* (LaneLost, DependencyDown) as group:
                lost = _first(group)
            if isinstance(lost, WalletUnavailable):
                self._around.health.fault(lost.name, lost.detail)
            faults = 1 if self._tenures > tenures else faults + 1
            self._around.health.heartbeats.forget("sender")
            await until_up("sender", lost or LaneLost("the lane ended"), faults)

    async def _serve(self) -> None:
        """One tenure: wait for an epoch, the address and the lock, then send until something is lost."""
        epoch = await self._ownership.epoch()
        address = await self._around.wallet.learn_address()
        if epoch != self._epoch:
            self._works.clear()  # the leases of an epoch that was declared dead are void
            self._epoch = epoch
        chain_id = self._around.settings.gateway_chain_id
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stand_by, epoch)
            async with self._around.store.open_lane(chain_id, address, epoch) as lane:
                async with self._giving_back:  # what is being given back is not ours to send
                    self.tenure = Tenure(self._around, lane, self._works, self._intake, address, epoch)
                    self._tenures += 1
                log.info("sending as %s on chain %d", to_checksum(address), chain_id)
                try:
                    await self.tenure.run()
                finally:
                    self.tenure = None
                    self._around.metrics.set("kms_connector_tx_sender_lane_held", 0.0)

    async def _stand_by(self, epoch: int) -> None:
        """While another daemon has the wallet it sends: what is leased to us goes back to the queue.

        Again and again, since a claim of our last tenure may come into force after that had ended.
        """
        store = self._around.store
        await trio.sleep(STAND_BY)
        while True:
            async with self._giving_back:
                if self.tenure is not None:
                    return
                self._works.clear()
                try:
                    for kind in WITH_RESPONSE:
                        leases = [Lease(kind, one, epoch) for one in await store.leased_responses(kind, epoch)]
                        if leases:
                            await store.settle_responses(
                                [ResponseOutcome(lease, ResponseFate.PENDING, GIVEN_BACK) for lease in leases]
                            )
                            log.warning("gave back %d %s responses", len(leases), kind.value)
                except DependencyDown as down:
                    log.debug("giving back waits: %s", down)
            await trio.sleep(STAND_BY)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
