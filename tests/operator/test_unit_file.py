"""The systemd unit as systemd's own tools judge it."""

import re
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy/kmsd.service"
LARGEST_EXPOSURE = 2.0


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """With a program in the place of the one that is installed only on its machine."""
    unit = tmp_path / "kmsd.service"
    unit.write_text(UNIT.read_text().replace("/opt/kmsd/bin/kmsd", sys.executable))
    done = analyze("verify", "--man=no", unit)
    assert done.returncode == 0, done.stderr
    assert "kmsd.service" not in done.stderr, done.stderr


def test_the_unit_is_closed() -> None:
    done = analyze("security", "--offline=true", UNIT)
    assert done.returncode == 0, done.stderr
    level = re.search(r"exposure level for kmsd\.service: ([0-9.]+)", done.stdout)
    assert level, done.stdout
    assert float(level[1]) <= LARGEST_EXPOSURE, done.stdout
