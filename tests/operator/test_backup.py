"""Back up while it runs, restore an old copy, go on: as docs/operating.md tells it, with the same commands."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kmsd.operations.kinds import Kind
from kmsd.sandbox.progress import Progress
from kmsd.sandbox.world import DATABASE, Plan, World


def tool(world: World, name: str, *arguments: object) -> None:
    """A program of the sandbox's own PostgreSQL: an older pg_dump refuses a newer server."""
    done = subprocess.run(
        [world.postgres._bin / name, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


class Party:
    """A world with users who ask and an observer who looks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = world.observer()
        self.requester = world.requester()
        self.progress = Progress(self.observer, world.postgres, DATABASE)

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.observer.look()
            if condition():
                return
            assert time.monotonic() < deadline, (what, self.world.daemon.log_tail())
            assert self.world.daemon.alive(), self.world.daemon.log_tail()
            time.sleep(0.2)

    def ask(self, public: int, user: int) -> None:
        self.requester.send(
            self.requester.calls(self.requester.prepare(public, user, self.observer.active_keys[0]), burst=True)
        )

    def accepted(self, public: int, user: int) -> bool:
        return (
            self.observer.accepted(Kind.PUBLIC_DECRYPTION) >= public
            and self.observer.accepted(Kind.USER_DECRYPTION) >= user
        )

    def alerts(self) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.world.monitoring_port}/status", timeout=10) as answer:
            return [alert["key"] for alert in json.load(answer)["healthz"]["alerts"]]


def test_an_old_copy_goes_on_where_it_was(tmp_path: Path) -> None:
    dump = tmp_path / "kmsd.dump"
    with World(Plan(core_latency_ms=20, ceremony_ms=50)) as world:
        world.start_daemon()
        party = Party(world)
        party.requester.prss_init()
        party.requester.keygen()
        party.until("a key", lambda: party.observer.active_keys)
        party.ask(3, 2)
        party.until("answers before the dump", lambda: party.accepted(3, 2))
        tool(world, "pg_dump", "--format=custom", f"--file={dump}", world.database_url)
        party.ask(4, 3)
        party.until("answers after the dump", lambda: party.accepted(7, 5))

        assert world.stop_daemon() == 0
        world.postgres.drop_database(DATABASE)
        world.postgres.create_database(DATABASE)
        tool(world, "pg_restore", f"--dbname={world.database_url}", dump)
        world.start_daemon()
        party.until(
            "the requests of after the dump are recognised",
            lambda: (party.progress.refresh(), party.progress.counts[Kind.USER_DECRYPTION].stored)[1] == 5,
        )
        party.ask(2, 2)
        party.until("answers after the restore", lambda: party.accepted(9, 7))
        party.until("nothing waits", lambda: open_rows(world) == 0)
        assert not party.observer.answered_twice()
        assert failed_rows(world) == 0
        assert "another program uses the wallet" in party.alerts(), "as docs/operating.md says"

        assert world.stop_daemon() == 0
        world.start_daemon()
        party.until("alive", lambda: reachable(party))
        assert party.alerts() == []
        assert world.stop_daemon() == 0


def reachable(party: Party) -> bool:
    try:
        party.alerts()
    except OSError:
        return False
    return True


def open_rows(world: World) -> int:
    return int(
        world.postgres.execute(
            "SELECT count(*) FROM kmsd_rows WHERE status::text IN ('pending', 'under_process')", DATABASE
        )
    )


def failed_rows(world: World) -> int:
    return int(world.postgres.execute("SELECT count(*) FROM kmsd_rows WHERE status::text = 'failed'", DATABASE))
