"""One world under measurement: a key is made, a load is put on, and what serving it took is read off.

The other parties only help to make the key; then kmsd answers alone, so that their cost is not measured with its own.
"""

import threading
import time
from collections.abc import Callable

import attrs

from bench.figures import (
    Figures,
    Snapshot,
    machine_seconds,
    metric_total,
    peak_resident_mib,
    percentile_ms,
    tree_cpu_seconds,
)
from bench.heads import HeadClock
from kmsd.operations.kinds import Kind
from kmsd.sandbox.accounts import Call
from kmsd.sandbox.ports import free_port
from kmsd.sandbox.process import ChildProcess, python_process
from kmsd.sandbox.progress import Progress, percentiles
from kmsd.sandbox.world import DATABASE, World

STALL_SECONDS = 120.0
"""Without a new accepted answer for so long a scenario is given up."""
LOOK_SECONDS = 0.05
DECRYPTIONS = (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION)


@attrs.frozen
class Load:
    """Decryptions of a scenario. `rate`: requests a second (None: at once). `core_ms`: what the Core computes."""

    public: int = 0
    user: int = 0
    rate: float | None = None
    ciphertext_bytes: int | None = None
    core_ms: float = 80.0

    @property
    def total(self) -> int:
        """All of them."""
        return self.public + self.user


class Stalled(RuntimeError):
    """A scenario that came to a stop; the words say how far it was."""


class Measured:
    """A started world with its load. `say` is told what a scenario has to say besides its figures."""

    def __init__(self, world: World, load: Load, say: Callable[[str], None]) -> None:
        self.world, self.load, self.say = world, load, say
        self._observer = world.observer()
        self._progress = Progress(self._observer, world.postgres, DATABASE)
        self.requester = world.requester(ciphertext_bytes=load.ciphertext_bytes)
        self.more_daemons: list[tuple[ChildProcess, int]] = []
        """Daemons besides the world's own, with their monitoring ports."""
        self.parts: dict[str, int] = {}
        """Process ids of further parts by name."""
        self.is_prepared = False

    # -- phases

    def prepare(self) -> list[Call]:
        """kmsd runs, a key is made, ciphertexts and rights are there: the transactions that ask for the load."""
        self.is_prepared = True
        self.world.start_daemon()
        self.requester.prss_init()
        self.until(lambda: self._accepted(Kind.PRSS_INIT) == 1)
        self.requester.keygen()
        self.until(lambda: bool(self._observer.active_keys))
        self.world.committee.stop()
        prepared = self.requester.prepare(self.load.public, self.load.user, self._observer.active_keys[0])
        return self.requester.calls(prepared, burst=self.load.rate is None)

    def restart_with(self, *, pause: Callable[[], None] = lambda: None, **settings: object) -> None:
        """Stop the daemon, do `pause`, and start it with these settings besides the plan's."""
        self.world.stop_daemon()
        pause()
        self.world.plan = attrs.evolve(self.world.plan, settings={**self.world.plan.settings, **settings})
        self.world.write_config()
        self.world.start_daemon()

    def start_daemon(self) -> None:
        """Start the world's daemon."""
        self.world.start_daemon()

    def add_daemon(self, number: int) -> None:
        """One more daemon on the same database."""
        port = free_port()
        text = self.world.config_file.read_text()
        file = self.world.config_file.with_name(f"kmsd-{number}.toml")
        file.touch(mode=0o600)
        before = f'monitoring_endpoint = "127.0.0.1:{self.world.monitoring_port}"'
        file.write_text(
            text.replace(before, f'monitoring_endpoint = "127.0.0.1:{port}"\ninstance_name = "bench-{number}"')
        )
        daemon = python_process(f"kmsd-{number}", "kmsd", ["--config", str(file)], self.world.folder)
        daemon.start()
        self.more_daemons.append((daemon, port))

    def close(self) -> None:
        """End what the world does not know of."""
        for daemon, _ in self.more_daemons:
            daemon.stop()

    def ask(self, calls: list[Call]) -> None:
        """Put the load on the chain; one with a rate is put on while others look."""
        if self.load.rate is None:
            self.requester.send(calls)
        else:
            threading.Thread(target=self.requester.send, args=(calls, self.load.rate), daemon=True).start()

    def served(self) -> Figures:
        """Put the load on, wait until every answer is accepted, and give the figures."""
        calls = self.prepare()
        return self.serve(lambda: self.ask(calls))

    def serve(self, start: Callable[[], None], *, fresh_daemon: bool = False) -> Figures:
        """The figures of everything from `start` until every answer is accepted.

        `fresh_daemon`: `start` starts it, so that its counts begin at zero.
        """
        clock = HeadClock(self.world.gateway.ws_url, self.world.gateway.chain_id)
        before = self.snapshot()
        if fresh_daemon:
            before = attrs.evolve(before, cpu={**before.cpu, "kmsd": 0.0}, http_requests=0.0)
        start()
        self.until(lambda: self._decryptions() == self.load.total)
        used = self.snapshot().since(before)
        clock.stop()
        return self.figures(used, self.load.total, used.at, self._broadcast_seconds(clock), self._acceptance_seconds())

    def until(self, condition: Callable[[], bool], *, watch: Callable[[], object] | None = None) -> None:
        """Wait for `condition`; Stalled when neither the chain nor `watch` moves for STALL_SECONDS."""
        moved, state = time.monotonic(), object()
        while not condition():
            while self._observer.look():
                pass
            now: object = (self.requested(), self._decryptions(), watch() if watch is not None else None)
            if now != state:
                moved, state = time.monotonic(), now
            if time.monotonic() - moved > STALL_SECONDS:
                raise Stalled(f"{self._decryptions()} of {self.requested()} accepted; {self.world.daemon.log_tail()}")
            time.sleep(LOOK_SECONDS)

    def requested(self) -> int:
        """Decryptions that were asked for on chain."""
        return sum(len(self._observer.requests[kind]) for kind in DECRYPTIONS)

    # -- figures

    def snapshot(self) -> Snapshot:
        """Everything that is counted, as it is now."""
        world = self.world
        daemons = [world.daemon.pid, *(daemon.pid for daemon, _ in self.more_daemons)]
        ports = [world.monitoring_port, *(port for _, port in self.more_daemons)]
        return Snapshot(
            time.monotonic(),
            {
                "kmsd": sum(map(tree_cpu_seconds, daemons)),
                "Postgres": tree_cpu_seconds(world.postgres.pid),
                "Gateway chain": tree_cpu_seconds(world.gateway.process.pid),
                "host chain": tree_cpu_seconds(world.host.process.pid),
                "Core": tree_cpu_seconds(world.core.pid),
                "buckets": tree_cpu_seconds(world.buckets.process.pid),
                **{name: tree_cpu_seconds(pid) for name, pid in self.parts.items()},
                "bench": time.process_time(),
            },
            sum(metric_total(port, "kms_connector_rpc_requests") for port in ports),
            int(self.sql(f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{DATABASE}'")),
            machine_seconds(),
        )

    def figures(
        self,
        used: Snapshot,
        operations: int,
        seconds: float,
        broadcast: list[float] | None = None,
        acceptance: list[float] | None = None,
    ) -> Figures:
        """What was used, for each of `operations` in `seconds` (none: for each second)."""
        self.say(used.words())
        each = operations or seconds
        pids = [self.world.daemon.pid, *(daemon.pid for daemon, _ in self.more_daemons)]
        return Figures(
            operations=operations,
            accepted_per_s=round(operations / seconds, 1),
            daemon_cpu_us=round(1e6 * used.cpu["kmsd"] / each, 1),
            postgres_cpu_us=round(1e6 * used.cpu["Postgres"] / each, 1),
            http_requests=round(used.http_requests / each, 3),
            db_transactions=round(used.db_transactions / each, 3),
            peak_rss_mib=round(max(map(peak_resident_mib, pids)), 1),
            block_to_broadcast_ms=percentile_ms(percentiles(broadcast or [])),
            block_to_acceptance_ms=percentile_ms(percentiles(acceptance or [])),
        )

    def sql(self, statement: str) -> str:
        """The answer of kmsd's database, through psql."""
        return self.world.postgres.execute(statement, DATABASE)

    def _decryptions(self) -> int:
        return sum(self._observer.accepted(kind) for kind in DECRYPTIONS)

    def _accepted(self, kind: Kind) -> int:
        self._progress.refresh()
        return self._progress.counts[kind].accepted

    def _acceptance_seconds(self) -> list[float]:
        return [seconds for kind in DECRYPTIONS for seconds in self._observer.latencies(kind)]

    def _broadcast_seconds(self, clock: HeadClock) -> list[float]:
        """From the moment when the request's block was announced to the signature of its first transaction."""
        lines = self.sql(
            " UNION ALL ".join(
                f"SELECT r.block_number, extract(epoch FROM min(t.signed_at)) FROM {kind.value}_requests r "
                "JOIN kmsd_transactions t ON t.id = r.decryption_id GROUP BY r.decryption_id, r.block_number"
                for kind in DECRYPTIONS
            )
        )
        rows = [line.split("|") for line in lines.split()]
        return [float(signed) - clock.seen[int(block)] for block, signed in rows if int(block) in clock.seen]
