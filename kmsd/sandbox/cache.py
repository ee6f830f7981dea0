"""Where the sandbox keeps what it downloads, compiles and prepares once: one folder, safe for several processes."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the source tree, when the package runs from one."""


def cache_root() -> Path:
    """The cache folder: `$KMSD_CACHE`, `.cache/` of a checkout, `$XDG_CACHE_HOME/kmsd`, else one below the system's
    temporary folder. HOME is not used, so it may be empty or missing. The folder is created.
    """
    if chosen := os.environ.get("KMSD_CACHE"):
        root = Path(chosen).absolute()
    elif (CHECKOUT / "pyproject.toml").is_file() and os.access(CHECKOUT, os.W_OK):
        root = CHECKOUT / ".cache"
    elif xdg := os.environ.get("XDG_CACHE_HOME"):
        root = Path(xdg).absolute() / "kmsd"
    else:
        root = Path(tempfile.gettempdir()) / f"kmsd-cache-{os.getuid()}"
    root.mkdir(parents=True, exist_ok=True)
    return root


def open_to_everyone(folder: Path) -> bool:
    """Whether a foreign unprivileged user can reach `folder`: every folder above it may be searched by others."""
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


def shared_cache_root() -> Path:
    """The cache folder for programs that must run as another user (Postgres does not run as root).

    It is the cache folder, unless something above it is closed to others: then a folder of ours below the system's
    temporary folder, named after the cache folder. Raises RuntimeError if that name belongs to somebody else.
    """
    root = cache_root()
    if os.getuid() != 0 or open_to_everyone(root):
        return root
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    shared = Path(tempfile.gettempdir()) / f"kmsd-shared-{name}"
    shared.mkdir(mode=0o755, exist_ok=True)
    if shared.stat().st_uid != 0 or shared.is_symlink():
        raise RuntimeError(f"{shared} belongs to another user: remove it, or set KMSD_CACHE to a folder of your own")
    return shared


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`, waiting for other processes. The file stays; the lock does not
    survive this process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
