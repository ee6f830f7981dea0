"""What the bench prints and draws, without a world: the JSON of the issue, two runs compared, pictures that decode."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import attrs

from bench.figures import Figures, Snapshot
from bench.plots import draw
from bench.scenarios import GROUPS, SCENARIOS

ROOT = Path(__file__).parents[2]
TIMES = {"p50": 80.0, "p95": 90.0, "p99": 99.0}
FIGURES = Figures(1000, 450.0, 1400.0, 250.0, 0.2, 0.15, 200.0, TIMES, TIMES)


def test_figures_have_the_names_that_others_read() -> None:
    assert list(attrs.asdict(FIGURES)) == [
        "operations",
        "accepted_per_s",
        "daemon_cpu_us",
        "postgres_cpu_us",
        "http_requests",
        "db_transactions",
        "peak_rss_mib",
        "block_to_broadcast_ms",
        "block_to_acceptance_ms",
    ]
    assert {name for group in GROUPS.values() for name in group} <= set(SCENARIOS)


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    for name, figures in (("a", FIGURES), ("b", attrs.evolve(FIGURES, daemon_cpu_us=700.0))):
        line = json.dumps({"scenarios": {"public": attrs.asdict(figures), name: attrs.asdict(figures)}})
        (tmp_path / name).write_text(f"words before\n{line}\n")
    command = [sys.executable, str(ROOT / "bench" / "compare"), str(tmp_path / "a"), str(tmp_path / "b")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "public     daemon_cpu_us                     1,400.0        700.0    0.50" in said
    assert "block_to_broadcast_ms.p99" in said
    assert "a          is only in A" in said
    assert "b          is only in B" in said


def test_pictures_decode(tmp_path: Path) -> None:
    results: dict[str, Any] = {name: attrs.asdict(FIGURES) for name in SCENARIOS}
    written = draw(results, tmp_path)
    assert len(written) == 5
    for file in written:
        data = file.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack("!2I", data[16:24])
        size = struct.unpack("!I", data[33:37])[0]
        assert len(zlib.decompress(data[41 : 41 + size])) == height * (1 + 3 * width)


def test_what_was_full_was_the_limit() -> None:
    def words(**cores: float) -> str:
        return Snapshot(
            10.0, {part: 10 * one for part, one in cores.items()}, 0.0, 0, (10 * sum(cores.values()), 0)
        ).words()

    assert words(kmsd=0.95, Core=0.3).endswith("the limit was kmsd")
    assert "waiting" in words(kmsd=0.05, Core=0.05)
