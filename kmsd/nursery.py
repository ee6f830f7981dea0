"""The whole of kmsd on one page: what exists, who starts when, who stops when.

        listener ──wake-ups, fresh rows──► worker ──wake-ups──► sender          gc
            └───────────────┬──────────────────┴───────────────────┴─────────────┘
                         Postgres

Three nurseries, one inside the other, die from the inside out:

    infrastructure   monitoring, heartbeat, notifications, gauges      dies last
      working        worker, sender                                    drain until `shutdown_grace`
        intake       listener, gc                                      stop first

Recovery after SIGKILL and start after a clean stop are the same code (rule 6). The outside world comes in as ports
(`outside.py` opens the real one, `tests/sim` a simulated one); everything here runs in both.
"""

import gc as collector
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import trio
import trio_asyncio

from kmsd.chain.chain import Chain
from kmsd.clock import SystemTime
from kmsd.config import Settings
from kmsd.gc import Gc
from kmsd.handover import Handover, NoHandover
from kmsd.listener import Listener
from kmsd.observe.board import Board
from kmsd.observe.gauges import Gauges
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.monitoring import Monitoring
from kmsd.observe.probes import Probes
from kmsd.once import Once
from kmsd.outside import EXIT_CONFIGURATION, Outside, open_outside
from kmsd.ownership import Ownership
from kmsd.ports import DependencyDown, Identity, IdentityMismatch
from kmsd.sender import Sender
from kmsd.supervise import Fatal, find_fatal, supervise
from kmsd.wakeups import WakeUps
from kmsd.worker import Worker

log = logging.getLogger("kmsd.nursery")

QUEUES = ("request", "response")
"""Labels of the two queues of a kind."""
LEAVE_DEADLINE = 5.0
"""Seconds within which the database must take the leases back at the end."""
FAREWELL = 5.0
"""Seconds that closing connections may take after that."""
EXIT_DATABASE_AWAY = 75
"""Stopped on request, but the leases could not be given back (sysexits EX_TEMPFAIL); the next start reclaims them."""


@attrs.frozen
class Options:
    """How to run: for ever, or `once` up to the head of the start, replaying from `from_block` if given."""

    once: bool = False
    from_block: int | None = None
    json: bool = False


def main(settings: Settings, options: Options) -> int:
    """Run the daemon against the real world until it is told to stop; the exit status."""
    spare_collections()
    return trio.run(_against_the_real_world, settings, options)


def spare_collections() -> None:
    """Let Python's cyclic collector run seldom, and over nothing that start-up made: it costs a busy daemon much CPU.

    What has no cycles, payloads above all, is freed at once without it.
    """
    collector.collect()
    collector.freeze()
    collector.set_threshold(10_000, 10, 10)


async def _against_the_real_world(settings: Settings, options: Options) -> int:
    metrics, health = Metrics(), Health(SystemTime())
    stop = trio.Event()
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        # Its default handler ends the loop, and so every sibling, on any asyncio error that nobody retrieved.
        loop.set_exception_handler(_log_asyncio_error)
        await nursery.start(_watch_signals, stop)
        try:
            async with open_outside(settings, metrics, health) as outside:
                status = await Daemon(settings, options, outside, metrics, health).run(stop, _end_soon)
        except* Fatal as group:
            status = _end(group)
        nursery.cancel_scope.cancel()
    return status


class Surface(Protocol):
    """What of the daemon faces operators and their machines; silent in the simulated world, which has no sockets."""

    async def run(self, task_status: trio.TaskStatus[None] = ...) -> None: ...

    def ready(self) -> None: ...

    def stopping(self) -> None: ...

    def stopped(self) -> None: ...


class Daemon:
    """All siblings of one process over one set of ports. `monitoring` None: the real endpoint."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        outside: Outside,
        metrics: Metrics,
        health: Health,
        monitoring: Surface | None = None,
    ) -> None:
        store, time, entropy, traces = outside.store, outside.time, outside.entropy, outside.traces
        gateway = Chain(outside.gateway, health, name="gateway")
        hosts = {chain_id: Chain(nodes, health) for chain_id, nodes in outside.hosts.items()}
        self.settings, self.store, self.time, self.metrics = settings, store, time, metrics
        self._options, self._outside, self._health = options, outside, health
        self._wakeups = wakeups = WakeUps()
        self._ownership = ownership = Ownership(store, settings.instance_name, settings.roles)
        self.worker = self.sender = self.listener = self._gc = None
        handover: Handover = NoHandover()
        if "worker" in settings.roles:
            core, blobs = outside.core, outside.blobs
            self.worker = Worker(
                settings, store, ownership, wakeups, core, blobs, gateway, hosts, metrics, health, time, entropy, traces
            )
            handover = self.worker.handover
        if outside.wallet is not None:
            wallet = outside.wallet
            self.sender = Sender(
                settings, store, ownership, wakeups, gateway, wallet, metrics, health, time, entropy, traces
            )
        if "listener" in settings.roles:
            nodes = outside.gateway
            self.listener = Listener(
                settings, nodes, store, ownership, wakeups, handover, metrics, health, time, entropy, traces
            )
        if "gc" in settings.roles:
            self._gc = Gc(settings, store, wakeups, metrics, health.heartbeats)
        board = Board(outside.wallet)
        self._gauges = Gauges(settings, store, metrics, health, self.worker, self.sender, board)
        self._probes = Probes(settings, outside.gateway, outside.hosts, outside.core, metrics, health)
        self._monitoring = monitoring or Monitoring(settings, metrics, health, board=board, required=not options.once)
        metrics.on_read(lambda: metrics.set("kms_connector_owner_epoch", float(ownership.current or 0)))

    async def run(self, stop: trio.Event, left: Callable[[int], None] = lambda status: None) -> int:
        """Serve until `stop` is set (or, once, until nothing can proceed); the exit status.

        `left` is called with it once all that must outlive the process is written, and only connections are open.
        """
        try:
            async with trio.open_nursery() as infrastructure:
                status = await self._serve(infrastructure, stop, left)
                infrastructure.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            status = _end(group)
        finally:
            self._monitoring.stopped()
        return status

    async def _serve(self, infrastructure: trio.Nursery, stop: trio.Event, left: Callable[[int], None]) -> int:
        await infrastructure.start(self._monitoring.run)
        infrastructure.start_soon(self._supervised, "probes", self._probes.run)
        if not self._options.once:
            self._monitoring.ready()  # also with dependencies down (PR2): what waits for them waits by itself
        if not await self._prepare_database(stop):
            return 0
        infrastructure.start_soon(self._ownership.run)
        infrastructure.start_soon(self._supervised, "notifications", self._hear_notifications)
        infrastructure.start_soon(self._supervised, "gauges", self._gauges.run)
        status = 0
        try:
            async with trio.open_nursery() as working:
                for name, sibling in (("worker", self.worker), ("sender", self.sender)):
                    if sibling is not None:
                        working.start_soon(self._supervised, name, sibling.run)
                async with trio.open_nursery() as intake:
                    if self._gc is not None:
                        intake.start_soon(self._supervised, "gc", self._gc.run)
                    if self._options.once:
                        status = await Once(self, self._options.from_block, self._options.json).run(stop)
                    else:
                        if self.listener is not None:
                            intake.start_soon(self._supervised, "listener", self.listener.run)
                        await stop.wait()
                    self._monitoring.stopping()
                    intake.cancel_scope.cancel()
                await self._drain()
                working.cancel_scope.cancel()
        finally:
            gave_back = False
            with trio.move_on_after(LEAVE_DEADLINE, shield=True) as leaving:
                gave_back = await self._leave()
            if leaving.cancelled_caught:
                log.error("leases stay with this owner until the next start: the database does not answer")
        status = status if gave_back else status or EXIT_DATABASE_AWAY
        left(status)
        return status

    async def _supervised(self, name: str, run: Any) -> None:
        starts = 0

        async def counted() -> None:
            nonlocal starts
            starts += 1
            if starts > 1:
                self.metrics.inc("kms_connector_sibling_restarts", name)
            try:
                await run()
            finally:
                self._health.heartbeats.forget(name)

        await supervise(name, counted, self._outside.entropy)

    async def _prepare_database(self, stop: trio.Event) -> bool:
        """Migrate and check the identity, waiting for a database that is down (PR2); False when told to stop first."""
        identity = Identity(
            self.settings.gateway_chain_id,
            self.settings.decryption_contract.address,
            self.settings.kms_generation_contract.address,
        )
        while not stop.is_set():
            try:
                await self._outside.migrate()
                await self._outside.store.adopt(identity)
                return True
            except DependencyDown as down:
                self._health.fault(down.name, down.detail)
                with trio.move_on_after(1.0):
                    await stop.wait()
            except IdentityMismatch as mismatch:
                raise Fatal(str(mismatch), EXIT_CONFIGURATION) from mismatch
        return False

    async def _hear_notifications(self) -> None:
        """LISTEN/NOTIFY feeds the same channels for rows that another process wrote."""
        async with self._outside.store.wakes() as wakes:
            async for wake in wakes:
                self.metrics.inc("kms_connector_notifications", wake.kind.value, QUEUES[wake.is_response])
                self._wakeups.ring(wake.kind, is_response=wake.is_response)

    async def _drain(self) -> None:
        """Let work in hand finish within `shutdown_grace`; what is left is given back afterwards (PR1)."""
        draining = [sibling for sibling in (self.worker, self.sender) if sibling is not None]
        for sibling in draining:
            sibling.stop_intake()
        with trio.move_on_after(self.settings.shutdown_grace):
            while any(sum(sibling.in_flight.values()) for sibling in draining):  # noqa: ASYNC110 - a sum over many tasks
                await trio.sleep(0.05)

    async def _leave(self) -> bool:
        """Give back every lease; False when the database could not be told in time."""
        try:
            rows = await self._ownership.leave()
        except DependencyDown as down:
            log.error("leases stay with this owner until the next start: %s", down)
            return False
        log.info("left the database", extra={"rows_given_back": rows})
        return True


def _end(group: BaseExceptionGroup[BaseException]) -> int:
    """Say in one line why the daemon ends; its exit status. Raises `group` again if nothing Fatal is in it."""
    fatal = find_fatal(group)
    if fatal is None:
        raise group
    log.critical("kmsd ends: %s", fatal)
    return fatal.exit_status


async def _watch_signals(stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    """The first SIGTERM or SIGINT asks for a clean stop, the second ends the process at once (PR1)."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        async for number in received:
            if stop.is_set():
                log.error("second signal: exiting at once")
                os._exit(128 + number)
            log.info("signal %s: stopping", signal.Signals(number).name)
            stop.set()


def _end_soon(status: int) -> None:
    """End the process within FAREWELL seconds, however long closing what is still open would take."""

    def end() -> None:
        log.error("closing connections took more than %g s; exiting without", FAREWELL)
        os._exit(status)

    timer = threading.Timer(FAREWELL, end)
    timer.daemon = True
    timer.start()


def _log_asyncio_error(loop: Any, context: dict[str, Any]) -> None:
    log.warning("asyncio: %s", context.get("message"), exc_info=context.get("exception"))
