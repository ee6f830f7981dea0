"""Child processes of the sandbox: started in the background, watched by their own pid, gone when their parent is gone.

The methods block for milliseconds, except those that wait; under Trio call the waiting ones in a thread.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TETHER = """
import ctypes, os, sys
parent, number, user = map(int, sys.argv[1:4])
if user >= 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
os.execv(sys.argv[4], sys.argv[4:])
"""
"""Runs between fork and exec, as a program of its own: PR_SET_PDEATHSIG (1) is lost by a change of user, and a preexec
function could deadlock a parent with threads."""
_POLL_SECONDS = 0.01
_PAUSE_DEADLINE = 5.0


class ChildProcess:
    """One program: where its output goes, and how it is stopped.

    `user` is the uid and gid to run as, None for our own. `tether` is the signal that Linux sends it when this process
    dies, so that a killed test run leaves nothing behind; it takes effect only when started from the main thread,
    because Linux means the *thread* that started it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        logs: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        tether: signal.Signals | None = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.argv = [os.fspath(word) for word in argv]
        self.stdout_path = logs / f"{name}.out"
        self.stderr_path = logs / f"{name}.err"
        self._env = dict(os.environ if env is None else env)
        self._cwd = cwd
        self._user = user
        self._tether = tether
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the program; its output is appended to the log files. Raises RuntimeError if it runs already."""
        if self.alive():
            raise RuntimeError(f"{self.name} runs already (pid {self.pid})")
        argv, user = self.argv, self._user
        if self._tether is not None and threading.current_thread() is threading.main_thread():
            numbers = [str(number) for number in (os.getpid(), int(self._tether), -1 if user is None else user)]
            argv, user = [sys.executable, "-I", "-S", "-c", _TETHER, *numbers, *argv], None
        with self.stdout_path.open("ab") as out, self.stderr_path.open("ab") as err:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs or before its first start."""
        return None if self._process is None else self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: it stands still, its sockets stay open. Returns when all its threads stand."""
        self.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + _PAUSE_DEADLINE
        while self.alive() and time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Waits for its end, at most `timeout` seconds, and returns the exit status. Raises TimeoutError."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} (pid {self.pid}) still runs after {timeout} s") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> int | None:
        """Ends it with a signal, and with SIGKILL when that has not worked in `timeout` seconds. Returns the status."""
        if not self.alive():
            return self.returncode
        self.send_signal(number)
        self.resume()
        try:
            return self.wait(timeout)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int | None:
        """SIGKILL, and waits until it is gone."""
        if self._process is None:
            return None
        self.send_signal(signal.SIGKILL)
        return self._process.wait()

    def ready_line(self, timeout: float = 30.0) -> dict[str, Any]:
        """The first line of its standard output, which is one JSON object that says where it listens.

        Raises RuntimeError with the end of its error output if it ends first or says nothing in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.alive()
            line, newline, _ = self.stdout_path.read_bytes().partition(b"\n")
            if newline:
                ready: dict[str, Any] = json.loads(line)
                return ready
            if ended or time.monotonic() > deadline:
                state = f"ended with status {self.returncode}" if ended else f"said nothing for {timeout:g} s"
                raise RuntimeError(f"{self.name} {state}: {self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def log_tail(self, size: int = 2000) -> str:
        """The last bytes of its error output (or of its standard output, if there are none)."""
        for path in (self.stderr_path, self.stdout_path):
            if path.exists() and (text := path.read_bytes()[-size:].decode("utf-8", "replace").strip()):
                return text
        return "no output"


def python_process(name: str, module: str, options: Sequence[str], logs: Path) -> ChildProcess:
    """A module of ours as a process, with this interpreter."""
    env = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    return ChildProcess(name, [sys.executable, "-m", module, *options], logs, env=env)
