"""`kmsd --once` on real parts: serves what waits and says so, names what it cannot serve, repeats nothing (PR6)."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from kmsd.operations.kinds import Kind
from kmsd.sandbox.world import DATABASE, Plan, World
from kmsd.wire import ids

DEADLINE = 150.0
IDLE = "4s"


class Run:
    """A world without a daemon: `kmsd --once` comes and goes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = world.observer()
        self.requester = world.requester()

    def once(self, *options: str) -> tuple[int, dict[str, Any]]:
        """One run; its exit status and its summary."""
        process = self.world.start_daemon("--once", "--json", *options)
        process.wait(DEADLINE)
        while self.observer.look():
            pass
        lines = process.stdout_path.read_text().splitlines()
        return process.returncode or 0, json.loads(lines[-1])

    def ask(self, public: int, user: int, key_id: int) -> tuple[bytes, ...]:
        """Ask for decryptions, mined when it returns; the handles of the public ones."""
        prepared = self.requester.prepare(public, user, key_id)
        self.requester._sender.run(self.requester.calls(prepared, burst=False))
        return prepared.public

    def rows(self, where: str) -> int:
        return int(self.world.postgres.execute(f"SELECT count(*) FROM kmsd_rows WHERE {where}", DATABASE))


@pytest.fixture
def run() -> Iterator[Run]:
    """Two of the other three parties answer: without ours nothing comes to an end."""
    with World(Plan(scripted=(2, 3), slow_party=None, settings={"once_idle": IDLE})) as world:
        yield Run(world)


def served(summary: dict[str, Any]) -> dict[str, int]:
    """Kinds with served requests."""
    return {kind: count for kind, count in summary["served"].items() if count}


@pytest.mark.guarantee("PR6")
@pytest.mark.guarantee("EV7")
def test_what_waits_is_served_what_cannot_be_is_named_and_nothing_is_repeated(run: Run) -> None:
    run.requester.prss_init()
    run.requester.keygen()
    status, summary = run.once()
    assert status == 0, summary
    assert served(summary) == {"prss_init": 1, "prep_keygen": 1}
    # The keygen was caused by its own answer, beyond the head of its start: said, and served by the next run.
    assert {kind: count for kind, count in summary["beyond_head"].items() if count} == {"keygen": 1}
    assert not run.observer.answers[Kind.KEYGEN]
    status, summary = run.once()
    assert (status, served(summary)) == (0, {"keygen": 1})
    (key_id,) = run.observer.active_keys

    run.ask(5, 3, key_id)
    status, summary = run.once()
    assert (status, served(summary)) == (0, {"public_decryption": 5, "user_decryption": 3})
    assert len(run.observer.answers[Kind.PUBLIC_DECRYPTION]) == 5
    assert len(run.observer.answers[Kind.USER_DECRYPTION]) == 3

    # No bucket serves anything: what cannot be done is left, by name, and the exit status says so.
    run.world.buckets.set_fault(None, "status", status=503)
    run.ask(2, 0, key_id)
    status, summary = run.once()
    assert (status, served(summary), summary["failed"]) == (3, {}, [])
    waiting = set(run.observer.requests[Kind.PUBLIC_DECRYPTION]) - set(run.observer.answers[Kind.PUBLIC_DECRYPTION])
    assert {row["id"] for row in summary["left"]} == {ids.to_core(one) for one in waiting}
    assert all(row["kind"] == "public_decryption" and row["reason"] for row in summary["left"])
    assert run.rows("status = 'under_process'") == 0

    # Everything again from the first block: only what was left is done.
    run.world.buckets.heal(None)
    status, summary = run.once("--from-block", "0")
    assert (status, served(summary)) == (0, {"public_decryption": 2})
    assert not run.observer.answered_twice()
    assert len(run.observer.answers[Kind.PUBLIC_DECRYPTION]) == 7
    assert not run.observer.refused_by_the_verifier()
    assert run.rows("status <> 'completed'") == 0

    # The Core refuses one for good: failed, by name and with its words.
    _refuse_next(run.world)
    run.ask(1, 0, key_id)
    status, summary = run.once()
    assert status == 1
    assert summary["left"] == []
    (row,) = (one for one in summary["failed"] if one["part"] == "request")
    assert row["kind"] == "public_decryption"
    assert "INVALID_ARGUMENT" in row["reason"]


def _refuse_next(world: World) -> None:
    fault = {"method": "PublicDecrypt", "count": 1, "status": "INVALID_ARGUMENT"}
    url = f"http://127.0.0.1:{world.core_ready['control_port']}/faults"
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(fault).encode(), method="POST"), timeout=10).close()
