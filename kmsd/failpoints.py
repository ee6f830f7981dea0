"""Named places where a test may kill the daemon: `KMSD_FAILPOINT=name[:n]` (decisions.md 26).

The n-th passage (default the first) of the named place ends the process with SIGKILL, as a power failure would. When
the variable is absent, `failpoint` is a function that does nothing.
"""

import os
import signal


def _armed(setting: str) -> tuple[str, int]:
    name, _, count = setting.partition(":")
    return name, int(count or 1)


_name, _left = _armed(os.environ.get("KMSD_FAILPOINT", ""))


def _failpoint(name: str) -> None:
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _nothing(name: str) -> None:
    return None


failpoint = _failpoint if _name else _nothing
"""Marks a place between two effects; call it with the place's name."""
