"""The main job on real parts: all seven kinds from event to accepted response; stopped in the middle."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.sandbox.progress import Progress
from kmsd.sandbox.world import DATABASE, World

COMMAND = [sys.executable, "-m", "kmsd", "sandbox", "--json"]


def test_the_command_serves_all_seven_kinds() -> None:
    """`kmsd sandbox --json`: exit 0, and a last line that says that every request was accepted."""
    done = subprocess.run(
        [*COMMAND, "--public", "40", "--user", "40"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"] is True
    assert set(result["kinds"]) == {kind.value for kind in Kind}
    asked = {Kind.PUBLIC_DECRYPTION: 40, Kind.USER_DECRYPTION: 40}
    for kind in Kind:
        figures = result["kinds"][kind.value]
        expected = asked.get(kind, 1)
        assert [figures[name] for name in ("requested", "stored", "accepted", "failed")] == [expected] * 3 + [0], kind
        assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p95"] <= figures["latency_ms"]["p99"], kind


class Run:
    """A world with a key, and what happens in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = world.observer()
        self.requester = world.requester()
        self.progress = Progress(self.observer, world.postgres, DATABASE)

    def until(self, condition: Callable[[], Any], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while self.observer.look():
                pass
            self.progress.refresh()
            if condition():
                return
            assert self.world.daemon.alive(), self.world.daemon.log_tail()
            time.sleep(0.1)
        raise AssertionError(f"{self.progress.missing()} {self.progress.last_errors()}")

    def accepted(self, kind: Kind) -> int:
        return self.progress.counts[kind].accepted

    def make_key(self) -> int:
        self.requester.prss_init()
        self.requester.keygen()
        self.until(lambda: self.observer.active_keys and self.accepted(Kind.KEYGEN))
        return self.observer.active_keys[0]

    def ask(self, public: int, user: int, key_id: int) -> None:
        prepared = self.requester.prepare(public, user, key_id)
        self.requester.send(self.requester.calls(prepared, burst=True))

    def all_accepted(self, each: int) -> bool:
        kinds = (Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION)
        return all(self.accepted(kind) == self.progress.counts[kind].requested == each for kind in kinds)

    def rows(self, status: str) -> int:
        tables = [operation.request_table for operation in OPERATIONS.values()]
        tables += [one.response.table for one in OPERATIONS.values() if one.response is not None]
        parts = " + ".join(f"(SELECT count(*) FROM {table} WHERE status = '{status}')" for table in tables)
        return int(self.world.postgres.execute(f"SELECT {parts}", DATABASE))


@pytest.fixture
def run() -> Iterator[Run]:
    with World() as world:
        world.start_daemon()
        yield Run(world)


@pytest.mark.guarantee("PR1")
def test_sigterm_in_the_middle(run: Run) -> None:
    """Stopped with hundreds in hand: exit 0 and nothing left under process. Started again: all accepted, none twice."""
    key_id = run.make_key()
    run.ask(150, 150, key_id)
    run.until(lambda: run.accepted(Kind.PUBLIC_DECRYPTION) + run.accepted(Kind.USER_DECRYPTION) > 20)
    assert run.world.stop_daemon() == 0
    assert run.rows("under_process") == 0
    assert not run.all_accepted(150)
    run.world.start_daemon()
    run.until(lambda: run.all_accepted(150))
    assert not run.observer.answered_twice()
    assert not run.observer.refused_by_the_verifier()
    assert run.rows("failed") == 0
