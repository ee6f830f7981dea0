"""What is measured of running processes: CPU and memory from /proc, transactions from Postgres, requests from /metrics.

CPU figures hold on a shared machine, where times do not.
"""

import os
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

TICKS = os.sysconf("SC_CLK_TCK")
CPU_FIELDS = slice(11, 13)
"""utime and stime in /proc/PID/stat, counted behind the command's closing parenthesis."""


@attrs.frozen
class Snapshot:
    """Totals at one moment: CPU seconds of daemon and Postgres, HTTP requests to nodes, database transactions."""

    daemon_cpu: float
    postgres_cpu: float
    http_requests: float
    db_transactions: int

    def since(self, before: "Snapshot") -> "Snapshot":
        """What was added after `before`."""
        return Snapshot(*(b - a for a, b in zip(attrs.astuple(before), attrs.astuple(self), strict=True)))


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
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
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
    """The sum of a metric over its labels, from /metrics on 127.0.0.1:`port`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))
    )


def percentile_ms(seconds: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds with one decimal."""
    return {name: round(1000 * value, 1) for name, value in seconds.items()}
