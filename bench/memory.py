"""`python -m bench.memory`: how much memory kmsd has resident while large ciphertexts wait for a slow Core (WK4).

    many     1,000 user decryptions with ciphertexts of 4 MiB are queued; the Core takes 30 s for each
    one      a single user decryption of 96 MiB, about the most that a Core takes

Samples the daemon from outside: resident memory from /proc, the byte budget and what waits from /metrics, and the time
that `/liveness` takes. `--plot FILE` draws the course of `many` as SVG.
"""

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs
from rich.console import Console

from bench.figures import peak_resident_mib, percentile_ms
from bench.plot import Line, svg
from kmsd.operations.kinds import Kind
from kmsd.sandbox import requests
from kmsd.sandbox.accounts import RawSender, account
from kmsd.sandbox.progress import percentiles
from kmsd.sandbox.world import Plan, World

MIB = 1 << 20
CIPHERTEXT = 4 * MIB
SAMPLE_SECONDS = 0.2
STALL_SECONDS = 300.0
LARGE_HANDLES = 24
"""Ciphertexts of the single large request: 96 MiB, and just within the Gateway's limit of 2,048 bits."""


@attrs.frozen
class Sample:
    """One moment: seconds since the daemon's start, MiB resident and in the byte budget, requests at the Core."""

    seconds: float
    resident: float
    budget: float
    at_core: float


@attrs.frozen
class Course:
    """What was measured of one load.

    `liveness_ms` are percentiles and the longest of all answers of `/liveness`, which hold on an idle machine only.
    """

    requests: int
    seconds: float
    peak_resident_mib: float
    idle_resident_mib: float
    liveness_ms: dict[str, float]
    samples: tuple[Sample, ...] = attrs.field(repr=False)


class Watch:
    """Samples the daemon from a thread of its own until the block is left."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid, self._port = pid, port
        self._began = time.monotonic()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._sample, self._probe)]
        self.samples: list[Sample] = []
        self.liveness: list[float] = []

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _sample(self) -> None:
        while not self._ending.wait(SAMPLE_SECONDS):
            try:
                values = _metrics(self._get("/metrics"))
                resident = _resident_mib(self._pid)
            except (OSError, http.client.HTTPException):
                continue
            self.samples.append(
                Sample(
                    round(time.monotonic() - self._began, 2),
                    round(resident, 1),
                    round(values.get("kms_connector_ciphertext_budget_used_bytes", 0.0) / MIB, 1),
                    sum(value for name, value in values.items() if name.startswith(_AT_CORE)),
                )
            )

    def _probe(self) -> None:
        while not self._ending.wait(SAMPLE_SECONDS / 4):
            began = time.monotonic()
            try:
                self._get("/liveness")
            except (OSError, http.client.HTTPException):
                continue
            self.liveness.append(time.monotonic() - began)

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


_AT_CORE = 'kms_connector_in_flight{stage="await"'


def _metrics(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines if name.startswith("kms_connector_")}


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / MIB


class Scene:
    """One world with a key, in which kmsd answers alone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._observer = world.observer()
        self._requester = world.requester(ciphertext_bytes=CIPHERTEXT)

    def make_key(self) -> None:
        """PRSS and a key, with the other parties' help; afterwards these are silent."""
        self._world.start_daemon()
        self._requester.prss_init()
        self._requester.keygen()
        self._until(lambda: bool(self._observer.active_keys))
        self._world.committee.stop()
        self._world.stop_daemon()

    def many(self, count: int) -> Course:
        """`count` requests that are queued before kmsd starts."""
        prepared = self._requester.prepare(0, count, self._observer.active_keys[0])
        self._requester.send(self._requester.calls(prepared, burst=False))
        self._until(lambda: len(self._observer.requests[Kind.USER_DECRYPTION]) == count)
        return self._course(count)

    def one(self) -> Course:
        """One request of LARGE_HANDLES ciphertexts."""
        world, d = self._world, self._world.deployment
        prepared = self._requester.prepare(0, LARGE_HANDLES, self._observer.active_keys[0])
        handles = [handle for part in prepared.user for handle in part][:LARGE_HANDLES]
        now = int(world.gateway.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        before = self._observer.accepted(Kind.USER_DECRYPTION)
        call = requests.user_request(d, self._requester.user, handles, now)
        RawSender(account("requester"), world.gateway.chain_id, world.gateway.rpc).run([call])
        return self._course(before + 1)

    def _course(self, accepted: int) -> Course:
        before = self._observer.accepted(Kind.USER_DECRYPTION)
        daemon = self._world.start_daemon()
        began = time.monotonic()
        with Watch(daemon.pid, self._world.monitoring_port) as watch:
            self._until(lambda: self._observer.accepted(Kind.USER_DECRYPTION) == accepted)
            seconds = time.monotonic() - began
            time.sleep(5 * SAMPLE_SECONDS)
            peak = peak_resident_mib(daemon.pid)
        self._world.stop_daemon()
        return Course(
            requests=accepted - before,
            seconds=round(seconds, 1),
            peak_resident_mib=round(peak, 1),
            idle_resident_mib=min((one.resident for one in watch.samples), default=0.0),
            liveness_ms=percentile_ms(percentiles(watch.liveness) | {"longest": max(watch.liveness, default=0.0)}),
            samples=tuple(watch.samples),
        )

    def _until(self, condition: Callable[[], bool]) -> None:
        moved, state = time.monotonic(), -1
        while not condition():
            while self._observer.look():
                pass
            now = sum(self._observer.accepted(kind) for kind in Kind)
            if now != state:
                moved, state = time.monotonic(), now
            if time.monotonic() - moved > STALL_SECONDS:
                raise RuntimeError(f"nothing moves: {now} answers accepted; {self._world.daemon.log_tail()}")
            time.sleep(SAMPLE_SECONDS)


def draw(course: Course) -> str:
    """The course as SVG."""
    return svg(
        f"{course.requests:,} user decryptions with 4 MiB ciphertexts, a Core that takes 30 s",
        "seconds since the start of kmsd",
        [
            Line("resident memory, MiB", "#1f4e9c", [(one.seconds, one.resident) for one in course.samples]),
            Line("ciphertexts in memory, MiB", "#c0392b", [(one.seconds, one.budget) for one in course.samples]),
            Line("requests at the Core", "#9aa0a6", [(one.seconds, one.at_core) for one in course.samples]),
        ],
        mark=("400 MiB", 400.0),
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 when it stalled or memory went beyond its bounds."""
    parser = argparse.ArgumentParser(prog="bench.memory", description="measures kmsd's resident memory")
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="requests of `many` (0: leave it out)")
    parser.add_argument("--core-seconds", type=float, default=30.0, metavar="S", help="what the Core takes")
    parser.add_argument("--one", action="store_true", help="also the single request of 96 MiB")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the course of `many` there, as SVG")
    parser.add_argument("--json", action="store_true", help="the last line is JSON")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    courses: dict[str, tuple[Course, float]] = {}
    with World(Plan(core_latency_ms=1000 * options.core_seconds), console.print) as world:
        scene = Scene(world)
        scene.make_key()
        if options.requests:
            courses["many"] = scene.many(options.requests), 400.0
        if options.one:
            courses["one"] = scene.one(), 512.0
    for name, (course, bound) in courses.items():
        console.print(f"{name}: {course} of {bound:g} MiB")
    if options.plot and "many" in courses:
        options.plot.write_text(draw(courses["many"][0]))
    if options.json:
        plain = {
            name: attrs.asdict(course, filter=lambda field, _: field.name != "samples")
            for name, (course, _) in courses.items()
        }
        print(json.dumps({"memory": plain}), flush=True)
    return int(any(course.peak_resident_mib >= bound for course, bound in courses.values()))


if __name__ == "__main__":
    sys.exit(main())
