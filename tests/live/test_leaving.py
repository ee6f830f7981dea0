"""How kmsd ends with work in hand: in its grace, at a second signal, and while the database is away (PR1)."""

import json
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmsd.operations.kinds import Kind
from kmsd.sandbox.observer import Observer
from kmsd.sandbox.world import DATABASE, Plan, World

ASKED = 6
PATIENCE = 90.0


class Run:
    """A world with a key, whose Core can be told to keep its results to itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = world.observer()
        self.requester = world.requester()

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.world.daemon.log_tail()}"
            time.sleep(0.1)

    def look(self) -> Observer:
        while self.observer.look():
            pass
        return self.observer

    def core(self, **fault: Any) -> None:
        url = f"http://127.0.0.1:{self.world.core_ready['control_port']}/faults"
        request = urllib.request.Request(url, json.dumps(fault).encode(), method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def rows(self, where: str) -> int:
        return int(self.world.postgres.execute(f"SELECT count(*) FROM kmsd_rows WHERE {where}", DATABASE))

    def in_hand(self) -> None:
        """Wait until every request is at the Core."""
        at_work = "status = 'under_process' AND already_sent"
        self.until(lambda: self.rows(at_work) == ASKED, "all at the Core")


@pytest.fixture
def run() -> Iterator[Run]:
    with World(Plan(scripted=(2, 3), slow_party=None, settings={"shutdown_grace": "2s"})) as world:
        world.start_daemon()
        yield Run(world)


@pytest.mark.guarantee("PR1")
@pytest.mark.guarantee("QU1")
def test_what_is_in_hand_is_finished_given_back_or_reclaimed(run: Run) -> None:
    world = run.world
    run.requester.prss_init()
    run.requester.keygen()
    run.until(lambda: run.look().active_keys, "a key")
    run.core(method="GetPublicDecryptionResult", count=-1, hang=True)
    prepared = run.requester.prepare(ASKED, 0, run.observer.active_keys[0])
    run.requester.send(run.requester.calls(prepared, burst=True))
    run.in_hand()

    # The grace is not enough: exit 0, and everything is given back.
    assert world.stop_daemon() == 0
    assert run.rows("status = 'under_process'") == 0
    assert run.rows("status = 'pending' AND lease_owner IS NULL") == ASKED
    assert int(world.postgres.execute("SELECT count(*) FROM kmsd_owners", DATABASE)) == 0

    # A second signal ends it in the middle of its grace: the rows are still its own.
    world.start_daemon()
    run.in_hand()
    world.daemon.send_signal(signal.SIGTERM)
    stops = b"SIGTERM: stopping"
    run.until(lambda: world.daemon.stderr_path.read_bytes().count(stops) == 2, "stopping once more")
    world.daemon.send_signal(signal.SIGTERM)
    assert world.daemon.wait(10) == 128 + signal.SIGTERM
    assert run.rows("status = 'under_process'") == ASKED

    # Its next life takes them back at once. Without a database it cannot give them back, and says so by its status.
    world.start_daemon()
    run.until(lambda: run.rows("status = 'under_process' AND lease_owner = 3") == ASKED, "taken back")
    world.postgres.stop(immediate=True)
    assert world.stop_daemon() == 75
    world.postgres.start()
    assert run.rows("status = 'under_process'") == ASKED

    # And the next life finishes them, each once.
    run.core(reset=True)
    world.start_daemon()
    run.until(lambda: run.look().accepted(Kind.PUBLIC_DECRYPTION) == ASKED, "all answered")
    assert not run.observer.answered_twice()
    run.until(lambda: run.rows("status <> 'completed'") == 0, "completed")
    assert world.stop_daemon() == 0
