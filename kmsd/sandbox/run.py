"""`kmsd sandbox`: everything on one machine. Starts a world, asks for all seven kinds, watches kmsd serve them, checks
the chain, and says how it went.
"""

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
from rich.console import Console
from rich.live import Live

from kmsd.operations.kinds import Kind
from kmsd.sandbox.process import ChildProcess
from kmsd.sandbox.progress import Progress
from kmsd.sandbox.world import DATABASE, Plan, World

STALL_SECONDS = 90.0
"""Without any progress for so long the sandbox gives up."""

LOOK_SECONDS = 0.05
REFRESH_SECONDS = 0.5
LINE_SECONDS = 5.0
"""Between lines of progress where there is no terminal."""

PLAIN_WIDTH = 120
"""Columns where there is no terminal."""


@attrs.frozen
class Options:
    """What `kmsd sandbox` was told. `rate` is requests a second (None: at once), `core_latency` milliseconds,
    `ciphertext_bytes` the size of every ciphertext (None: real sizes).
    """

    public: int = 200
    user: int = 200
    rate: float | None = None
    ciphertext_bytes: int | None = None
    core_latency: float | None = None
    keep: bool = False
    json: bool = False


class Failed(Exception):
    """The sandbox cannot go on; the message says why."""


def run(options: Options) -> int:
    """Runs the sandbox; 0 when every request was accepted. With `json` everything else goes to stderr."""
    console = Console(stderr=options.json, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        plan = Plan(core_latency_ms=options.core_latency)
        with World(plan, lambda part: console.print(f"starting {part}")) as world:
            return Session(world, options, console).run()
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except (RuntimeError, ValueError) as error:
        console.print(f"the sandbox does not start: {error}", style="red", markup=False)
        return 1


class Session:
    """One run in a world that is up."""

    def __init__(self, world: World, options: Options, console: Console) -> None:
        self._world = world
        self._options = options
        self._console = console
        self._observer = world.observer()
        self._requester = world.requester(ciphertext_bytes=options.ciphertext_bytes)
        self._progress = Progress(self._observer, world.postgres, DATABASE)
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        self._began = time.monotonic()
        self._line_at = 0.0

    def run(self) -> int:
        """Asks, waits, checks, reports."""
        self._say("starting kmsd")
        self._world.start_daemon()
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            self._live = live if self._console.is_terminal else None
            watching = self._thread(self._watch)
            problems: list[str] = []
            try:
                self._ceremonies()
                self._decryptions()
            except Failed as failed:
                problems.append(str(failed))
            finally:
                self._stop.set()
                watching.join()
        problems += self._verdict()
        status = self._report(problems)
        if self._options.keep:
            self._keep()
        return status

    def _ceremonies(self) -> None:
        """PRSS first, then a key, then what needs the key; the CRS is made meanwhile."""
        self._say("ceremonies: PRSS, key, CRS, reshare")
        self._requester.prss_init()
        self._wait(lambda: self._progress.counts[Kind.PRSS_INIT].accepted)
        self._requester.keygen()
        self._requester.crsgen()
        self._wait(lambda: self._observer.active_keys)
        self._requester.key_reshare(self._observer.active_keys[0])

    def _decryptions(self) -> None:
        options = self._options
        if options.public + options.user:
            self._say(f"{options.public} public and {options.user} user decryptions")
            prepared = self._requester.prepare(options.public, options.user, self._observer.active_keys[0])
            calls = self._requester.calls(prepared, burst=options.rate is None)
            self._thread(lambda: self._requester.send(calls, options.rate, self._stop))
        self._wait(self._all_accepted)

    def _all_accepted(self) -> bool:
        counts = self._progress.counts
        asked = {Kind.PUBLIC_DECRYPTION: self._options.public, Kind.USER_DECRYPTION: self._options.user}
        return all(
            count.requested == asked.get(kind, 1) and count.accepted == count.requested
            for kind, count in counts.items()
        )

    def _wait(self, condition: Callable[[], Any]) -> None:
        """Until the condition holds. Raises Failed when kmsd ends, a helper fails, or nothing moves for long."""
        moved, before = time.monotonic(), -1
        while True:
            self._progress.refresh()
            self._show()
            if condition():
                return
            if self._faults:
                raise Failed(f"the sandbox itself failed: {self._faults[0]!r}")
            if not self._world.daemon.alive():
                raise Failed(
                    f"kmsd ended with status {self._world.daemon.returncode}: {last_words(self._world.daemon)}"
                )
            state = sum(sum(attrs.astuple(count)) for count in self._progress.counts.values())
            if state != before:
                moved, before = time.monotonic(), state
            elif time.monotonic() - moved > STALL_SECONDS:
                raise Failed(f"nothing moved for {STALL_SECONDS:g} s")
            time.sleep(REFRESH_SECONDS)

    def _verdict(self) -> list[str]:
        """What is wrong, as far as the chain and the tables tell."""
        while self._observer.look():
            pass
        self._progress.refresh()
        problems = self._progress.missing()
        problems += [f"{kind.value} {one:#x} was answered twice" for kind, one in self._observer.answered_twice()]
        refused = self._observer.refused_by_the_verifier()
        problems += [f"public decryption {one:#x}: {why}" for one, why in list(refused.items())[:5]]
        agreed, asked = len(self._observer.consensus), self._progress.counts[Kind.PUBLIC_DECRYPTION].requested
        if agreed < asked:
            problems.append(f"the committee agreed on {agreed} of {asked} public decryptions")
        return problems

    def _report(self, problems: list[str]) -> int:
        seconds = time.monotonic() - self._began
        counts = self._progress.counts
        self._console.print(self._progress.table())
        settled = counts[Kind.PUBLIC_DECRYPTION].settled
        if settled:
            self._say(f"{settled} public decryptions were settled by the other parties before kmsd asked its Core")
        for problem in problems:
            self._console.print(problem, style="red", markup=False)
        if problems and self._world.daemon.alive():
            for words in self._progress.last_errors():
                self._console.print(f"  {words}", markup=False)
        decryptions = sum(counts[kind].accepted for kind in (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION))
        if not problems:
            self._say(
                f"all accepted, {decryptions} decryptions among them; "
                f"the verifier accepts all {len(self._observer.consensus)} public results ({seconds:.1f} s in all)"
            )
        if not self._options.keep:
            self._stop_daemon(problems)
        if self._options.json:
            print(self._progress.to_json(ok=not problems, seconds=seconds), flush=True)
        return 1 if problems else 0

    def _stop_daemon(self, problems: list[str]) -> None:
        if self._world.daemon.alive() and (status := self._world.stop_daemon()) != 0:
            problems.append(f"kmsd ended with status {status} after SIGTERM: {last_words(self._world.daemon)}")
            self._console.print(problems[-1], style="red", markup=False)

    def _keep(self) -> None:
        """Leaves everything running until Ctrl-C."""
        world = self._world
        rows = {
            "Gateway chain": f"{world.gateway.url} and {world.gateway.ws_url} (chain id {world.gateway.chain_id}"
            f", pid {world.gateway.process.pid})",
            "host chain": f"{world.host.url} (chain id {world.host.chain_id}, pid {world.host.process.pid})",
            "buckets": f"{world.buckets.url_of('bucket-1')} (pid {world.buckets.process.pid})",
            "KMS Core": f"{world.core_ready['endpoint']}, control http://127.0.0.1:{world.core_ready['control_port']}"
            f" (pid {world.core.pid})",
            "database": f"{world.database_url} (pid {world.postgres.pid})",
            "kmsd": f"http://127.0.0.1:{world.monitoring_port}/ with /metrics and /healthz (pid {world.daemon.pid})",
            "configuration": str(world.config_file),
            "logs": str(world.folder),
            "contracts and keys": str(world.folder / "deployment.json"),
        }
        for name, where in rows.items():
            self._console.print(f"{name:20}{where}", markup=False, soft_wrap=True)
        self._say(f"look:   kmsd status --watch --config {world.config_file}")
        self._say("break:  kill -STOP PID of a part, or kill -9 of kmsd; repair: kill -CONT PID (docs/sandbox.md)")
        self._say("everything is left running; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._observer.look()

    def _thread(self, work: Callable[[], Any]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._faults.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._progress.table(), refresh=True)
        elif time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            counts = (
                f"{kind.value} {count.accepted}/{count.requested}" + (f" ({count.failed} failed)" * bool(count.failed))
                for kind, count in self._progress.counts.items()
                if count.requested
            )
            self._say(f"{time.monotonic() - self._began:6.1f} s  accepted: {', '.join(counts)}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def last_words(daemon: ChildProcess) -> str:
    """The message of kmsd's last log line, with the last line of its exception, if it has one."""
    lines = daemon.stderr_path.read_text(errors="replace").strip().splitlines()
    try:
        said = json.loads(lines[-1])
        exception = [line.strip(" |+-") for line in said.get("exception", "").splitlines()]
        return ": ".join([said["message"], *[line for line in exception if line][-1:]])
    except (IndexError, ValueError, KeyError):
        return daemon.log_tail()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(Options()))
