"""The scenarios: each starts a world of its own, has kmsd serve a load in it, and gives the figures of that load."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from bench import alone
from bench.figures import Figures
from bench.measured import Load, Measured
from kmsd.sandbox.accounts import Call
from kmsd.sandbox.world import Plan, World

IDLE_SECONDS = 30.0
BLOCKS_A_REQUEST = 5
"""Blocks of `catchup` for each of its requests: 50,000 for 10,000."""
BLOCKS_A_CALL = 200
"""Blocks that the node is told to make at once."""
SMOKE = 20
"""Decryptions of each scenario in the short form."""
START_LOOK = 0.02

Run = Callable[[Measured], Figures]


@attrs.frozen
class Scenario:
    """What is measured: how it runs, its load, and settings of kmsd.toml that it needs.

    `in_smoke`: run when the short form is asked for without names; a world takes seconds, CI has half a minute.
    """

    run: Run
    load: Load
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    in_smoke: bool = False


def served(bench: Measured) -> Figures:
    """The load is put on a daemon that runs."""
    return bench.served()


def drain(bench: Measured) -> Figures:
    """The requests' events wait when the daemon starts; its start counts too."""
    calls = bench.prepare()
    bench.world.stop_daemon()
    bench.ask(calls)
    bench.until(lambda: bench.requested() == bench.load.total)
    return bench.serve(bench.start_daemon, fresh_daemon=True)


def catchup(bench: Measured) -> Figures:
    """The requests' events stand in the many blocks that the daemon has missed; its start counts too."""
    calls = bench.prepare()
    bench.world.stop_daemon()
    for call in calls:
        _ask_and_wait(bench, [call])
        blocks = BLOCKS_A_REQUEST * bench.load.total // len(calls)
        for start in range(0, blocks, BLOCKS_A_CALL):
            bench.world.gateway.call("anvil_mine", hex(min(BLOCKS_A_CALL, blocks - start)))
    bench.until(lambda: bench.requested() == bench.load.total)
    return bench.serve(bench.start_daemon, fresh_daemon=True)


def _ask_and_wait(bench: Measured, calls: list[Call]) -> None:
    before = bench.requested()
    bench.ask(calls)
    bench.until(lambda: bench.requested() > before)


def idle(bench: Measured) -> Figures:
    """Nothing to do; figures are for each second."""
    bench.prepare()
    seconds = IDLE_SECONDS if bench.load.total == 0 else 1.0
    time.sleep(2.0)
    before = bench.snapshot()
    time.sleep(seconds)
    used = bench.snapshot().since(before)
    return bench.figures(used, 0, used.at)


def start(bench: Measured) -> Figures:
    """From the start of the process to the first claim, with requests waiting: block_to_broadcast_ms has it as p50."""
    calls = bench.prepare()
    bench.restart_with(roles=["listener"])
    bench.ask(calls)
    table = "public_decryption_requests"
    bench.until(lambda: int(bench.sql(f"SELECT count(*) FROM {table}")) == bench.load.total)
    began = 0.0

    def begin() -> None:
        nonlocal began
        began = time.time()

    bench.restart_with(pause=begin, roles=["listener", "worker", "sender", "gc"])
    claimed = ""
    while not claimed:
        claimed = bench.sql(f"SELECT extract(epoch FROM now()) FROM {table} WHERE attempts > 0 LIMIT 1")
        time.sleep(START_LOOK)
    before = bench.snapshot()
    milliseconds = round(1000 * (float(claimed) - began), 1)
    bench.say(f"{milliseconds:.0f} ms from the start of the process to the first claim")
    figures = bench.figures(bench.snapshot().since(before), 1, 1.0)
    return attrs.evolve(figures, block_to_broadcast_ms={"p50": milliseconds, "p95": milliseconds, "p99": milliseconds})


def daemons(count: int) -> Run:
    """So many daemons on one database; the Core's time and a narrow window limit each of them."""

    def run(bench: Measured) -> Figures:
        calls = bench.prepare()
        for number in range(2, count + 1):
            bench.add_daemon(number)
        time.sleep(3.0)
        return bench.serve(lambda: bench.ask(calls))

    return run


SCALE_LOAD = Load(public=600, core_ms=400.0)
SCALE_SETTINGS = {"core_window": 24, "task_limit": 48}

SCENARIOS: dict[str, Scenario] = {
    "public": Scenario(served, Load(public=2000)),
    "user": Scenario(served, Load(user=2000)),
    "mixed": Scenario(served, Load(public=1000, user=1000), in_smoke=True),
    "small": Scenario(served, Load(public=2000, ciphertext_bytes=1000)),
    "burst": Scenario(served, Load(public=5000)),
    "drain": Scenario(drain, Load(public=10_000)),
    "rows": Scenario(alone.silent_rows, Load(public=10_000)),
    "catchup": Scenario(catchup, Load(public=10_000)),
    "latency": Scenario(served, Load(public=1500, rate=50.0)),
    "large": Scenario(served, Load(public=1000, ciphertext_bytes=4 << 20, core_ms=3000.0)),
    "idle": Scenario(idle, Load(), {"key_management_polling": "5s"}),
    "start": Scenario(start, Load(public=100)),
    "ingest": Scenario(alone.ingest, Load(public=20_000), in_smoke=True),
    "work": Scenario(alone.work, Load(public=3000)),
    "send": Scenario(alone.send, Load(public=10_000)),
    "scale-1": Scenario(daemons(1), SCALE_LOAD, SCALE_SETTINGS),
    "scale-2": Scenario(daemons(2), SCALE_LOAD, SCALE_SETTINGS),
    "scale-3": Scenario(daemons(3), SCALE_LOAD, SCALE_SETTINGS),
}
"""What is measured, in the order in which it is."""

GROUPS: dict[str, tuple[str, ...]] = {
    "scale": ("scale-1", "scale-2", "scale-3"),
    "alone": ("ingest", "work", "send"),
}
"""Names for several scenarios."""


def measure(name: str, *, operations: int | None = None, say: Callable[[str], None] = lambda line: None) -> Figures:
    """Run one scenario, with so many `operations` instead of its own number.

    Raises Stalled, or RuntimeError for a world that does not start.
    """
    scenario = SCENARIOS[name]
    load = scenario.load
    if operations is not None:
        public = min(load.public, operations if not load.user else operations // 2)
        load = attrs.evolve(load, public=public, user=min(load.user, operations - public))
    with World(Plan(core_latency_ms=load.core_ms, settings=scenario.settings)) as world:
        bench = Measured(world, load, say)
        try:
            return scenario.run(bench)
        finally:
            bench.close()
