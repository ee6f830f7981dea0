"""What this program calls itself."""

import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed
from pathlib import Path


def _version() -> str:
    try:
        return _installed("kmsd")
    except PackageNotFoundError:
        return "0+checkout"


VERSION = _version()
"""Version of the installed distribution."""


@lru_cache(maxsize=1)
def build() -> str:
    """Short hash of the commit: of the checkout that runs, or as packaged in `kmsd/_build.txt`; else `unknown`."""
    here = Path(__file__).resolve().parent
    packaged = here / "_build.txt"
    if packaged.is_file():
        return packaged.read_text(encoding="ascii").strip()
    if (here.parent / ".git").exists():
        try:
            asked = subprocess.run(
                ["git", "-C", str(here.parent), "rev-parse", "--short", "HEAD"],
                capture_output=True,
                timeout=2.0,
                check=True,
                text=True,
            )
            return asked.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown"
    return "unknown"
