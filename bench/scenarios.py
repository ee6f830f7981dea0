"""The scenarios: each starts a world of its own, has kmsd serve a load in it, and gives the figures of that load.

The other parties only help to make the key; then kmsd answers alone, so that their cost is not measured with its own.
"""

import time
from collections.abc import Callable

import attrs

from bench.figures import Snapshot, metric_total, peak_resident_mib, percentile_ms, tree_cpu_seconds
from kmsd.operations.kinds import Kind
from kmsd.sandbox.observer import Observer
from kmsd.sandbox.progress import Progress, percentiles
from kmsd.sandbox.requester import Requester
from kmsd.sandbox.rpc import RpcClient
from kmsd.sandbox.world import DATABASE, PARTY, Plan, World

STALL_SECONDS = 120.0
"""Without a new accepted answer for so long a scenario is given up."""
LOOK_SECONDS = 0.05
IDLE_SECONDS = 30.0


@attrs.frozen
class Load:
    """Decryptions of a scenario. `rate`: requests a second (None: at once). `waiting`: they wait before kmsd starts."""

    public: int = 0
    user: int = 0
    rate: float | None = None
    waiting: bool = False
    ciphertext_bytes: int | None = None
    core_ms: float = 80.0


@attrs.frozen
class Figures:
    """One scenario's result; counts and CPU are per operation."""

    operations: int
    accepted_per_s: float
    daemon_cpu_us: float
    postgres_cpu_us: float
    http_requests: float
    db_transactions: float
    peak_rss_mib: float
    block_to_broadcast_ms: dict[str, float]
    block_to_acceptance_ms: dict[str, float]


class Stalled(RuntimeError):
    """A scenario that came to a stop; the words say how far it was."""


class Bench:
    """One world under measurement."""

    def __init__(self, world: World, load: Load) -> None:
        self._world, self._load = world, load
        deployment = world.deployment
        self._observer = Observer(
            RpcClient(world.gateway.port), RpcClient(world.host.port), deployment, deployment.parties[PARTY - 1]
        )
        self._progress = Progress(self._observer, world.postgres, DATABASE)
        self._requester = Requester(
            deployment, world.gateway, world.host, world.buckets, ciphertext_bytes=load.ciphertext_bytes
        )

    def run(self) -> Figures:
        """Make a key, put the load on, wait until every answer is accepted."""
        load, total = self._load, self._load.public + self._load.user
        self._world.start_daemon()
        self._requester.prss_init()
        self._until(lambda: self._accepted(Kind.PRSS_INIT) == 1)
        self._requester.keygen()
        self._until(lambda: bool(self._observer.active_keys))
        self._world.committee.stop()
        prepared = self._requester.prepare(load.public, load.user, self._observer.active_keys[0])
        calls = self._requester.calls(prepared, burst=load.rate is None)
        if load.waiting:
            self._world.stop_daemon()
            self._requester.send(calls, load.rate)
            self._until(lambda: self._requested() == total)
            self._world.start_daemon()
            before, began = Snapshot(0.0, self._postgres_cpu(), 0.0, self._transactions()), time.monotonic()
        else:
            before, began = self._snapshot(), time.monotonic()
            self._requester.send(calls, load.rate)
        self._until(lambda: self._decryptions() == total)
        seconds, used = time.monotonic() - began, self._snapshot().since(before)
        return Figures(
            operations=total,
            accepted_per_s=round(total / seconds, 1),
            daemon_cpu_us=round(1e6 * used.daemon_cpu / total, 1),
            postgres_cpu_us=round(1e6 * used.postgres_cpu / total, 1),
            http_requests=round(used.http_requests / total, 3),
            db_transactions=round(used.db_transactions / total, 3),
            peak_rss_mib=round(peak_resident_mib(self._world.daemon.pid), 1),
            block_to_broadcast_ms=percentile_ms(percentiles(self._broadcast_seconds())),
            block_to_acceptance_ms=percentile_ms(
                percentiles(
                    [
                        *self._observer.latencies(Kind.PUBLIC_DECRYPTION),
                        *self._observer.latencies(Kind.USER_DECRYPTION),
                    ]
                )
            ),
        )

    def idle(self) -> Figures:
        """Nothing to do for IDLE_SECONDS; figures are per second."""
        self._world.start_daemon()
        self._requester.prss_init()
        self._until(lambda: self._accepted(Kind.PRSS_INIT) == 1)
        before = self._snapshot()
        time.sleep(IDLE_SECONDS)
        used = self._snapshot().since(before)
        return Figures(
            operations=0,
            accepted_per_s=0.0,
            daemon_cpu_us=round(1e6 * used.daemon_cpu / IDLE_SECONDS, 1),
            postgres_cpu_us=round(1e6 * used.postgres_cpu / IDLE_SECONDS, 1),
            http_requests=round(used.http_requests / IDLE_SECONDS, 3),
            db_transactions=round(used.db_transactions / IDLE_SECONDS, 3),
            peak_rss_mib=round(peak_resident_mib(self._world.daemon.pid), 1),
            block_to_broadcast_ms={},
            block_to_acceptance_ms={},
        )

    def _until(self, condition: Callable[[], bool]) -> None:
        moved, state = time.monotonic(), -1
        while not condition():
            while self._observer.look():
                pass
            now = self._requested() + self._decryptions()
            if now != state:
                moved, state = time.monotonic(), now
            if time.monotonic() - moved > STALL_SECONDS:
                raise Stalled(f"{self._decryptions()} of {self._requested()} accepted; {self._world.daemon.log_tail()}")
            time.sleep(LOOK_SECONDS)

    def _requested(self) -> int:
        return sum(len(self._observer.requests[kind]) for kind in (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION))

    def _decryptions(self) -> int:
        return sum(self._observer.accepted(kind) for kind in (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION))

    def _accepted(self, kind: Kind) -> int:
        self._progress.refresh()
        return self._progress.counts[kind].accepted

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            tree_cpu_seconds(self._world.daemon.pid),
            self._postgres_cpu(),
            metric_total(self._world.monitoring_port, "kms_connector_rpc_requests"),
            self._transactions(),
        )

    def _postgres_cpu(self) -> float:
        return tree_cpu_seconds(self._world.postgres.pid)

    def _transactions(self) -> int:
        sql = f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{DATABASE}'"
        return int(self._world.postgres.execute(sql))

    def _broadcast_seconds(self) -> list[float]:
        """From the moment when the listener had the request's block to the signature of its first transaction."""
        sql = " UNION ALL ".join(
            f"SELECT extract(epoch FROM min(t.signed_at) - min(r.created_at)) FROM {kind.value}_requests r "
            "JOIN kmsd_transactions t ON t.id = r.decryption_id GROUP BY r.decryption_id"
            for kind in (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION)
        )
        return [float(line) for line in self._world.postgres.execute(sql, DATABASE).split()]


SCENARIOS: dict[str, Load | None] = {
    "public": Load(public=2000),
    "user": Load(user=2000),
    "mixed": Load(public=1000, user=1000),
    "small": Load(public=2000, ciphertext_bytes=1000),
    "burst": Load(public=5000),
    "drain": Load(public=10_000, waiting=True),
    "latency": Load(public=1500, rate=50.0),
    "large": Load(public=1000, ciphertext_bytes=4 << 20, core_ms=3000.0),
    "idle": None,
}
"""What is measured; None: nothing to do."""

SMOKE = 40
"""Decryptions of each scenario in the short form."""


def measure(name: str, *, smoke: bool = False) -> Figures:
    """Run one scenario. Raises Stalled, or RuntimeError for a world that does not start."""
    load = SCENARIOS[name]
    if smoke and load is not None:
        load = attrs.evolve(load, public=min(load.public, SMOKE), user=min(load.user, SMOKE))
    plan = Plan(core_latency_ms=80.0 if load is None else load.core_ms)
    with World(plan) as world:
        bench = Bench(world, load or Load())
        return bench.idle() if load is None else bench.run()
