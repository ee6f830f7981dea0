"""One world: the daemons of a plan, what is around them, the faults as they come, and how it ends.

Safety is looked at whenever something happens (`invariants.py`); when all faults are over, everything that was asked
must be answered, or refused with a reason, within PATIENCE virtual seconds, and the daemons must stop cleanly.
"""

import contextvars
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from kmsd.nursery import Daemon, Options
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.outside import Outside
from kmsd.sandbox.node_double_pool import Rules
from kmsd.wire.keccak import keccak256

from .faults import FAULTS
from .invariants import Audit
from .plan import Ask, Fault, Plan
from .world import parties as p
from .world.chain import GatewayChain
from .world.core import Core, CorePort
from .world.determinism import now, run
from .world.lives import Life, Link, Trace
from .world.nodes import GatewayNode, HostPort, NodePort
from .world.rows import Database
from .world.store import Wakes
from .world.store_sender import SimStore
from .world.supplies import BlobsPort, Bucket, WalletPort, WorldEntropy, WorldTime

PATIENCE = 600.0
"""Virtual seconds after the last fault within which everything must have come to its end."""
LATE_ALLOWED = 8.0
"""Seconds after which the ACL allows what is of the variant "late"."""
LIFE: contextvars.ContextVar[Life] = contextvars.ContextVar("life")
"""Which life the running task belongs to."""


class Silent:
    """Stands in for the monitoring endpoint: the simulated world has no sockets."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves nobody."""
        task_status.started()
        await trio.sleep_forever()

    def ready(self) -> None:
        """Nobody is told."""

    def stopping(self) -> None:
        """Nobody is told."""

    def stopped(self) -> None:
        """Nobody is told."""


@attrs.define(eq=False)
class Running:
    """One daemon of the plan, over all its lives."""

    name: str
    number: int
    skew: float
    life: Life | None = None
    daemon: Daemon | None = None
    stop: trio.Event = attrs.field(factory=trio.Event)
    lives: int = 0
    pause: float = 1.0
    since: float = 0.0


@attrs.frozen
class Result:
    """How a world ended: the first thing that was wrong, or None; the digest of everything that crossed a port."""

    wrong: str | None
    digest: str
    lines: Sequence[str] | None
    calls: int
    seconds: float


class World:
    """Everything around the daemons, and the daemons."""

    def __init__(self, plan: Plan, nursery: trio.Nursery, trace: Trace) -> None:
        self.plan = plan
        self.trace = trace
        self.nursery = nursery
        self.chance = random.Random(f"world {plan.seed}")
        self.contents = [p.Content(Kind(ask.kind), ask.number, ask.variant) for ask in plan.asks]
        self.chain = GatewayChain(self.chance, Rules.NITRO if plan.nitro else Rules.GETH, now)
        names = ("main", "second")[: plan.nodes]
        self.nodes = [
            GatewayNode(name, self.chain, self._link(f"gateway node {name}"), self.chance, trace) for name in names
        ]
        for node in self.nodes:
            node.pushes = plan.pushes
        self.cores = [
            Core(n, self._link(f"core http://core-{n}:50051"), self.chance, trace) for n in range(plan.shards)
        ]
        self.buckets = [Bucket(url, self._link(f"bucket {url}")) for url in p.BUCKETS.values()]
        self.host = self._link(f"host chain {p.HOST_ID}")
        self.wallet = self._link("wallet") if plan.remote_wallet else None
        self.database = Database(clock=now)
        self.wakes = Wakes()
        self.running = [Running(f"kmsd-{n}", n, (0.0, 2.5)[n]) for n in range(plan.daemons)]
        self._database_links = [self._link("database") for _ in self.running]
        bodies = [p.blob(one.ct_handle) for content in self.contents for one in content.materials]
        self.objects = {keccak256(body).hex(): body for body in bodies}
        self.allowed_at: dict[bytes, float] = {}
        self.epochs: dict[int, Life] = {}
        self.stopping = False
        self.audit = Audit(self)

    def _link(self, name: str) -> Link:
        return Link(name, self.chance, self.trace, self._late)

    def _late(self, seconds: float, arrive: Callable[[], Any]) -> None:
        """A request whose sender gave it up arrives after `seconds`."""

        async def land() -> None:
            await trio.sleep(seconds)
            try:
                arrive()
            except Exception:
                return  # nobody waits for the answer

        self.nursery.start_soon(land)

    # -- what faults reach

    def links(self, place: str, target: int) -> Sequence[Link]:
        """Ways to a dependency. The database is one for all, or away for one daemon alone."""
        if place == "db":
            links = self._database_links
            return links if target == 0 or len(links) < 2 else links[1:]
        if place == "node":
            return [self.thing("node", target).link]
        if place == "core":
            return [self.thing("core", target).link]
        if place == "bucket":
            return [self.thing("bucket", target).link]
        if place == "wallet":
            return [self.wallet] if self.wallet is not None else []
        return [self.host]

    def thing(self, place: str, target: int) -> Any:
        """What a fault of `place` is about."""
        things: dict[str, Sequence[Any]] = {
            "node": self.nodes,
            "core": self.cores,
            "bucket": self.buckets,
            "chain": [self.chain],
        }
        return things[place][target % len(things[place])]

    def reorganise(self, depth: int, fate: str, *, forget: bool) -> None:
        """The chain goes another way."""
        self.audit.orphaned(self.chain.reorganise(depth, fate=fate, forget=forget))
        self.trace.add("reorganised", depth, fate)
        self._show_blocks()

    def kill(self, target: int, pause: float) -> None:
        """SIGKILL to one daemon."""
        one = self.running[target % len(self.running)]
        one.pause = pause
        if one.life is not None:
            self.trace.add("kill", one.life)
            one.life.kill()

    def fail_power(self, target: int, calls: int, after_effect: bool, pause: float) -> None:
        """Kill one daemon at one of its next calls."""
        one = self.running[target % len(self.running)]
        one.pause = pause
        if one.life is not None:
            one.life.fail_power(calls, after_effect=after_effect)

    def stop(self, target: int, pause: float) -> None:
        """SIGTERM to one daemon."""
        one = self.running[target % len(self.running)]
        one.pause = pause
        one.stop.set()

    def allows(self, handle: bytes) -> bool:
        """What the ACL says of a handle at this instant."""
        return trio.current_time() >= self.allowed_at.get(handle, float("inf"))

    # -- running

    async def live(self, one: Running) -> None:
        """One daemon, started again whenever it ends."""
        while not self.stopping:
            one.lives += 1
            one.life = life = Life(one.name, one.lives)
            one.stop = trio.Event()
            one.since = trio.current_time()
            LIFE.set(life)
            self.trace.add("start", life)
            status: int | None = None
            try:
                with life.scope:
                    one.daemon = self._daemon(one, life)
                    status = await one.daemon.run(one.stop)
            except Exception as error:
                if life.alive:
                    self.audit.wrong(f"PR2: {life} ended with {type(error).__name__}: {error}")
                    raise
            self.trace.add("end", life, status)
            if life.alive:
                self._ended(one, life, status)
            life.kill()
            one.daemon = None
            await trio.sleep(one.pause)

    def _ended(self, one: Running, life: Life, status: int | None) -> None:
        if not one.stop.is_set():
            self.audit.wrong(f"PR2: {life} ended by itself with status {status}")
        elif status not in (0, 75):
            self.audit.wrong(f"PR1: {life} was stopped and ended with status {status}")
        elif status == 0:
            self.audit.stopped(life)

    def _daemon(self, one: Running, life: Life) -> Daemon:
        settings = p.settings(
            name=one.name, nodes=self.plan.nodes, shards=self.plan.shards, confirmations=self.plan.confirmations
        )
        time = WorldTime(one.skew)
        store = SimStore(self.database, self._database_links[one.number], life, self.wakes)

        async def migrate() -> None:
            await store.run("migrate", lambda now: None)

        outside = Outside(
            gateway=[NodePort(node, life) for node in self.nodes],
            hosts={p.HOST_ID: [HostPort(self.host, life, self.allows)]},
            store=store,
            core=CorePort(self.cores, life, settings.core_window),
            blobs=BlobsPort(self.buckets, self.objects, life),
            wallet=WalletPort(life, self.wallet),
            time=time,
            entropy=WorldEntropy(f"{self.plan.seed} {life}"),
            migrate=migrate,
        )
        return Daemon(settings, Options(), outside, Metrics(), Health(time), Silent())

    async def blocks(self) -> None:
        """The chain goes on."""
        while True:
            await trio.sleep(self.plan.block_interval)
            if not self.chain.halted:
                self.chain.mine()
                self._show_blocks()
            self.audit.look()

    def _show_blocks(self) -> None:
        self.audit.mined()
        for node in self.nodes:
            node.push(self.chain.head)

    async def ask(self, ask: Ask, content: p.Content) -> None:
        """Somebody makes a request."""
        allowed = {"late": trio.current_time() + ask.at + LATE_ALLOWED, "denied": float("inf")}
        for one in content.materials:
            self.allowed_at[one.ct_handle] = allowed.get(content.variant, 0.0)
        await trio.sleep(ask.at)
        self.chain.waiting.append(content)
        if ask.others:
            await trio.sleep(ask.others)
            self.chain.finished_by_others.append(content)

    async def hurt(self, fault: Fault, key: str) -> None:
        """A fault comes and goes."""
        await trio.sleep(fault.at)
        self.trace.add("fault", fault.what, fault.target)
        end = FAULTS[fault.what](self, fault, key)
        if end is not None:
            await trio.sleep(fault.lasts)
            end()
            self.trace.add("over", fault.what)

    async def until_quiet(self) -> None:
        """After the last fault, until nothing is left to do or patience is at its end."""
        await trio.sleep(self.plan.healed_at + 1.0)
        for one in self.running:
            if one.life is not None:
                one.life.power_in = None
        for core in self.cores:
            core.internal = core.spoils = 0
        deadline = trio.current_time() + PATIENCE
        while (left := self.audit.left()) is not None:
            if trio.current_time() > deadline:
                self.audit.wrong(f"not quiet {PATIENCE:.0f} s after the last fault: {left}")
            await trio.sleep(2.0)
        self.stopping = True
        for one in self.running:
            one.stop.set()


class Complaints(logging.Handler):
    """What kmsd itself calls unexpected is a violation."""

    UNEXPECTED = ("failed unexpectedly", "unexpected error", "an outcome could not be written")

    def __init__(self, audit: Audit) -> None:
        super().__init__(logging.ERROR)
        self._audit = audit

    def emit(self, record: logging.LogRecord) -> None:
        """One line of kmsd's log."""
        words = record.getMessage()
        life = LIFE.get(None)
        if (life is None or life.alive) and any(one in words for one in self.UNEXPECTED):
            error = record.exc_info[1] if record.exc_info else None
            self._audit.wrong(f"PR2: {words}: {error!r}")


def simulate(plan: Plan, *, keep_trace: bool = False) -> Result:
    """Run one world to its end; the same plan gives the same result in every process."""
    trace: list[Trace] = []
    audits: list[Audit] = []

    async def main() -> None:
        trace.append(Trace(keep_trace))
        async with trio.open_nursery() as nursery:
            world = World(plan, nursery, trace[0])
            audits.append(world.audit)
            log = logging.getLogger("kmsd")
            complaints = Complaints(world.audit)
            before = log.level, log.propagate
            log.addHandler(complaints)
            if not keep_trace:
                log.setLevel(logging.ERROR)
            log.propagate = False
            try:
                async with trio.open_nursery() as daemons:
                    for number, fault in enumerate(plan.faults):
                        nursery.start_soon(world.hurt, fault, f"{number}")
                    for ask, content in zip(plan.asks, world.contents, strict=True):
                        nursery.start_soon(world.ask, ask, content)
                    nursery.start_soon(world.blocks)
                    for one in world.running:
                        daemons.start_soon(world.live, one)
                    daemons.start_soon(world.until_quiet)
                    daemons.start_soon(_end_when_wrong, world.audit, daemons)
                    while not world.stopping:  # noqa: ASYNC110 - one world, one look a while
                        await trio.sleep(2.0)
                    with trio.move_on_after(60.0) as patience:
                        while any(one.daemon is not None for one in world.running):  # noqa: ASYNC110
                            await trio.sleep(0.5)
                    if patience.cancelled_caught:
                        world.audit.wrong("PR1: a daemon did not stop within 60 s")
                    daemons.cancel_scope.cancel()
            finally:
                log.removeHandler(complaints)
                log.setLevel(before[0])
                log.propagate = before[1]
            if not world.audit.violations:
                world.audit.over()
            trace[0].add("over", world.audit.violations[:1])
            nursery.cancel_scope.cancel()

    seconds = [0.0]

    async def timed() -> None:
        try:
            await main()
        finally:
            seconds[0] = trio.current_time()

    try:
        run(timed, plan.seed)
    except BaseExceptionGroup as group:
        if not audits or not audits[0].violations:
            raise
        del group
    wrong = audits[0].violations[0] if audits[0].violations else None
    return Result(wrong, trace[0].digest(), trace[0].lines, trace[0].count, seconds[0])


async def _end_when_wrong(audit: Audit, daemons: trio.Nursery) -> None:
    await audit.failed.wait()
    daemons.cancel_scope.cancel()
