"""One tenure of a lane: from winning the wallet's lock to losing it. Five tasks around one state.

claim → prepare (sign, journal) → broadcast → confirm and repair; and watch over funds. Rows in hand outlive a tenure
(`Works`), nonces do not: they are read from the journal again.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import attrs
import trio

from kmsd.chain.gas import GasTable
from kmsd.chain.nonces import LaneState, Window
from kmsd.chain.transactions import decode
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.traces import OFF, Traces
from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, WITH_RESPONSE
from kmsd.ports import DependencyDown, Entropy, Lane, Store, Time, Wallet, WalletUnavailable
from kmsd.sending.broadcaster import Broadcaster, until_up
from kmsd.sending.confirmer import Confirmer
from kmsd.sending.funds import Funds
from kmsd.sending.gate import Gate
from kmsd.sending.intake import Intake
from kmsd.sending.journal import Journal
from kmsd.sending.preparer import Market, Preparer
from kmsd.sending.questions import NodeGroup, Questions
from kmsd.sending.repairer import Repairer
from kmsd.sending.verdicts import Verdicts
from kmsd.sending.works import Key, Work, Works

log = logging.getLogger("kmsd.sender")

T = TypeVar("T")

CONFIRM_INTERVAL = 0.25
"""Seconds between two looks at the chain while transactions are in flight."""
CONFIRM_AGAIN = 0.1
"""The same after a look that found something mined: blocks come fast, or there is more to find."""
WATCH_INTERVAL = 5.0
"""The same while mined ones are only watched for reorganisations."""
HAND_BYTES = 32_000_000
"""Bytes of responses in hand past which no more are claimed; each is in memory about three times."""
SWEEP_INTERVAL = 15.0
"""Seconds between looks for responses that are leased to us but in nobody's hand."""
IDLE_INTERVAL = 0.5
"""Seconds after which a task looks again for work that nobody announced."""


@attrs.frozen
class Surroundings:
    """What every tenure of this sender shares."""

    settings: Settings
    store: Store
    gateway: NodeGroup
    wallet: Wallet
    metrics: Metrics
    health: Health
    time: Time
    entropy: Entropy
    traces: Traces = OFF


class Tenure:
    """Holds the lane of `address` under `epoch`."""

    def __init__(
        self, around: Surroundings, lane: Lane, works: Works, intake: Intake, address: bytes, epoch: int
    ) -> None:
        settings, health, metrics = around.settings, around.health, around.metrics
        self._store = around.store
        self._works = works
        self._intake = intake
        self._epoch = epoch
        self._metrics = metrics
        self._time = around.time
        self._health = health
        self._wallet_name: str | None = None
        self.state = LaneState()
        self.window = Window(settings.tx_window)
        self.gate = Gate(health)
        self.journal = Journal(lane, around.wallet, settings.gateway_chain_id, around.time)
        questions = Questions(around.gateway, address, settings.rpc_timeout)
        gas = GasTable(settings.gas_multiplier_percent)
        market = Market(questions, gas, self.state, health)
        verdicts = Verdicts(settings, around.store, address, questions, self.gate, metrics, around.entropy)
        self._preparer = Preparer(
            settings,
            around.store,
            works,
            self.state,
            self.window,
            self.journal,
            questions,
            market,
            gas,
            self.gate,
            verdicts,
            health,
            around.traces,
            remote=around.wallet.is_remote,
        )
        self._broadcaster = Broadcaster(settings, self.state, self.window, questions, self.gate)
        self._confirmer = Confirmer(
            settings,
            around.store,
            works,
            self.state,
            self.window,
            self.journal,
            questions,
            market,
            gas,
            verdicts,
            metrics,
            health,
            around.time,
            around.traces,
            epoch=epoch,
        )
        self._repairer = Repairer(
            settings, address, self.state, self.journal, questions, market, self._broadcaster, metrics, health
        )
        self._funds = Funds(self.state, self.gate, questions, market, metrics, health)
        self._to_send = trio.Event()
        self._to_confirm = trio.Event()

    async def run(self) -> None:
        """Resolve what the journal shows, then send until the lane is lost. Raises LaneLost or DependencyDown."""
        await self._recover()
        await self._patiently("confirmer", self._confirm_once)
        async with trio.open_nursery() as nursery:
            for kind in WITH_RESPONSE:
                nursery.start_soon(self._intake.claim, kind, self._epoch, self._room, self.state)
            nursery.start_soon(self._prepare)
            nursery.start_soon(self._broadcast)
            nursery.start_soon(self._confirm)
            nursery.start_soon(self._watch_funds)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._show)

    async def _recover(self) -> None:
        """Know from the journal what may be in flight, and take over the leases of the responses it carries (TX1).

        What another daemon took over while it had the lane is no longer in our hands.
        """
        self._works.keep(await self._held())
        entries = await self.journal.entries()
        self.state.adopt(entries, await self.journal.highest_nonce())
        keys = self.state.carried()
        missing = [key for key in keys if key not in self._works]
        if missing:
            leased = dict(zip(missing, await self._store.lease_responses(missing, self._epoch), strict=True))
            payloads = {}
            for flight in self.state.flights.values():
                carrier = next((entry for entry in flight.attempts if entry.kind is not None), None)
                if flight.key is not None and carrier is not None:
                    payloads[flight.key] = decode(carrier.raw, with_sender=False).transaction
            for row in await self._store.load_responses([key for key in missing if leased[key]]):
                payload = payloads[row.kind, row.id]
                self._works.hold(Work(attrs.evolve(row, lease=self._epoch), payload.to, payload.data))
        self._works.requeue(keys)
        await self._take_lost(await self._held())
        if entries:
            log.info(
                "the journal shows %d nonces in flight and %d watched; the next is %d",
                len(self.state.flights),
                len(self.state.watched),
                self.state.next_nonce,
            )

    async def _held(self) -> dict[Key, None]:
        """What the database leased to us."""
        held: dict[Key, None] = {}
        for kind in WITH_RESPONSE:
            held |= {(kind, row_id): None for row_id in await self._store.leased_responses(kind, self._epoch)}
        return held

    async def _take_lost(self, suspects: Mapping[Key, None]) -> Mapping[Key, None]:
        """Take into hand what is leased to us and in nobody's hand, among `suspects`; what else looks like that."""
        carried = dict.fromkeys(self.state.carried())
        strays = {key: None for key in await self._held() if key not in self._works and key not in carried}
        lost = [key for key in strays if key in suspects]
        rows = await self._store.load_responses(lost) if lost else ()
        self._works.enqueue([Work(attrs.evolve(row, lease=self._epoch)) for row in rows])
        return strays

    async def _sweep(self) -> None:
        """Find leases whose claim's reply was lost, or came into force after we had given it up.

        A row must be seen so twice, since a claim may be on its way into our hands.
        """
        suspects: Mapping[Key, None] = {}
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            suspects = await self._take_lost(suspects)

    def _room(self, kind: Kind) -> int:
        """How many more responses of `kind` may be taken: a window unmined, one to be settled, one to be prepared."""
        if not self.gate.is_open:
            on_trial = not self.gate.lacks_funds and self.gate.trial_in == 0.0 and not self._works.queued
            return 1 if on_trial else 0
        room = 3 * self.window.size - len(self._works) if self._works.bytes < HAND_BYTES else 0
        return max(1, room) if kind in CEREMONIES else room

    async def _prepare(self) -> None:
        while True:
            if self._preparer.room() > 0 and self._works.queued:
                before = self._works.queued
                entries = await self._patiently("signing", self._preparer.prepare_some)
                if entries:
                    if self._wallet_name is not None:
                        self._health.ok(self._wallet_name)
                    self._to_send.set()
                    self._to_confirm.set()
                    continue
                if self._works.queued < before:
                    continue
                await trio.sleep(IDLE_INTERVAL)
            else:
                with trio.move_on_after(IDLE_INTERVAL):
                    await self._works.changed()

    async def _broadcast(self) -> None:
        while True:
            if self.gate.lacks_funds or not self.state.to_send(1):
                self._to_send = trio.Event()
                with trio.move_on_after(IDLE_INTERVAL):
                    await self._to_send.wait()
                continue
            pause = await self._patiently("broadcasting", self._broadcaster.broadcast_some)
            self._to_confirm.set()
            if pause:
                await trio.sleep(pause)

    async def _confirm(self) -> None:
        while True:
            self._to_confirm = trio.Event()
            before = len(self.state.flights)
            await self._patiently("confirming", self._confirm_once)
            if self._confirmer.more:
                continue
            if self.state.flights:
                await trio.sleep(CONFIRM_AGAIN if len(self.state.flights) < before else CONFIRM_INTERVAL)
            else:
                with trio.move_on_after(WATCH_INTERVAL if self.state.watched else 60.0):
                    await self._to_confirm.wait()

    async def _confirm_once(self) -> None:
        tip = await self._confirmer.look()
        await self._repairer.repair(tip)
        self._to_send.set()

    async def _watch_funds(self) -> None:
        while True:
            await self._patiently("balance", self._funds.look)
            await trio.sleep(self._funds.interval)

    async def _show(self) -> None:
        while True:
            self._health.heartbeats.beat("sender lane")
            head = self.state.head_of_line()
            age = self._time.now() - head.attempts[0].signed_at if head is not None else 0.0
            self._metrics.set("kms_connector_tx_sender_lane_held", 1.0)
            self._metrics.set("kms_connector_tx_sender_nonce", float(self.state.next_nonce))
            self._metrics.set("kms_connector_tx_sender_in_flight", float(len(self.state.flights)))
            self._metrics.set("kms_connector_tx_sender_window", float(self.window.size))
            self._metrics.set("kms_connector_tx_sender_oldest_unmined_seconds", max(0.0, age))
            queued, flying = self._works.queued_by_kind(), Counter(kind for kind, _ in self.state.carried())
            for kind in WITH_RESPONSE:
                self._metrics.set("kms_connector_in_flight", float(queued[kind]), "sign", kind.value)
                self._metrics.set("kms_connector_in_flight", float(flying[kind]), "confirm", kind.value)
            self._metrics.set("kms_connector_tx_sender_lane_paused", 0.0 if self.gate.is_open else 1.0)
            await trio.sleep(1.0)

    async def _patiently(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` as soon as the chain or the wallet allow; a lost database ends the tenure."""
        faults = 0
        while True:
            self._health.heartbeats.beat(f"sender {name}")
            try:
                done = await work()
                self._health.heartbeats.rest(f"sender {name}")
                return done
            except DependencyDown as down:
                if down.name == "database":
                    raise
                if isinstance(down, WalletUnavailable):
                    self._health.fault(down.name, down.detail)
                    self._wallet_name = down.name
                faults += 1
                await until_up(name, down, faults)
