"""What is measured of running processes: CPU and memory from /proc, transactions from Postgres, requests from /metrics.

CPU figures hold on a shared machine, where times do not. Even they grow when neighbours fill the caches, and with a
slower interpreter: so every run also measures a yardstick, a fixed piece of work.
"""

import os
import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from kmsd.wire.keccak import keccak256

TICKS = os.sysconf("SC_CLK_TCK")
CPU_FIELDS = slice(11, 13)
"""utime and stime in /proc/PID/stat, counted behind the command's closing parenthesis."""
FULL = 0.9
"""Part of a core from which a process with one thread of work counts as full."""


@attrs.frozen
class Figures:
    """One scenario's result; counts and CPU are per operation (of `idle` per second)."""

    operations: int
    accepted_per_s: float
    daemon_cpu_us: float
    postgres_cpu_us: float
    http_requests: float
    db_transactions: float
    peak_rss_mib: float
    block_to_broadcast_ms: dict[str, float]
    block_to_acceptance_ms: dict[str, float]


@attrs.frozen
class Snapshot:
    """Totals at one moment: CPU seconds by part (kmsd, Postgres, …), HTTP requests to nodes, database transactions.

    `machine` are the CPU seconds of everything on the machine, and those that its host took away (steal).
    """

    at: float
    cpu: Mapping[str, float]
    http_requests: float
    db_transactions: int
    machine: tuple[float, float]

    def since(self, before: "Snapshot") -> "Snapshot":
        """What was added after `before`; a part that was not there then counts from zero."""
        return Snapshot(
            self.at - before.at,
            {part: seconds - before.cpu.get(part, 0.0) for part, seconds in self.cpu.items()},
            self.http_requests - before.http_requests,
            self.db_transactions - before.db_transactions,
            (self.machine[0] - before.machine[0], self.machine[1] - before.machine[1]),
        )

    def words(self) -> str:
        """Of a difference: how many cores each part used, what else was on the machine, and so what the limit was."""
        cores = {part: seconds / self.at for part, seconds in self.cpu.items()}
        busy, stolen = (seconds / self.at for seconds in self.machine)
        others = max(0.0, busy - sum(cores.values()))
        shown = ", ".join(f"{part} {one:.2f}" for part, one in cores.items())
        full = [part for part, one in cores.items() if one >= FULL and part != "Postgres"]
        if full:
            limit = " and ".join(full)
        elif busy + stolen >= FULL * (os.cpu_count() or 1):
            limit = "the machine"
        else:
            limit = "waiting (blocks, the Core's time, the rate of the load)"
        return f"cores: {shown}, others {others:.2f}, stolen {stolen:.2f}; the limit was {limit}"


def machine_seconds() -> tuple[float, float]:
    """CPU seconds of the whole machine: busy, stolen."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS


def yardstick_us() -> dict[str, float]:
    """CPU microseconds of two fixed pieces of work, the best of several: a loop of Python, keccak of 98,844 bytes."""
    body = bytes(98_844)

    def loop() -> int:
        total = 0
        for number in range(10_000):
            total += number & 7
        return total

    def best(work: object) -> float:
        assert callable(work)
        times = []
        for _ in range(30):
            began = time.thread_time()
            work()
            times.append(time.thread_time() - began)
        return round(1e6 * min(times), 1)

    return {"loop": best(loop), "keccak": best(lambda: keccak256(body))}


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system seconds of processes; those that are gone count as nothing."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[CPU_FIELDS]))
    return total / TICKS


def tree_cpu_seconds(pid: int) -> float:
    """User and system seconds of a process with its children, dead ones included (Postgres: its backends)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS + cpu_seconds(children(pid))


def children(pid: int) -> list[int]:
    """Ids of the processes that `pid` started and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def peak_resident_mib(pid: int) -> float:
    """The most memory that a process had resident, in MiB (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel does not tell VmHWM")


def metric_total(port: int, name: str) -> float:
    """The sum of a metric over its labels, from /metrics on 127.0.0.1:`port`; 0 while nobody answers there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))
    )


def percentile_ms(seconds: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds with one decimal."""
    return {name: round(1000 * value, 1) for name, value in seconds.items()}
