"""The life of a key on the whole party: generated, activated by the chain, reshared, then decided on by its operator;
the running daemon obeys, says so in its log, and shows it on its page.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmsd.operations.kinds import Kind
from kmsd.sandbox.progress import Progress
from kmsd.sandbox.world import DATABASE, Plan, World


class Party:
    """A world with a running kmsd."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = world.observer()
        self.requester = world.requester()
        self.progress = Progress(self.observer, world.postgres, DATABASE)

    def until(self, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
        """Wait until something is so; it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while self.observer.look():
                pass
            self.progress.refresh()
            if found := condition():
                return found
            assert self.world.daemon.alive(), self.world.daemon.log_tail()
            time.sleep(0.1)
        raise AssertionError(f"{self.progress.missing()} {self.progress.last_errors()}")

    def accepted(self, kind: Kind) -> int:
        """Answers of ours that the Gateway took."""
        return self.progress.counts[kind].accepted

    def ask(self, key_id: int) -> None:
        """One public decryption under the key."""
        self.requester.send(self.requester.calls(self.requester.prepare(1, 0, key_id), burst=True))

    def kmsd(self, *arguments: str) -> Any:
        """What a command with --json says."""
        done = subprocess.run(
            [sys.executable, "-m", "kmsd", "-c", str(self.world.config_file), *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def page(self) -> Any:
        """What the status page is fed with."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.world.monitoring_port}/overview", timeout=10) as answer:
            return json.loads(answer.read())


@pytest.fixture
def party() -> Iterator[Party]:
    with World(Plan(settings={"gauge_update_interval": "500ms"})) as world:
        world.start_daemon()
        yield Party(world)


def test_the_life_of_a_key(party: Party) -> None:
    party.requester.prss_init()
    party.requester.keygen()
    party.requester.crsgen()
    party.until(lambda: party.observer.active_keys and party.accepted(Kind.KEYGEN) and party.accepted(Kind.CRSGEN))
    key_id = party.observer.active_keys[0]
    party.requester.key_reshare(key_id)
    party.until(lambda: party.accepted(Kind.KEY_RESHARE))
    known = {row["kind"]: row for row in party.until(lambda: [r for r in party.page()["keys"] if r["activated_at"]])}
    assert known["key"]["state"] == "active"
    assert known["key"]["name"] == "key:1"
    (key,) = party.kmsd("keys", "show", "key:1")["keys"]
    for instant in ("prepared_at", "requested_at", "generated_at", "activated_at", "reshared_at"):
        assert time.time() - 300 < key[instant] <= time.time() + 5, instant
    assert {one["key_type"] for one in key["digests"]} == {"Server", "Public"}
    assert key["storage_urls"]
    assert party.kmsd("keys", "show", "crs:1")["keys"][0]["crs_digest"].startswith("0x")

    # Suspended: decryption goes on.
    assert party.kmsd("keys", "set", "key:1", "suspended", "--reason", "audit", "--yes")["ok"]
    party.until(lambda: party.page()["keys"][0]["state"] == "suspended")
    party.ask(key_id)
    party.until(lambda: party.accepted(Kind.PUBLIC_DECRYPTION) == 1)

    # Destroyed: a decryption waits, in words.
    for state in ("deactivated", "destroyed"):
        assert party.kmsd("keys", "set", "key:1", state, "--reason", f"{state} by a test", "--yes")["ok"]
    party.until(lambda: party.page()["keys"][0]["state"] == "destroyed")
    time.sleep(6.0)  # for so long the worker believes what the registry last said
    party.ask(key_id)

    def words() -> str:
        stories = party.kmsd("show", "pub:2").get("stories", [])
        return str(stories[0]["request"]["last_error"] or "") if stories else ""

    party.until(lambda: party.progress.counts[Kind.PUBLIC_DECRYPTION].requested == 2)
    said = party.until(words)
    assert "which is destroyed (set by " in said
    assert "destroyed by a test" in said
    assert party.accepted(Kind.PUBLIC_DECRYPTION) == 1
    assert not party.kmsd("keys", "set", "key:1", "active", "--reason", "x", "--yes")["ok"]
    told = party.world.daemon.stderr_path.read_text()
    assert "key:1 is suspended now, it was active" in told
    assert any("is destroyed now" in line["words"] for line in party.page()["recent"])
