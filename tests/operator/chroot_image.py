"""Builds and runs the image of deploy/Containerfile without a container engine: its own steps, in changed roots.

The base image is a Debian of the same release made by debootstrap, with Debian's Python. Runs need root.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

RELEASE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates,systemd,dbus"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
"""By its path: the image's own PATH is in force where it is called."""
LOOPBACK_UP = (
    "python3 -c 'import fcntl, socket, struct; "
    'fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))\''
)
"""SIOCSIFFLAGS with IFF_UP: a network namespace of its own begins with its loopback down."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base(cache: Path) -> Path:
    """The root of a fresh Debian, made once."""
    root = cache / f"debootstrap-{RELEASE}"
    if not (root / "made").exists():
        shutil.rmtree(root, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-2000:]
        (root / "made").touch()
    return root


def fresh(cache: Path, root: Path) -> Path:
    """A copy of the base at `root`, which finds names and trusts whom this machine trusts."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(base(cache)), str(root)], check=True)
    for file in (Path("etc/resolv.conf"), CERTIFICATES):
        shutil.copyfile(Path("/", file), root / file)
    return root


@attrs.define
class Stage:
    """One FROM: its root folder and what its instructions have said."""

    root: Path
    environment: dict[str, str] = attrs.field(factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = attrs.field(factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: Sequence[str] = ()
    health: Sequence[str] = ()
    stop_signal: str = "SIGTERM"

    def inside(self, path: str) -> Path:
        """A path of the stage on this machine."""
        return self.root / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")

    def run(self, command: str, timeout: float = 600.0) -> None:
        """A RUN instruction."""
        pip = {name: value for name, value in os.environ.items() if name in ("PIP_CERT", "PIP_INDEX_URL")}
        done = subprocess.run(
            ["chroot", str(self.root), "/bin/sh", "-c", f"cd {self.folder} && {command}"],
            env={**pip, **self.environment, **self.arguments},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instruction and argument of each line, continuations joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        yield word, rest.strip()


def build(containerfile: Path, context: Path, cache: Path, folder: Path, arguments: Mapping[str, str]) -> Stage:
    """Follow the file; the last stage. An instruction that this does not know is an error."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in instructions(containerfile.read_text()):
        if word == "ARG":
            name, _, default = rest.partition("=")
            if stage is not None:
                stage.arguments[name] = arguments.get(name, default)
        elif word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert f"slim-{RELEASE}" in image, image
            stage = Stage(fresh(cache, folder / (name or "last")))
            stages[name] = stage
        else:
            assert stage is not None
            _follow(stage, word, rest, context, stages)
    assert stage is not None
    return stage


def _follow(stage: Stage, word: str, rest: str, context: Path, stages: Mapping[str, Stage]) -> None:
    if word == "ENV":
        stage.environment.update(pair.split("=", 1) for pair in shlex.split(rest))
    elif word == "WORKDIR":
        stage.folder = rest
        stage.inside(".").mkdir(parents=True, exist_ok=True)
    elif word == "COPY":
        *sources, target = rest.split()
        origin = context
        if sources[0].startswith("--from="):
            origin = stages[sources.pop(0).removeprefix("--from=")].root
        for source in sources:
            _copy(origin / source.lstrip("/"), stage.inside(target), into=target.endswith("/"))
    elif word == "RUN":
        stage.run(rest)
    elif word == "USER":
        stage.user = rest
    elif word == "STOPSIGNAL":
        stage.stop_signal = rest
    elif word == "HEALTHCHECK":
        stage.health = json.loads(rest.partition("CMD ")[2])
    elif word == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    else:
        assert word == "EXPOSE", f"unknown instruction {word}"


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if into:
        target = target / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


class Container:
    """The image's program as PID 1 on a read-only root, without capabilities, as the image's user."""

    def __init__(self, stage: Stage, log: Path, environment: Mapping[str, str]) -> None:
        self._stage = stage
        self._log = log
        uid, gid = stage.user.split(":")
        self._as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--bounding-set=-all"]
        self._as_user += ["--inh-caps=-all", "--no-new-privs"]
        self._environment = {**stage.environment, **environment}
        program = shlex.join([*self._as_user, *stage.entrypoint])
        root = shlex.quote(str(stage.root))
        script = (
            f"{LOOPBACK_UP}"
            f" && mount --bind {root} {root} && mount -t proc proc {root}/proc && mount -t tmpfs tmpfs {root}/dev"
            f" && mknod -m 666 {root}/dev/null c 1 3 && mknod -m 666 {root}/dev/urandom c 1 9"
            f" && mount -o remount,bind,ro {root} && exec {CHROOT} {root} {program}"
        )
        with log.open("wb") as output:
            self._unshare = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child=SIGKILL", "/bin/sh", "-c", script],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """On this machine, of what is PID 1 inside; 0 before it began and after it ended."""
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        try:
            return int(children.read_text().split()[0])
        except (OSError, IndexError):
            return 0

    def execute(self, *command: str, as_user: bool = True) -> subprocess.CompletedProcess[str]:
        """A command beside the program, as `podman exec` and HEALTHCHECK do it."""
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--net",
            "--root",  # as the program sees it: read-only
            "--wd",
        ]
        return subprocess.run(
            [*enter, *(self._as_user if as_user else ()), *command],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def healthy(self) -> bool:
        """What HEALTHCHECK says now."""
        return self.pid != 0 and self.execute(*self._stage.health).returncode == 0

    def until_healthy(self, seconds: float = 60.0) -> None:
        """Wait for HEALTHCHECK."""
        deadline = time.monotonic() + seconds
        while not self.healthy():
            assert self._unshare.poll() is None, f"ended with {self._unshare.returncode}: {self.log()}"
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def stop(self, seconds: float = 30.0) -> int:
        """The stop signal to PID 1; its exit status. Raises TimeoutExpired where an engine would kill."""
        os.kill(self.pid, signal.Signals[self._stage.stop_signal])
        return self._unshare.wait(seconds)

    def kill(self) -> None:
        """End whatever is left."""
        if self._unshare.poll() is None:
            self._unshare.kill()
            self._unshare.wait()

    def log(self) -> str:
        """What the program has said."""
        return self._log.read_text(errors="replace")


@contextmanager
def running(stage: Stage, log: Path, environment: Mapping[str, str]) -> Iterator[Container]:
    """A container until the block is left."""
    container = Container(stage, log, environment)
    try:
        yield container
    finally:
        container.kill()
