"""The process as the kernel sees it: CPU, memory, descriptors, threads, from /proc where there is one."""

import os
import platform
import resource
import time
from pathlib import Path

from kmsd.observe.metrics import Metrics

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Resident memory now, in bytes; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def started_at() -> float:
    """When the process started, in Unix seconds; the time of the call where the kernel does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return int(boot.split()[1]) + ticks / _TICKS
    except (OSError, IndexError, ValueError, StopIteration):
        return time.time()


class Process:
    """Writes the `process_*` families whenever metrics are read."""

    def __init__(self, metrics: Metrics, version: str) -> None:
        self._metrics = metrics
        metrics.set("process_start_time_seconds", started_at())
        metrics.set("kms_connector_build_info", 1.0, version, platform.python_version())
        metrics.on_read(self.measure)

    def measure(self) -> None:
        """Read the kernel's numbers."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._metrics.total("process_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
        self._metrics.set("process_max_fds", float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        self._metrics.set("process_resident_memory_bytes", float(resident_bytes()))
        try:
            stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
            self._metrics.set("process_threads", float(stat[17]))
            self._metrics.set("process_virtual_memory_bytes", float(stat[20]))
            self._metrics.set("process_open_fds", float(len(os.listdir("/proc/self/fd")) - 1))
        except (OSError, IndexError, ValueError):
            return
